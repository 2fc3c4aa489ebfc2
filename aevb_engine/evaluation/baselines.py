"""What a model without latent variables, or a linear one, says of the same data: baselines for a log-likelihood.

Each is fitted to the training rows in closed form and scored on other rows, in nats a data point with its normalising
constant. Rows are read in chunks and multiplied by ``scale``, as the model sees them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.evaluation.latent import RunningMoments

LOG_2PI = math.log(2 * math.pi)
CHUNK = 2000
SMOOTHING = 1.0  # Laplace: one row of ones and one of zeros added to the training rows
LARGEST_DIM = 4096  # of a dense covariance
# Least variance of a column, as a share of the mean one, where data are not known to be rounded.
LEAST_VARIANCE = 1e-6

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[Any]


@dataclass(frozen=True)
class Baseline:
    """A fitted density: ``log_prob(rows)`` (N, D) -> (N,) nats, with the number of fitted numbers."""

    name: str
    parameters: int
    note: str
    log_prob: Callable[[Array], Array]

    def score(self, rows: Rows, scale: float = 1.0) -> Array:
        """log p of each row (N,) in nats."""
        return np.concatenate([self.log_prob(chunk) for chunk in _chunks(rows, scale)])


def bernoulli(rows: Rows, *, scale: float = 1.0, smoothing: float = SMOOTHING) -> Baseline:
    """Independent Bernoulli columns: p_d = (n_d + s) / (N + 2 s), with n_d the sum of column d (Laplace smoothing, s).

    Without smoothing a test pixel that is never one in training would have probability zero. Rows may be
    probabilities: intensities / 255 of dynamic binarization give the expected counts.
    """
    moments = _moments(rows, scale)
    n = moments.count
    p = (moments.mean * n + smoothing) / (n + 2 * smoothing)
    one, zero = np.log(p), np.log1p(-p)

    def log_prob(x: Array) -> Array:
        return x @ one + (1 - x) @ zero

    return Baseline("independent Bernoulli", rows.shape[1], f"Laplace smoothing {smoothing:g}", log_prob)


def gaussian(rows: Rows, *, scale: float = 1.0, least_variance: float | None = None) -> Baseline:
    """Independent Gaussian columns, maximum likelihood: mean and variance (divided by N), not below a least variance.

    A column that is constant in training has a density without bound; ``least_variance`` holds it. None gives such
    columns, and no others, a millionth of the columns' mean variance.
    """
    moments = _moments(rows, scale)
    least = _least(moments.variance(), least_variance)
    mean, variance = moments.mean, moments.variance()
    # Of columns in different units the mean variance says nothing: only what is constant needs it.
    variance = np.where(variance > 0, variance, least) if least_variance is None else np.maximum(variance, least)
    constant = -0.5 * float((np.log(variance) + LOG_2PI).sum())

    def log_prob(x: Array) -> Array:
        found: Array = constant - 0.5 * ((x - mean) ** 2 / variance).sum(axis=1)
        return found

    return Baseline("independent Gaussian", 2 * rows.shape[1], f"variances at least {least:.3g}", log_prob)


def ppca(rows: Rows, latent: int, *, scale: float = 1.0, least_variance: float | None = None) -> Baseline:
    """Probabilistic PCA, x ~ N(m, W W^T + sigma^2 I), maximum likelihood (Tipping & Bishop 1999, eq. 7 and 8).

    sigma^2 is the mean of the D - q smallest eigenvalues of the covariance (over N), W = U_q (L_q - sigma^2 I)^1/2
    with the largest ones in L_q. q is at most D - 1, sigma^2 not below the least variance (as in ``gaussian``).
    """
    dim = rows.shape[1]
    if dim > LARGEST_DIM:
        raise ValueError(f"{dim} columns: a dense covariance is made for at most {LARGEST_DIM}")
    if latent < 1 or dim < 2:
        raise ValueError(f"{latent} latent dimensions of {dim} columns: at least 1 of 2 are needed")
    q = min(latent, dim - 1)
    moments = _moments(rows, scale)
    mean = moments.mean
    covariance = np.zeros((dim, dim))
    for chunk in _chunks(rows, scale):
        centred = chunk - mean
        covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance / moments.count)
    least = _least(moments.variance(), least_variance)
    noise = max(float(values[: dim - q].mean()), least)
    top = np.maximum(values[dim - q :], noise)
    basis = vectors[:, dim - q :]
    constant = -0.5 * (float(np.log(top).sum()) + (dim - q) * math.log(noise) + dim * LOG_2PI)

    def log_prob(x: Array) -> Array:
        centred = x - mean
        projected = centred @ basis
        outside = (centred**2).sum(axis=1) - (projected**2).sum(axis=1)
        found: Array = constant - 0.5 * ((projected**2 / top).sum(axis=1) + outside / noise)
        return found

    free = dim + dim * q - q * (q - 1) // 2 + 1  # m, W up to rotation, sigma^2
    return Baseline("probabilistic PCA", free, f"{q} latent dimensions", log_prob)


def _chunks(rows: Rows, scale: float) -> Iterator[Array]:
    for lo in range(0, len(rows), CHUNK):
        yield rows[lo : lo + CHUNK].astype(np.float64) * scale


def _moments(rows: Rows, scale: float) -> RunningMoments:
    moments = RunningMoments(rows.shape[1])
    for chunk in _chunks(rows, scale):
        moments.add(chunk)
    return moments


def _least(variance: Array, given: float | None) -> float:
    mean = float(variance.mean())
    return given if given is not None else max(LEAST_VARIANCE * mean, np.finfo(np.float64).tiny)
