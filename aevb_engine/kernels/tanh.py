"""Hyperbolic tangent (the hidden activation of LX 21, 23 and KW appendix C)."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel("pre: rc -> h: rc", cuda="h = tanh(pre);")
def tanh(xp: Any, pre: Any, h: Any) -> None:
    """h = tanh(pre)."""
    xp.tanh(pre, out=h)


@kernel("bias: c -> h: rc!", cuda="h = tanh(h + bias);")
def bias_tanh(xp: Any, bias: Any, h: Any) -> None:
    """h becomes tanh(h + bias): what follows a product."""
    xp.add(h, bias, out=h)
    tanh(xp, h, h)


@kernel("h: rc, slope: rc~ -> dh: rc!", cuda="slope = (T)1 - h * h; dh = dh * slope;")
def tanh_backward(xp: Any, h: Any, slope: Any, dh: Any) -> None:
    """dh becomes the derivative by pre: dh (1 - h^2); ``slope`` is scratch."""
    xp.multiply(h, h, out=slope)
    xp.subtract(h.dtype.type(1), slope, out=slope)
    xp.multiply(dh, slope, out=dh)


@kernel("weight: r, h: rc, slope: rc~ -> dh: rc!", cuda="slope = (T)1 - h * h; dh = weight * dh * slope;")
def weighted_tanh_backward(xp: Any, weight: Any, h: Any, slope: Any, dh: Any) -> None:
    """dh becomes weight times the derivative by pre, one weight a row."""
    tanh_backward(xp, h, slope, dh)
    xp.multiply(dh, weight[:, None], out=dh)
