"""Time of a whole training step, and its ratio to the matrix products alone in the same process.

python -m pytest benchmarks --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aevb_engine.bench import floor_seconds, products

STEPS = 20


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["W1", "W2", "W3", "W4", "W5"])
def test_step(benchmark: Any, trainer_of: Callable[[str, int], Any], name: str, threads: int) -> None:
    """``extra_info`` holds us a step and the ratio to the products at one thread."""
    trainer = trainer_of(name, threads)
    benchmark.pedantic(trainer.advance, args=(STEPS,), rounds=10, warmup_rounds=1)
    step = benchmark.stats.stats.median / STEPS
    benchmark.extra_info["us_per_step"] = round(step * 1e6, 1)
    benchmark.extra_info["ratio_to_products"] = round(step / floor_seconds(products(trainer)), 2)
