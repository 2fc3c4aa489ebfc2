"""The workloads of ``aevb_engine.bench``, ready to be timed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aevb_engine import bench
from aevb_engine.training.trainer import Trainer


def build(name: str, threads: int) -> Trainer:
    """A trainer of one workload, warm."""
    workload = bench.WORKLOADS[name]
    trainer = bench.trainer(workload, bench.draw(workload), threads)
    trainer.advance(20)
    return trainer


@pytest.fixture
def trainer_of() -> Callable[[str, int], Trainer]:
    return build
