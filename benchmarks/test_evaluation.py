"""Time of a log-likelihood: importance sampling with 5,000 samples a data point of 784-500-20 (W2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aevb_engine import bench
from aevb_engine.evaluation.importance import ImportanceSampler
from aevb_engine.operation import Buffer
from aevb_engine.training.step import ResidentRows

SAMPLES, ROWS = 5000, 16


@pytest.mark.parametrize("threads", [1, 2])
def test_importance_sampling(benchmark: Any, trainer_of: Callable[[str, int], Any], threads: int) -> None:
    """``extra_info`` holds us a decoded sample and its ratio to the decoder's two products at one thread."""
    trainer = trainer_of("W2", threads)
    data = ResidentRows(Buffer("data", bench.draw(bench.WORKLOADS["W2"])[:ROWS]))
    sampler = ImportanceSampler(trainer.model, data, SAMPLES, threads=threads)
    benchmark.pedantic(sampler.run, rounds=3, warmup_rounds=1)
    sample = benchmark.stats.stats.median / (SAMPLES * ROWS)
    benchmark.extra_info["us_per_sample"] = round(sample * 1e6, 2)
    floor = bench.floor_seconds(bench.decoder_products(trainer.model, 2000)) / 2000
    benchmark.extra_info["ratio_to_products"] = round(sample / floor, 2)
