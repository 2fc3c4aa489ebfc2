"""log p(x) from posterior samples (KW appendix D), for a handful of latent dimensions.

    1 / p(x) = E[q(z) / (p(z) p(x | z))],   z ~ p(z | x) by HMC

holds for any density q that is zero wherever the posterior is. q is fitted to one stretch of the chains and the mean
is taken over the next. Where q reaches further out than the posterior the ratio's variance is infinite, and a Gaussian
with the posterior's own covariance may: q here is that Gaussian inside the ellipsoid that holds 80 % of it, and zero
outside, so that the ratio is bounded by what it is on a compact set. The price is small: of a Gaussian posterior the
ratio is 1 / 0.8 inside and 0 outside, a relative variance of 1/4 a draw.

-log of the mean is above log p(x) in expectation for exact, independent posterior samples. It says nothing where chains
have not met or q does not fit: such data points are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.errors import UsageError
from aevb_engine.evaluation.blocks import block
from aevb_engine.evaluation.chains import Chains, rows_at_once
from aevb_engine.evaluation.diagnostics import (
    KHAT_LIMIT,
    effective_draws,
    effective_weights,
    log_mean_exp,
    pareto_khat,
    split_rhat,
)
from aevb_engine.evaluation.estimate import Estimate
from aevb_engine.model.model import Model
from aevb_engine.sampling.hmc import TARGET, StepSize
from aevb_engine.training.step import ResidentRows

Array = npt.NDArray[Any]

MOST_DIMENSIONS = 5  # KW: "good estimates as long as the dimensionality of the sampled space is low (less than 5)"
MASS = 0.8  # of the Gaussian inside the ellipsoid
RHAT_LIMIT = 1.05
FEWEST_DRAWS = 100.0  # effective ones
LEAST_ACCEPTANCE = 0.6


@dataclass(frozen=True)
class MarginalEstimate(Estimate):
    """``log_likelihood`` and ``standard_error`` are NaN where ``reason`` is not empty: the estimate is refused.

    ``effective_samples``: of the ratio's draws, correlation along the chains counted. ``acceptance``: mean probability
    after the burn-in. ``rhat``: the largest over the coordinates of z and log p(x, z). ``effective_draws``: the
    smallest over the same.
    """

    acceptance: Array
    rhat: Array
    effective_draws: Array
    reason: Array

    @property
    def refused(self) -> Array:
        """(N,)"""
        answer: Array = self.reason != ""
        return answer

    def summary(self) -> dict[str, float]:
        """As of any estimate, over the data points that were not refused, with how many were.

        A mean over the accepted points alone is not that of the data set: compare estimators on the same points.
        """
        sound = ~self.refused
        if not sound.any():
            nothing = dict.fromkeys(("log_likelihood", "monte_carlo_se", "sampling_se", "largest_khat"), float("nan"))
            return {**nothing, "suspect": 0, "refused": len(sound)}
        kept = Estimate(*(getattr(self, f.name)[sound] for f in fields(Estimate)))
        return {**kept.summary(), "refused": int(self.refused.sum())}


class MarginalSampler:
    """Appendix D on resident rows (N, D) by ``chains`` chains a data point from dispersed starts.

    ``burn_in`` moves warm up from the prior (beta = 0 to 1 in the first half) and settle a step size for each data
    point, which then stays; ``fit`` moves are for q, ``samples`` moves for the mean.
    """

    def __init__(
        self,
        model: Model,
        data: ResidentRows,
        *,
        chains: int = 8,
        burn_in: int = 200,
        fit: int = 200,
        samples: int = 500,
        leapfrog_steps: int = 10,
        target: float = TARGET,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        latent = model.architecture.latent
        if latent > MOST_DIMENSIONS:
            raise UsageError(
                f"the posterior-density estimator is meaningless in {latent} latent dimensions (limit "
                f"{MOST_DIMENSIONS}); use importance sampling or AIS"
            )
        for name, value, least in (("chains", chains, 2), ("burn_in", burn_in, 20), ("fit", fit, 10 * latent)):
            if value < least:
                raise UsageError(f"{name}={value}: at least {least} are needed")
        least = math.ceil(FEWEST_DRAWS / chains)  # with fewer every data point would be refused
        if samples < least:
            raise UsageError(f"samples={samples} for 'hmc': at least {least} are needed")
        self.model, self.target = model, target
        self.burn_in, self.fit, self.samples = burn_in, fit, samples
        self.count = int(data.data.array.shape[0])
        # Draws are kept, of z in double: in a chunk about eight numbers for one that is decoded at a time.
        kept = chains * max(1, (fit + samples) * latent // (8 * model.architecture.dim))
        size = block(max(chains, kept))
        self.batch = rows_at_once(self.count, max(chains, kept), size, threads)
        self.chains = Chains(
            model,
            data,
            self.batch,
            chains,
            leapfrog_steps=leapfrog_steps,
            seed=seed,
            stream="hmc marginal",
            threads=threads,
            size=size,
        )

    def run(self, progress: Callable[[int, int], None] | None = None) -> MarginalEstimate:
        """log p(x) of each row, refused where the diagnostics fail."""
        parts = []
        for lo in range(0, self.count, self.batch):
            n = min(self.batch, self.count - lo)

            def at(done: float, lo: int = lo, n: int = n) -> None:
                if progress is not None:
                    progress(lo + int(done * n), self.count)

            parts.append(self._chunk(lo, n, at))
        return MarginalEstimate.joined(parts)

    def _chunk(self, lo: int, n: int, at: Callable[[float], None]) -> MarginalEstimate:
        chains, all_moves = self.chains, self.burn_in + self.fit + self.samples
        chains.put(lo)
        chains.from_prior()
        sizes = StepSize(chains.batch, target=self.target)
        warm = self.burn_in // 2
        for i in range(self.burn_in):
            if i == warm:
                sizes = StepSize(chains.batch, sizes.size, decay=0.6, target=self.target)
            chains.move(min(1.0, (i + 1) / warm), sizes.size)
            sizes.adapt(chains.acceptance())
            at((i + 1) / all_moves)
        z, logp = [], []
        acceptance = np.zeros(chains.batch)
        for i in range(self.fit + self.samples):
            chains.move(1.0, sizes.size)
            z.append(chains.z()[:n])
            logp.append(chains.logp()[:n])
            acceptance += chains.acceptance()
            at((self.burn_in + i + 1) / all_moves)
        draws = np.stack(z, axis=2)  # (n, C, S, Z)
        likelihood = np.stack(logp, axis=2)
        return _estimate(draws, likelihood, self.fit, acceptance[:n] / (self.fit + self.samples))


def _estimate(z: Array, logp: Array, fit: int, acceptance: Array) -> MarginalEstimate:
    """From draws z (n, C, S, Z) and log p(x | z) (n, C, S); the first ``fit`` are for q."""
    n, latent = z.shape[0], z.shape[-1]
    joint = logp - 0.5 * ((z**2).sum(axis=-1) + latent * math.log(2 * math.pi))
    watched = np.concatenate([np.moveaxis(z, -1, 1), joint[:, None]], axis=1)  # (n, Z + 1, C, S)
    rhat = _worst(split_rhat(watched).max(axis=1), np.inf)
    draws = _worst(effective_draws(watched).min(axis=1), 0.0)
    first = z[:, :, :fit].reshape(n, -1, latent)
    fresh = z[:, :, fit:]
    with np.errstate(all="ignore"):
        logq = truncated_gaussian(first, fresh.reshape(n, -1, latent)).reshape(fresh.shape[:-1])
        ratio = logq - joint[:, :, fit:]
        flat = ratio.reshape(n, -1)
        estimate = -log_mean_exp(flat)
        weights = np.exp(ratio - flat.max(axis=1)[:, None, None])
        # Draws along a chain are correlated: the variance of the mean from the effective number of draws.
        independent = effective_draws(weights)
        spread = flat.shape[1] / effective_weights(flat) - 1
        error = np.sqrt(np.maximum(spread, 0) / independent)
    effective = np.minimum(effective_weights(flat), independent)
    khat = pareto_khat(flat)
    reason = np.full(n, "", dtype="<U64")
    for text, bad in (
        (f"k-hat of the ratio is above {KHAT_LIMIT}", khat > KHAT_LIMIT),
        (f"fewer than {FEWEST_DRAWS:.0f} effective draws", ~(np.minimum(draws, independent) >= FEWEST_DRAWS)),
        (f"R-hat is above {RHAT_LIMIT}: the chains have not met", ~(rhat <= RHAT_LIMIT)),
        (f"acceptance is below {LEAST_ACCEPTANCE}", ~(acceptance >= LEAST_ACCEPTANCE)),
        ("the density fitted to the chains is singular or not finite", ~np.isfinite(estimate)),
    ):
        reason[bad] = text
    sound = reason == ""
    return MarginalEstimate(
        np.where(sound, estimate, np.nan),
        np.where(sound, error, np.nan),
        effective,
        khat,
        acceptance,
        rhat,
        draws,
        reason,
    )


def _worst(values: Array, unknown: float) -> Array:
    """Diagnostics with the worst value where there is none."""
    return np.where(np.isnan(values), unknown, values)


def truncated_gaussian(samples: Array, z: Array) -> Array:
    """log q (n, M) at z (n, M, Z): N(mean, covariance) of the samples (n, S, Z) inside its ellipsoid of mass 0.8.

    -inf outside; NaN where the covariance is singular.
    """
    latent = samples.shape[-1]
    mean = samples.mean(axis=1, keepdims=True)
    centred = samples - mean
    covariance = np.einsum("nsi,nsj->nij", centred, centred) / (samples.shape[1] - 1)
    sign, log_determinant = np.linalg.slogdet(covariance)
    scale = np.abs(np.einsum("nii->ni", covariance)).prod(axis=1)
    with np.errstate(all="ignore"):
        sound = (sign > 0) & np.isfinite(log_determinant) & (np.exp(log_determinant) > 1e-12 * scale)
    precision = np.linalg.inv(np.where(sound[:, None, None], covariance, np.eye(latent)))
    offset = z - mean
    distance = np.einsum("nmi,nij,nmj->nm", offset, precision, offset)
    logq = -0.5 * (distance + log_determinant[:, None] + latent * math.log(2 * math.pi)) - math.log(MASS)
    inside = np.where(distance <= chi_square_quantile(MASS, latent), logq, -np.inf)
    answer: Array = np.where(sound[:, None], inside, np.nan)
    return answer


def chi_square_cdf(x: float, dimensions: int) -> float:
    """P(|n|^2 <= x) of a standard normal n in this many dimensions, by the recurrence in steps of two."""
    half = x / 2
    if dimensions % 2:
        total, term, at = math.erf(math.sqrt(half)), 2 * math.sqrt(half / math.pi) * math.exp(-half), 1
    else:
        total, term, at = -math.expm1(-half), half * math.exp(-half), 2
    while at < dimensions:  # P(d + 2) = P(d) - (x/2)^(d/2) e^(-x/2) / Gamma(d/2 + 1)
        total -= term
        at += 2
        term *= x / at
    return total


def chi_square_quantile(mass: float, dimensions: int) -> float:
    """The x with ``chi_square_cdf`` = mass, by bisection."""
    low, high = 0.0, 10.0 * dimensions + 100
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if chi_square_cdf(middle, dimensions) < mass else (low, middle)
    return (low + high) / 2
