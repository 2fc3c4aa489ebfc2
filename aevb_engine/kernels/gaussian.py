"""Log-densities of diagonal Gaussians (LX 28-31; KW appendix C.2), in nats."""

from __future__ import annotations

import math
from typing import Any

from aevb_engine.kernel import kernel
from aevb_engine.kernels.row import row

LOG_2PI = math.log(2 * math.pi)


@kernel(
    "z: rc, scratch: rc~ -> logp: r+",
    cuda="scratch = z * z; logp += (T)-0.5 * (scratch + (T)1.8378770664093453);",
)
def standard_normal_log_density(xp: Any, z: Any, scratch: Any, logp: Any) -> None:
    """log N(z; 0, I) = -1/2 sum_j (z_j^2 + log 2 pi)."""
    number = z.dtype.type
    xp.multiply(z, z, out=scratch)
    xp.add.reduce(scratch, axis=-1, out=logp)
    logp += number(z.shape[-1] * LOG_2PI)
    logp *= number(-0.5)


@kernel(
    "logvar: bz, eps: blz, scratch: blz~ -> logq: bl+",
    cuda="scratch = eps * eps; logq += (T)-0.5 * (scratch + logvar + (T)1.8378770664093453);",
)
def reparameterized_log_density(xp: Any, logvar: Any, eps: Any, scratch: Any, logq: Any) -> None:
    """log q(z | x) at z = mu + sigma * eps: -1/2 sum_j (eps_j^2 + logvar_j + log 2 pi)."""
    number = eps.dtype.type
    xp.multiply(eps, eps, out=scratch)
    xp.add(scratch, logvar[:, None, :], out=scratch)
    xp.add.reduce(scratch, axis=-1, out=logq)
    logq += number(eps.shape[-1] * LOG_2PI)
    logq *= number(-0.5)


@kernel(
    "x: rc, mean: rc, logvar: rc, residual: rc~, root: rc~ -> logp: r+",
    cuda="root = exp((T)-0.5 * logvar); residual = (x - mean) * root;"
    " logp += (T)-0.5 * (residual * residual + logvar + (T)1.8378770664093453);",
)
def gaussian_log_density(xp: Any, x: Any, mean: Any, logvar: Any, residual: Any, root: Any, logp: Any) -> None:
    """log N(x; mean, e^logvar) = -1/2 sum_j ((x_j - mean_j)^2 / e^logvar_j + logvar_j + log 2 pi) (LX 28)."""
    number = residual.dtype.type
    _standardize(xp, x, mean, logvar, residual, root)
    xp.multiply(residual, residual, out=residual)
    xp.add(residual, logvar, out=residual)
    xp.matmul(residual, row(xp, residual.dtype, 1, residual.shape[-1]), out=logp)
    logp += number(residual.shape[-1] * LOG_2PI)
    logp *= number(-0.5)


@kernel(
    "x: rc, mean: rc, logvar: rc, square: rc~ -> logp: r+, dmean: rc, dlogvar: rc",
    cuda="T root = exp((T)-0.5 * logvar); T residual = (x - mean) * root; square = residual * residual;"
    " logp += (T)-0.5 * (square + logvar + (T)1.8378770664093453);"
    " dmean = residual * root; dlogvar = (T)0.5 * (square - (T)1);",
)
def gaussian_log_density_and_backward(
    xp: Any, x: Any, mean: Any, logvar: Any, square: Any, logp: Any, dmean: Any, dlogvar: Any
) -> None:
    """The log-density with dmean = (x - mean) / e^logvar and dlogvar = ((x - mean)^2 / e^logvar - 1) / 2."""
    number = square.dtype.type
    _standardize(xp, x, mean, logvar, dmean, dlogvar)
    xp.multiply(dmean, dmean, out=square)
    xp.multiply(dmean, dlogvar, out=dmean)
    xp.add(square, logvar, out=dlogvar)
    xp.matmul(dlogvar, row(xp, dlogvar.dtype, 1, dlogvar.shape[-1]), out=logp)
    logp += number(square.shape[-1] * LOG_2PI)
    logp *= number(-0.5)
    xp.subtract(square, number(1), out=dlogvar)
    xp.multiply(dlogvar, number(0.5), out=dlogvar)


def _standardize(xp: Any, x: Any, mean: Any, logvar: Any, residual: Any, root: Any) -> None:
    """residual = (x - mean) * root with root = e^(-logvar / 2)."""
    xp.multiply(logvar, root.dtype.type(-0.5), out=root)
    xp.exp(root, out=root)
    xp.subtract(x, mean, out=residual)
    xp.multiply(residual, root, out=residual)
