"""What an estimator of log p(x) says of each data point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from aevb_engine.evaluation.diagnostics import KHAT_LIMIT, tail_khat, tail_size
from aevb_engine.evaluation.diagnostics import log_mean_exp_error as error_of

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Estimate:
    """log p(x) of N data points in nats, with the health of its weights, (N,) each.

    ``standard_error``: of ``log_likelihood``, by the delta method; it knows nothing of weights that were never drawn,
    which is what ``khat`` > 0.7 warns of. ``effective_samples``: of the K weights, 1 to K.
    """

    log_likelihood: Array
    standard_error: Array
    effective_samples: Array
    khat: Array

    @property
    def suspect(self) -> Array:
        """(N,) where k-hat is above 0.7: the standard error is not to be believed."""
        return self.khat > KHAT_LIMIT

    def summary(self) -> dict[str, float]:
        """Mean over data points, its standard error from Monte Carlo alone, and how many points are suspect.

        The error of the sampling of data points, sd / sqrt N, is another matter: ``sampling_se``.
        """
        n = len(self.log_likelihood)
        known = self.khat[~np.isnan(self.khat)]
        return {
            "log_likelihood": float(self.log_likelihood.mean()),
            "monte_carlo_se": float(np.sqrt((self.standard_error**2).sum()) / n),
            "sampling_se": standard_error(self.log_likelihood),
            "suspect": int(self.suspect.sum()),
            "largest_khat": float(known.max()) if known.size else float("nan"),
        }

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Parts of a data set as one."""
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})


class RunningWeights:
    """Sums of w and w^2 relative to the largest log-weight so far, and the tail of the largest, one row a data point.

    ``expected``: how many weights a row will get, which fixes the length of the tail; 0 keeps none.
    """

    def __init__(self, rows: int, expected: int = 0) -> None:
        self.largest = np.full(rows, -np.inf)
        self.total = np.zeros(rows)
        self.squares = np.zeros(rows)
        self.count = 0
        self.tail = np.full((rows, tail_size(expected) + 1 if expected else 0), -np.inf)

    def add(self, logw: npt.NDArray[np.float64]) -> None:
        """Take in a chunk of log-weights (rows, samples)."""
        largest = np.maximum(self.largest, logw.max(axis=1))
        with np.errstate(invalid="ignore"):  # nothing but weights of zero so far
            shift = np.nan_to_num(np.exp(self.largest - largest))
            weights = np.where(np.isneginf(logw), 0, np.exp(logw - largest[:, None]))
        self.total = self.total * shift + weights.sum(axis=1)
        self.squares = self.squares * shift**2 + (weights**2).sum(axis=1)
        self.largest = largest
        self.count += logw.shape[1]
        kept = self.tail.shape[1]
        if kept:
            both = np.concatenate([self.tail, logw], axis=1)
            self.tail = np.partition(both, both.shape[1] - kept, axis=1)[:, -kept:]

    def log_mean(self) -> npt.NDArray[np.float64]:
        """log 1/K sum w."""
        with np.errstate(divide="ignore"):
            mean: npt.NDArray[np.float64] = self.largest + np.log(self.total / self.count)
        return mean

    def effective_samples(self) -> npt.NDArray[np.float64]:
        """(sum w)^2 / sum w^2."""
        with np.errstate(invalid="ignore"):
            return np.minimum(self.total**2 / self.squares, self.count)

    def estimate(self) -> Estimate:
        """All of it; k-hat is NaN where no tail was kept."""
        effective = self.effective_samples()
        khat = tail_khat(self.tail) if self.tail.shape[1] else np.full(len(effective), np.nan)
        return Estimate(self.log_mean(), error_of(effective, self.count), effective, khat)


def finite(value: float) -> float | None:
    """The number as a record holds it: None where it is infinite or not known."""
    return float(value) if np.isfinite(value) else None


def standard_error(values: Array) -> float:
    """Of the mean of values (N,); NaN of a single one, and where one is not finite."""
    n = len(values)
    if n < 2 or not np.isfinite(values).all():
        return math.nan
    return float((values - values[0]).std(ddof=1) / math.sqrt(n))  # exactly 0 where all are equal
