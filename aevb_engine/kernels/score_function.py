"""The score-function gradient of an expectation over q(z | x) (KW section 2.2; REINFORCE), for comparison only."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel(
    "weight: bl, sigma: bz, eps: blz, scratch: blz~ -> dmu: bz+, dlogvar: bz+",
    cuda="scratch = weight * eps; dmu += scratch / sigma; dlogvar += (T)0.5 * (scratch * eps - weight);",
)
def score_function_backward(xp: Any, weight: Any, sigma: Any, eps: Any, scratch: Any, dmu: Any, dlogvar: Any) -> None:
    """sum_l weight_l times the derivative of log q(z_l | x) at z = mu + sigma eps, with z held fixed.

    d log q / dmu = eps / sigma, d log q / dlogvar = (eps^2 - 1) / 2; weight (B, L), eps (B, L, Z), the rest (B, Z).
    """
    half = sigma.dtype.type(0.5)
    xp.multiply(eps, weight[:, :, None], out=scratch)
    xp.add.reduce(scratch, axis=1, out=dmu)
    xp.divide(dmu, sigma, out=dmu)
    xp.multiply(scratch, eps, out=scratch)
    xp.subtract(scratch, weight[:, :, None], out=scratch)
    xp.add.reduce(scratch, axis=1, out=dlogvar)
    xp.multiply(dlogvar, half, out=dlogvar)
