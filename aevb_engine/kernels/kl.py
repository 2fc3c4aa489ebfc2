"""KL divergence of a diagonal Gaussian from N(0, I), in closed form (LX 25; KW appendix B)."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel(
    "mu: rc, logvar: rc, sigma: rc, scratch: rc~ -> kl: r+",
    cuda="scratch = mu * mu + sigma * sigma - logvar - (T)1; kl += (T)0.5 * scratch;",
)
def kl(xp: Any, mu: Any, logvar: Any, sigma: Any, scratch: Any, kl: Any) -> None:
    """KL(q || p) = 1/2 sum_j (mu_j^2 + sigma_j^2 - 1 - logvar_j) nats a data point, never negative."""
    one = mu.dtype.type(1)
    xp.multiply(sigma, sigma, out=scratch)
    xp.subtract(scratch, logvar, out=scratch)
    xp.subtract(scratch, one, out=scratch)
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
