"""Whether an estimate can be trusted: importance weights and Markov chains, vectorized over data points, in double."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

KHAT_LIMIT = 0.7  # above, an estimate has no usable error (Vehtari et al. 2024, "Pareto smoothed importance sampling")
FEWEST = 5  # weights in a tail that can be fitted
TIED = 1.0  # spread of log-weights, many of them equal, that is no heavy tail: the largest weight is e times these
ROUNDING = 32 * float(np.finfo(np.float32).eps)  # of log-weights, relative: what a sum in single precision may be off
FIT_AT_ONCE = 1 << 21  # numbers in the arrays of one fit


# Importance weights -----------------------------------------------------------------------------------------


def tail_size(count: int) -> int:
    """M = min(K / 5, 3 sqrt K), rounded up: how many of K weights are the tail (Vehtari et al. 2024)."""
    return math.ceil(min(0.2 * count, 3 * math.sqrt(count)))


def pareto_khat(logw: Array) -> Array:
    """k-hat (N,) of log-weights (N, K): the shape of a generalized Pareto tail. The weights have 1/k finite moments.

    k-hat > 0.7: the estimate's error cannot be known from its weights. NaN where K < 21 leaves too few to fit. 0, the
    shape of a tail that falls exponentially and no longer, where all of the tail is equal to rounding: nothing is left
    to fit (Vehtari et al. define no k-hat there), and such weights give the best estimate that there is.
    """
    largest = np.sort(np.asarray(logw, np.float64), axis=1)[:, -tail_size(logw.shape[1]) - 1 :]
    return tail_khat(largest)


def tail_khat(largest: Array) -> Array:
    """k-hat (N,) from the M + 1 largest log-weights (N, M + 1); the smallest of them is the threshold."""
    ordered = np.sort(np.asarray(largest, np.float64), axis=1)
    size = ordered.shape[1] - 1
    khat = np.full(len(ordered), np.nan)
    if size < FEWEST:
        return khat
    with np.errstate(all="ignore"):
        scaled = np.exp(ordered - ordered[:, -1:])
        spread = ordered[:, -1] - ordered[:, 0]
        rounding = ROUNDING * np.maximum(1, np.abs(ordered[:, -1]))
    excess = scaled[:, 1:] - scaled[:, :1]
    known = ~np.isnan(excess).any(axis=1)
    # A quarter of the tail at the threshold: ties of weights hardly apart, or a few against which the rest vanish.
    tied = excess[:, int(size / 4 + 0.5) - 1] <= 0
    flat = known & ((spread <= rounding) | (tied & (spread <= TIED)))
    khat[flat] = 0
    lone = known & ~flat & tied
    khat[lone] = np.inf
    fitted = np.flatnonzero(known & ~flat & ~lone)
    step = max(1, FIT_AT_ONCE // (size * (30 + int(math.sqrt(size)))))
    for lo in range(0, len(fitted), step):
        rows = fitted[lo : lo + step]
        khat[rows] = _regularized(generalized_pareto_shape(excess[rows]), size)
    return khat


def generalized_pareto_shape(excess: Array) -> Array:
    """Shape k (N,) of generalized Pareto samples (N, M) above 0, ascending (Zhang & Stephens 2009).

    The density is (1 + k x / sigma)^(-1 / k - 1) / sigma. A quasi-Bayesian mean over a grid of b = -k / sigma.
    """
    count = excess.shape[1]
    grid = 30 + int(math.sqrt(count))
    quartile, largest = excess[:, int(count / 4 + 0.5) - 1], excess[:, -1]
    points = 1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    b = 1 / largest[:, None] + points / (3 * quartile[:, None])
    with np.errstate(all="ignore"):
        k = np.log1p(-b[:, :, None] * excess[:, None, :]).mean(axis=2)
        profile = count * (np.log(-b / k) - k - 1)
        profile[np.isnan(profile)] = -np.inf
        weight = 1 / np.exp(profile[:, None, :] - profile[:, :, None]).sum(axis=2)
        weight[~np.isfinite(weight)] = 0
        weight /= weight.sum(axis=1, keepdims=True)
        mean = (b * weight).sum(axis=1)
        shape: Array = np.log1p(-mean[:, None] * excess).mean(axis=1)
    return shape


def _regularized(k: Array, size: int) -> Array:
    """A weak prior at 1/2 worth ten weights (Vehtari et al. 2024, appendix C)."""
    return (size * k + 10 * 0.5) / (size + 10)


def effective_weights(logw: Array) -> Array:
    """(sum w)^2 / sum w^2 of log-weights (N, K): 1 to K."""
    with np.errstate(all="ignore"):
        weights = np.exp(logw - logw.max(axis=1, keepdims=True))
        effective: Array = weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1)
    return np.minimum(effective, logw.shape[1])


def log_mean_exp(logw: Array) -> Array:
    """log 1/K sum w of log-weights (N, K)."""
    largest = logw.max(axis=1)
    with np.errstate(all="ignore"):
        mean: Array = largest + np.log(np.exp(logw - largest[:, None]).mean(axis=1))
    return np.where(np.isneginf(largest), -np.inf, mean)


def log_mean_exp_error(effective: Array, count: int) -> Array:
    """Standard error of log 1/K sum w by the delta method: sd(w) / (mean(w) sqrt K), sd with K - 1 (N,).

    From the effective sample size alone; no error is known from one sample: NaN.
    """
    if count < 2:
        return np.full(np.shape(effective), np.nan)
    error: Array = np.sqrt(np.maximum(count / effective - 1, 0) / (count - 1))
    return error


# Markov chains ----------------------------------------------------------------------------------------------


def split_rhat(chains: Array) -> Array:
    """R-hat (...) of chains (..., C, S), each cut in half: sqrt(total / within variance) (Gelman et al. 2013, 11.4).

    Near 1 where the halves agree; NaN for fewer than 4 draws; infinite where chains that never move disagree.
    """
    halves = _split(chains)
    count = halves.shape[-1]
    if count < 2:
        return np.full(chains.shape[:-2], np.nan)
    moves, means = _moves(halves)
    within = moves.var(axis=-1, ddof=1).mean(axis=-1)
    between = means.var(axis=-1, ddof=1)
    with np.errstate(all="ignore"):
        rhat = np.sqrt((count - 1) / count + between / within)
    stuck = within == 0
    answer: Array = np.where(stuck, np.where(between == 0, np.nan, np.inf), rhat)
    return answer


def effective_draws(chains: Array) -> Array:
    """Effective sample size (...) of chains (..., C, S), halves taken as chains (Vehtari et al. 2021, section 3.2).

    Autocorrelations combined over the chains, summed while sums of pairs are positive, made monotone (Geyer 1992).
    """
    halves = _split(chains)
    m, n = halves.shape[-2:]
    if n < 4:
        return np.full(chains.shape[:-2], np.nan)
    moves, means = _moves(halves)
    centred = moves - moves.mean(axis=-1, keepdims=True)
    spectrum = np.fft.rfft(centred, 2 * n, axis=-1)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, 2 * n, axis=-1)[..., :n].mean(axis=-2) / n
    within = covariance[..., 0] * n / (n - 1)
    variance = within * (n - 1) / n + means.var(axis=-1, ddof=1)
    with np.errstate(all="ignore"):
        rho = 1 - (within[..., None] - covariance * n / (n - 1)) / variance[..., None]
    rho[..., 0] = 1
    pairs = rho[..., : n - n % 2].reshape(*rho.shape[:-1], -1, 2).sum(axis=-1)
    kept = np.minimum.accumulate(pairs > 0, axis=-1)
    total = (np.minimum.accumulate(pairs, axis=-1) * kept).sum(axis=-1)
    tau = np.maximum(2 * total - 1, 1 / math.log10(m * n))
    answer: Array = np.where(variance > 0, m * n / tau, np.nan)
    return answer


def _moves(chains: Array) -> tuple[Array, Array]:
    """How far each draw (..., C, S) is from its chain's first, and the means (..., C) of the chains, from one origin.

    Both are exactly zero where nothing moves, as the rounded mean of equal numbers is not.
    """
    moves = chains - chains[..., :1]
    return moves, moves.mean(axis=-1) + (chains[..., 0] - chains[..., :1, 0])


def _split(chains: Array) -> Array:
    """(..., C, S) as (..., 2 C, S // 2); the middle draw of an odd number is left out."""
    half = chains.shape[-1] // 2
    return np.concatenate([chains[..., :half], chains[..., chains.shape[-1] - half :]], axis=-2)
