"""The reparameterization z = mu + sigma * eps (LX 4, 8; KW 4, 10)."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel("logvar: rc -> sigma: rc", cuda="sigma = exp((T)0.5 * logvar);")
def standard_deviation(xp: Any, logvar: Any, sigma: Any) -> None:
    """sigma = e^(logvar / 2) (B, Z)."""
    xp.multiply(logvar, logvar.dtype.type(0.5), out=sigma)
    xp.exp(sigma, out=sigma)


@kernel("mu: bz, sigma: bz, eps: blz -> z: blz", cuda="z = mu + sigma * eps;")
def reparameterize(xp: Any, mu: Any, sigma: Any, eps: Any, z: Any) -> None:
    """z = mu + sigma * eps; mu, sigma (B, Z), eps and z (B, L, Z)."""
    xp.multiply(eps, sigma[:, None, :], out=z)
    xp.add(z, mu[:, None, :], out=z)


@kernel(
    "dz: blz, sigma: bz, eps: blz, scratch: blz~ -> dmu: bz+, dlogvar: bz+",
    cuda="scratch = dz * eps; dmu += dz; dlogvar += (T)0.5 * sigma * scratch;",
)
def reparameterize_backward(xp: Any, dz: Any, sigma: Any, eps: Any, scratch: Any, dmu: Any, dlogvar: Any) -> None:
    """dmu = sum_l dz, dlogvar = sum_l dz * eps * sigma / 2."""
    half = sigma.dtype.type(0.5)
    xp.multiply(dz, eps, out=scratch)
    if dz.shape[1] == 1:  # a copy is four times cheaper than a sum over an axis of one
        one = scratch[:, 0]
        xp.multiply(one, sigma, out=one)
        xp.multiply(one, half, out=one)
        dmu[...] = dz[:, 0]
        dlogvar[...] = one
    else:
        xp.add.reduce(dz, axis=1, out=dmu)
        xp.add.reduce(scratch, axis=1, out=dlogvar)
        xp.multiply(dlogvar, sigma, out=dlogvar)
        xp.multiply(dlogvar, half, out=dlogvar)
