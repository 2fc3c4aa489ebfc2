"""Workloads W1 to W4 of the step benchmarks, on data drawn here (the time does not depend on the pixels)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aevb_engine import registry
from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.model.model import Architecture, Model
from aevb_engine.operation import Buffer
from aevb_engine.training.step import ResidentRows
from aevb_engine.training.trainer import Settings, Trainer

WORKLOADS: dict[str, dict[str, Any]] = {
    "W1": {"dim": 784, "hidden": (100,), "latent": 2, "optimizer": "adagrad"},
    "W2": {"dim": 784, "hidden": (500,), "latent": 20, "optimizer": "adam"},
    "W3": {"dim": 560, "hidden": (200,), "latent": 5, "optimizer": "adam", "decoder": "gaussian"},
    "W4": {"dim": 784, "hidden": (500,), "latent": 20, "optimizer": "adam", "batch": 1000},
    "W5": {
        "dim": 784, "hidden": (200, 200), "latent": 50, "optimizer": "adam", "batch": 20,
        "objective": "iwae", "samples": 5,
    },
}  # fmt: skip


def build(name: str, threads: int) -> Trainer:
    """A trainer of one workload, warm."""
    w = WORKLOADS[name]
    rng = np.random.default_rng(0)
    data = (rng.random((5000, w["dim"])) < 0.2).astype(np.uint8)
    model = Model(
        Architecture(w["dim"], w["latent"], w["hidden"]),
        registry.create("decoder", w.get("decoder", "bernoulli")),
        NumpyBackend(threads),
    )
    model.parameters.initialize(0)
    optimizer = registry.create("optimizer", w["optimizer"])
    settings = Settings(
        objective=w.get("objective", "elbo"),
        samples=w.get("samples", 1),
        batch=w.get("batch", 100),
        lr=optimizer.default_lr,
        threads=threads,
    )
    trainer = Trainer(model, optimizer, ResidentRows(Buffer("data", data)), settings)
    trainer.advance(20)
    return trainer


@pytest.fixture
def trainer_of() -> Callable[[str, int], Trainer]:
    return build
