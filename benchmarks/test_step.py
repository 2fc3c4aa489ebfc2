"""Time of a whole training step, and its ratio to the matrix products alone in the same process.

python -m pytest benchmarks --benchmark-only
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import threadpoolctl

STEPS = 20


def floor_seconds(trainer: Any) -> float:
    """Median time of the matrix products: three for each weight, two for the first layer; BLAS at one thread."""
    rng = np.random.default_rng(0)
    batch = trainer.settings.batch
    named = trainer.model.parameters.named
    samples = trainer.settings.samples
    jobs = []
    for parameter in named.values():
        if len(parameter.shape) != 2:
            continue
        k, c = parameter.shape
        rows = batch * (samples if parameter.name.startswith("decoder") else 1)
        x, w, y = (rng.random(s, np.float32) for s in ((rows, k), (k, c), (rows, c)))
        dx, dw, dy = (np.empty_like(a) for a in (x, w, y))
        jobs.append((x, w, dy))
        jobs.append((x.T, y, dw))
        if parameter.name != "encoder.1.weight":
            jobs.append((y, w.T, dx))
    times = []
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        for _ in range(30):
            start = time.perf_counter()
            for a, b, out in jobs:
                np.matmul(a, b, out=out)
            times.append(time.perf_counter() - start)
    return float(np.median(times))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["W1", "W2", "W3", "W4", "W5"])
def test_step(benchmark: Any, trainer_of: Callable[[str, int], Any], name: str, threads: int) -> None:
    """``extra_info`` holds us a step and the ratio to the floor at one thread."""
    trainer = trainer_of(name, threads)
    benchmark.pedantic(trainer.advance, args=(STEPS,), rounds=10, warmup_rounds=1)
    step = benchmark.stats.stats.median / STEPS
    benchmark.extra_info["us_per_step"] = round(step * 1e6, 1)
    benchmark.extra_info["ratio_to_products"] = round(step / floor_seconds(trainer), 2)
