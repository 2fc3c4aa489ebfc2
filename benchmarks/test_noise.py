"""Cost of a random number: normal, uniform, and 32-bit words; ``extra_info`` holds ns a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aevb_engine.kernels.noise import Noise


@pytest.mark.parametrize("kind", ["normal", "uniform", "words"])
def test_noise(benchmark: Any, kind: str) -> None:
    noise = Noise(np, 0, "noise")
    out = np.empty((32, 100, 20), np.uint32 if kind == "words" else np.float32)
    benchmark(getattr(noise, kind), 0, 0, out)
    benchmark.extra_info["ns_per_number"] = round(benchmark.stats.stats.median / out.size * 1e9, 2)
