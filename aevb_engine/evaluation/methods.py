"""Estimators of log p(x) under one interface: what each needs, what it gives, and on which side of the truth it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aevb_engine.errors import UsageError, suggest
from aevb_engine.evaluation.ais import TEMPERATURES, AnnealedImportanceSampler
from aevb_engine.evaluation.estimate import Estimate
from aevb_engine.evaluation.importance import ImportanceSampler
from aevb_engine.evaluation.marginal import MOST_DIMENSIONS, MarginalSampler
from aevb_engine.model.model import Model
from aevb_engine.training.step import ResidentRows

Array = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Method:
    """A way to estimate log p(x): its defaults, and the statement that holds of its result."""

    title: str
    samples: int  # default
    samples_are: str
    rows: int | None  # default number of rows; None is all
    needs_encoder: bool
    side: str  # "lower" or "upper"
    statement: str
    most_latent: int | None = None  # dimensions that it is meaningful in


METHODS: dict[str, Method] = {
    "is": Method(
        "importance sampling",
        5000,
        "samples from q(z | x) a data point",
        None,
        True,
        "lower",
        "a stochastic lower bound: E[L_K] <= log p(x) for every K (Burda et al. 2015, theorem 1); one draw "
        "may lie above",
    ),
    "ais": Method(
        "annealed importance sampling",
        16,
        "chains a data point",
        100,
        False,
        "lower",
        "a stochastic lower bound: E[w] = p(x), so E[log mean w] <= log p(x) (Neal 2001); chains that fall behind the "
        "temperatures make it low",
    ),
    "hmc": Method(
        "posterior samples (KW appendix D)",
        500,
        "draws a chain, 8 chains a data point",
        100,
        False,
        "upper",
        "an upper estimate: above log p(x) in expectation only for exact, independent posterior samples, which HMC "
        "approaches but does not give; data points whose chains have not met are refused",
        MOST_DIMENSIONS,
    ),
}


@dataclass(frozen=True)
class Result:
    """log p(x) of rows (N,) in nats, with diagnostics by row; None where there is none, NaN where refused."""

    method: str
    samples: int
    temperatures: int | None  # of ``ais``
    values: Array
    error: Array  # Monte Carlo standard error
    effective_samples: Array
    pareto_k: Array
    acceptance: Array | None = None
    r_hat: Array | None = None
    reasons: tuple[str, ...] = ()  # of the rows that were refused
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
    temperatures: int | None = None,
    seed: int = 0,
    threads: int = 1,
    progress: Progress | None = None,
) -> Result:
    """log p(x) of resident rows (N, D) by a method of METHODS; UsageError for an unknown one or numbers below 1.

    ``temperatures``: those that ``ais`` goes through.
    """
    check_method(name)
    if temperatures is not None and name != "ais":
        raise UsageError(f"temperatures={temperatures}: '{name}' has none; ais has")
    if name == "ais" and temperatures is None:
        temperatures = TEMPERATURES
    count = METHODS[name].samples if samples is None else samples
    if count < 1:
        raise UsageError(f"samples {count} for '{name}': at least 1 is needed")
    began = time.perf_counter()
    found = _estimator(name, model, data, count, temperatures, seed, threads).run(progress)
    refused = getattr(found, "reason", np.zeros(0, str))
    return Result(
        name,
        count,
        temperatures,
        found.log_likelihood,
        found.standard_error,
        found.effective_samples,
        found.khat,
        getattr(found, "acceptance", None),
        getattr(found, "rhat", None),
        _reasons(found.log_likelihood, refused),
        time.perf_counter() - began,
    )


def _reasons(values: Array, refused: npt.NDArray[np.str_]) -> tuple[str, ...]:
    """Why each row without a finite estimate has none."""
    given = refused if len(refused) else np.full(len(values), "")
    return tuple(str(r) or "no finite estimate" for v, r in zip(values, given, strict=True) if not np.isfinite(v))


def _estimator(
    name: str, model: Model, data: ResidentRows, samples: int, temperatures: int | None, seed: int, threads: int
) -> _Estimator:
    if name == "is":
        return ImportanceSampler(model, data, samples, seed=seed, threads=threads)
    if temperatures is not None:
        return AnnealedImportanceSampler(
            model, data, temperatures=temperatures, chains=samples, seed=seed, threads=threads
        )
    return MarginalSampler(model, data, samples=samples, seed=seed, threads=threads)


class _Estimator(Protocol):
    def run(self, progress: Progress | None = None) -> Estimate: ...
