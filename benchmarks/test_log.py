"""Rows of the metrics log appended one by one: the target is 5 us a row of 16 numbers.

python -m pytest benchmarks/test_log.py --benchmark-only
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aevb_engine.experiment.log import MetricsLog


def test_a_row(benchmark: Any, tmp_path: Path) -> None:
    names = ("step", *(f"c{i}" for i in range(15)))
    row = np.zeros(16)
    with MetricsLog.create(tmp_path / "metrics.h5", {"train": names}) as metrics:
        benchmark(metrics.append, "train", row)
