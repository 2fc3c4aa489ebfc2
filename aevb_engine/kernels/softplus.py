"""Softplus log(1 + e^x), computed without overflow; also the smooth floor of a log-variance."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel("pre: rc -> h: rc", cuda="h = (pre > (T)0 ? pre : (T)0) + log1p(exp(-fabs(pre)));")
def softplus(xp: Any, pre: Any, h: Any) -> None:
    """h = max(0, pre) + log(1 + e^-|pre|)."""
    xp.logaddexp(pre, pre.dtype.type(0), out=h)


@kernel("bias: c -> h: rc!", cuda="T pre = h + bias; h = (pre > (T)0 ? pre : (T)0) + log1p(exp(-fabs(pre)));")
def bias_softplus(xp: Any, bias: Any, h: Any) -> None:
    """h becomes softplus(h + bias): what follows a product."""
    xp.add(h, bias, out=h)
    softplus(xp, h, h)


@kernel("h: rc, slope: rc~ -> dh: rc!", cuda="slope = -expm1(-h); dh = dh * slope;")
def softplus_backward(xp: Any, h: Any, slope: Any, dh: Any) -> None:
    """dh becomes the derivative by pre: dh * sigmoid(pre), with sigmoid(pre) = 1 - e^-h; ``slope`` is scratch."""
    xp.negative(h, out=slope)
    xp.expm1(slope, out=slope)
    xp.negative(slope, out=slope)
    xp.multiply(dh, slope, out=dh)


@kernel("weight: r, h: rc, slope: rc~ -> dh: rc!", cuda="slope = -expm1(-h); dh = weight * dh * slope;")
def weighted_softplus_backward(xp: Any, weight: Any, h: Any, slope: Any, dh: Any) -> None:
    """dh becomes weight times the derivative by pre, one weight a row."""
    softplus_backward(xp, h, slope, dh)
    xp.multiply(dh, weight[:, None], out=dh)
