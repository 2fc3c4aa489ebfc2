"""The engine's own trainer."""

from __future__ import annotations

from typing import Any

import numpy as np

from aevb_engine import bench
from aevb_engine.operation import Buffer
from aevb_engine.training.step import BLOCK, ResidentRows


class Engine:
    """``block`` trains and returns the bound of every step; ``floor`` times the matrix products alone."""

    def __init__(self, spec: dict[str, Any], data: Any, threads: int) -> None:
        self.trainer = bench.trainer(bench.WORKLOADS[spec["name"]], data, threads)
        self.data = data
        self.note = ""
        self.products: Any = None
        self.sampler: Any = None

    def first(self) -> float:
        """One step; the seconds that more than one took."""
        self.trainer.advance(1)
        return 0.0

    def settle(self) -> None:
        """Nothing is left to choose."""

    def block(self, steps: int) -> Any:
        parts = [self.trainer.advance(min(BLOCK, steps - at))[:, 2] for at in range(0, steps, BLOCK)]
        return np.concatenate(parts)

    def floor(self) -> float:
        if self.products is None:
            self.products = bench.products(self.trainer)
            bench.floor_seconds(self.products)
        return bench.floor_seconds(self.products, 0.2)

    def evaluate(self, rows: int, samples: int) -> float:
        """Mean log-likelihood of the first rows by importance sampling."""
        from aevb_engine.evaluation.importance import ImportanceSampler

        if self.sampler is None:
            made = self.trainer
            data = ResidentRows(Buffer("data", self.data[:rows]))
            self.sampler = ImportanceSampler(made.model, data, samples, threads=made.settings.threads)
        return float(self.sampler.run().log_likelihood.mean())
