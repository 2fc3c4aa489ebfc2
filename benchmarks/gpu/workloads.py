"""The workloads W1 to W5 of the step benchmarks, on any backend."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np

SMALL = {"dim": 40, "hidden": (8,), "latent": 3, "batch": 10}


@cache
def workloads(small: bool) -> dict[str, dict[str, Any]]:
    """As ``aevb_engine.bench`` has them."""
    from aevb_engine.bench import WORKLOADS

    wanted = ("W3", "W5") if small else tuple(WORKLOADS)
    return {name: asdict(WORKLOADS[name]) | (SMALL if small else {}) for name in wanted}


def trainer(name: str, backend: Any, small: bool = False, threads: int = 1, plan: Any = None) -> Any:
    """A trainer of one workload on drawn data, not yet started; without ``plan`` on the eager path."""
    from aevb_engine import registry
    from aevb_engine.backend.base import Plan
    from aevb_engine.model.model import Architecture, Model
    from aevb_engine.operation import Buffer
    from aevb_engine.training.step import ResidentRows
    from aevb_engine.training.trainer import Settings, Trainer

    w = workloads(small)[name]
    data = (np.random.default_rng(0).random((5000, w["dim"])) < 0.2).astype(np.uint8)
    likelihood = registry.create("decoder", w["decoder"], w["options"])
    model = Model(Architecture(w["dim"], w["latent"], w["hidden"]), likelihood, backend)
    model.parameters.initialize(0)
    optimizer = registry.create("optimizer", w["optimizer"])
    settings = Settings(
        objective=w["objective"], samples=w["samples"], batch=w["batch"], lr=optimizer.default_lr, threads=threads,
        plan=plan or Plan(),
    )  # fmt: skip
    return Trainer(model, optimizer, ResidentRows(Buffer("data", backend.upload(data))), settings)
