"""From log-densities of samples to a bound a data point, and the row weights of its gradient."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel("logp: rc -> mean: r+", cuda="mean += logp / (T)size_c;")
def mean_of_samples(xp: Any, logp: Any, mean: Any) -> None:
    """mean (B,) of logp (B, L) over its samples."""
    if logp.shape[1] == 1:
        mean[...] = logp[:, 0]
    else:
        xp.add.reduce(logp, axis=1, out=mean)
        mean *= mean.dtype.type(1 / logp.shape[1])


@kernel("a: r, b: r -> c: r", cuda="c = a - b;")
def difference(xp: Any, a: Any, b: Any, c: Any) -> None:
    """c = a - b."""
    xp.subtract(a, b, out=c)


@kernel("logp: rc, prior: rc, posterior: rc -> logw: rc", cuda="logw = logp + prior - posterior;")
def log_weight(xp: Any, logp: Any, prior: Any, posterior: Any, logw: Any) -> None:
    """log w = log p(x | z) + log p(z) - log q(z | x)."""
    xp.add(logp, prior, out=logw)
    xp.subtract(logw, posterior, out=logw)


@kernel("logw: rc, scratch: rc~ -> bound: r")
def log_mean_exp(xp: Any, logw: Any, scratch: Any, bound: Any) -> None:
    """bound = log 1/k sum_l e^logw_l, shifted by the largest so that nothing overflows."""
    xp.max(logw, axis=1, out=bound)
    xp.subtract(logw, bound[:, None], out=scratch)
    xp.exp(scratch, out=scratch)
    total = xp.add.reduce(scratch, axis=1)
    total *= total.dtype.type(1 / logw.shape[1])
    bound += xp.log(total)


@kernel("logw: rc, bound: r, factor: const -> weight: rc", cuda="weight = (T)factor * exp(logw - bound);")
def importance_row_weights(xp: Any, logw: Any, bound: Any, factor: float, weight: Any) -> None:
    """weight = factor * e^(logw - bound): k times the normalised importance weight, times the factor."""
    xp.subtract(logw, bound[:, None], out=weight)
    xp.exp(weight, out=weight)
    xp.multiply(weight, weight.dtype.type(factor), out=weight)


@kernel("weight: r, z: rc, scratch: rc~ -> dz: rc!", cuda="scratch = weight * z; dz -= scratch;")
def prior_backward(xp: Any, weight: Any, z: Any, scratch: Any, dz: Any) -> None:
    """dz += weight * d log p(z) / dz = -weight * z."""
    xp.multiply(z, weight[:, None], out=scratch)
    xp.subtract(dz, scratch, out=dz)


@kernel("constant: const -> y: rc!", cuda="y += (T)constant;")
def add_constant(xp: Any, constant: float, y: Any) -> None:
    """y += constant."""
    xp.add(y, y.dtype.type(constant), out=y)
