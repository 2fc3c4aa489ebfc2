"""KL divergence of a diagonal Gaussian from N(0, I), in closed form (LX 25; KW appendix B)."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel(
    "mu: rc, logvar: rc, scratch: rc~ -> kl: r+",
    cuda="scratch = expm1(logvar) - logvar; kl += (T)0.5 * (mu * mu + (scratch < (T)0 ? (T)0 : scratch));",
)
def kl(xp: Any, mu: Any, logvar: Any, scratch: Any, kl: Any) -> None:
    """KL(q || p) = 1/2 sum_j (mu_j^2 + sigma_j^2 - 1 - logvar_j) nats a data point, never negative in any precision.

    sigma^2 - 1 is taken as one number: of sigma it cancels near the prior, to -1e-7 in single precision. What rounding
    is left of e^logvar - 1 - logvar below zero is zero.
    """
    xp.expm1(logvar, out=scratch)
    xp.subtract(scratch, logvar, out=scratch)
    xp.maximum(scratch, mu.dtype.type(0), out=scratch)  # NaN stays
    xp.add.reduce(scratch, axis=-1, out=kl)
    xp.multiply(mu, mu, out=scratch)
    kl += xp.add.reduce(scratch, axis=-1)
    kl *= mu.dtype.type(0.5)


@kernel(
    "mu: rc, sigma: rc, weight: const, scratch: rc~ -> dmu: rc!, dlogvar: rc!",
    cuda="scratch = (T)0.5 * (sigma * sigma - (T)1); dmu += (T)weight * mu; dlogvar += (T)weight * scratch;",
)
def kl_backward(xp: Any, mu: Any, sigma: Any, weight: float, scratch: Any, dmu: Any, dlogvar: Any) -> None:
    """dmu += weight * mu, dlogvar += weight * (sigma^2 - 1) / 2."""
    number = mu.dtype.type
    xp.multiply(mu, number(weight), out=scratch)
    xp.add(dmu, scratch, out=dmu)
    xp.multiply(sigma, sigma, out=scratch)
    xp.subtract(scratch, number(1), out=scratch)
    xp.multiply(scratch, number(0.5 * weight), out=scratch)
    xp.add(dlogvar, scratch, out=dlogvar)


@kernel(
    "mu: rc, sigma: rc, beta: s, weight: const, scratch: rc~ -> dmu: rc!, dlogvar: rc!",
    cuda="scratch = (T)0.5 * (sigma * sigma - (T)1); dmu += (T)weight * beta * mu;"
    " dlogvar += (T)weight * beta * scratch;",
)
def weighted_kl_backward(
    xp: Any, mu: Any, sigma: Any, beta: Any, weight: float, scratch: Any, dmu: Any, dlogvar: Any
) -> None:
    """dmu += weight * beta * mu, dlogvar += weight * beta * (sigma^2 - 1) / 2; at beta = 1 the bits of kl_backward."""
    number = mu.dtype.type
    xp.multiply(mu, beta, out=scratch)
    xp.multiply(scratch, number(weight), out=scratch)
    xp.add(dmu, scratch, out=dmu)
    xp.multiply(sigma, sigma, out=scratch)
    xp.subtract(scratch, number(1), out=scratch)
    xp.multiply(scratch, beta, out=scratch)
    xp.multiply(scratch, number(0.5 * weight), out=scratch)
    xp.add(dlogvar, scratch, out=dlogvar)
