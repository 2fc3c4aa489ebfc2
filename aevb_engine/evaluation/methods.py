"""Estimators of log p(x) under one interface: what each needs, what it gives, and on which side of the truth it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.errors import UsageError, suggest
from aevb_engine.evaluation.importance import ImportanceSampler
from aevb_engine.model.model import Model
from aevb_engine.training.step import ResidentRows

Array = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Method:
    """A way to estimate log p(x): its defaults, and the statement that holds of its result."""

    title: str
    samples: int  # default of --samples
    samples_are: str
    rows: int | None  # default number of rows; None is all
    needs_encoder: bool
    side: str  # "lower" or "upper"
    statement: str


METHODS: dict[str, Method] = {
    "is": Method(
        "importance sampling",
        5000,
        "samples from q(z | x) a data point",
        None,
        True,
        "lower",
        "a lower bound in expectation: E[L_K] <= log p(x) for every K (Burda et al. 2015, theorem 1); one draw may "
        "lie above it",
    ),
}


@dataclass(frozen=True)
class Estimate:
    """log p(x) of rows (N,) in nats, its Monte Carlo error and diagnostics by row; None where there is none."""

    method: str
    settings: Mapping[str, int | float]
    values: Array
    error: Array | None = None
    effective_samples: Array | None = None
    pareto_k: Array | None = None
    acceptance: Array | None = None
    r_hat: Array | None = None
    seconds: float = field(default=0.0, compare=False)


def check_method(name: str) -> None:
    """UsageError for an unknown method."""
    if name not in METHODS:
        raise UsageError(f"unknown method '{name}': {suggest(name, METHODS)}")


def estimate(
    name: str,
    model: Model,
    data: ResidentRows,
    *,
    samples: int | None = None,
    seed: int = 0,
    threads: int = 1,
    progress: Progress | None = None,
) -> Estimate:
    """log p(x) of resident rows (N, D) by a method of METHODS; UsageError for an unknown one or samples below 1."""
    check_method(name)
    count = METHODS[name].samples if samples is None else samples
    if count < 1:
        raise UsageError(f"--samples {count}: at least 1 is needed")
    began = time.perf_counter()
    fields = _ESTIMATORS[name](model, data, count, seed, threads, progress)
    return Estimate(name, **fields, seconds=time.perf_counter() - began)


def _importance(
    model: Model, data: ResidentRows, samples: int, seed: int, threads: int, progress: Progress | None
) -> dict[str, Any]:
    rows = ImportanceSampler(model, data, samples, seed=seed, threads=threads).run(progress)
    values, effective = rows[:, 0], rows[:, 1]
    # Delta method: Var(log mean w) = Var(w) / (K E[w]^2) = 1 / ESS - 1 / K.
    error = np.sqrt(np.maximum(1 / effective - 1 / samples, 0)) if samples > 1 else None
    return {
        "settings": {"samples": samples},
        "values": values,
        "error": error,
        "effective_samples": effective if samples > 1 else None,
    }


_ESTIMATORS: dict[str, Callable[..., dict[str, Any]]] = {"is": _importance}
