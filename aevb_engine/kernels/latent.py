"""Backward through the latent variables in one pass: reparameterization, and what the bound adds to it."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel
from aevb_engine.kernels.bound import add_constant
from aevb_engine.kernels.kl import kl_backward
from aevb_engine.kernels.reparameterize import reparameterize_backward


@kernel(
    "dz: blz, mu: bz, sigma: bz, eps: blz, weight: const, scratch: blz~, narrow: bz~ -> dmu: bz+, dlogvar: bz+",
    cuda="scratch = dz * eps; narrow = index_l == 0 ? weight : (T)0; dmu += dz + narrow * mu;"
    " dlogvar += (T)0.5 * (sigma * scratch + narrow * (sigma * sigma - (T)1));",
)
def latent_backward(
    xp: Any,
    dz: Any,
    mu: Any,
    sigma: Any,
    eps: Any,
    weight: float,
    scratch: Any,
    narrow: Any,
    dmu: Any,
    dlogvar: Any,
) -> None:
    """dmu = sum_l dz + weight * mu, dlogvar = 1/2 [sum_l dz * eps * sigma + weight * (sigma^2 - 1)]: L^B (LX 8, 25)."""
    reparameterize_backward(xp, dz, sigma, eps, scratch, dmu, dlogvar)
    kl_backward(xp, mu, sigma, weight, narrow, dmu, dlogvar)


@kernel(
    "dz: blz, z: blz, weight: bl, sigma: bz, eps: blz, entropy: const, scratch: blz~, work: blz~"
    " -> dmu: bz+, dlogvar: bz+",
    cuda="scratch = dz - weight * z; work = scratch * eps; dmu += scratch;"
    " dlogvar += (T)0.5 * sigma * work + (index_l == 0 ? entropy : (T)0);",
)
def latent_backward_mc(
    xp: Any,
    dz: Any,
    z: Any,
    weight: Any,
    sigma: Any,
    eps: Any,
    entropy: float,
    scratch: Any,
    work: Any,
    dmu: Any,
    dlogvar: Any,
) -> None:
    """g = dz - weight * z (the prior's part), dmu = sum_l g, dlogvar = 1/2 sum_l g * eps * sigma + entropy: L^A, L_k.

    ``entropy`` is the derivative of -log q by logvar times the data point's weight: -1/2 1/B for the mean of a batch.
    """
    xp.multiply(z, weight[:, :, None], out=scratch)
    xp.subtract(dz, scratch, out=scratch)
    reparameterize_backward(xp, scratch, sigma, eps, work, dmu, dlogvar)
    add_constant(xp, entropy, dlogvar)
