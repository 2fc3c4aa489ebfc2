"""Hyperbolic tangent (the hidden activation of LX 21, 23 and KW appendix C)."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel("pre: rc -> h: rc", cuda="h = tanh(pre);")
def tanh(xp: Any, pre: Any, h: Any) -> None:
    """h = tanh(pre)."""
    xp.tanh(pre, out=h)


@kernel("h: rc, slope: rc~ -> dh: rc!", cuda="slope = (T)1 - h * h; dh = dh * slope;")
def tanh_backward(xp: Any, h: Any, slope: Any, dh: Any) -> None:
    """dh becomes the derivative by pre: dh (1 - h^2); ``slope`` is scratch."""
    xp.multiply(h, h, out=slope)
    xp.subtract(h.dtype.type(1), slope, out=slope)
    xp.multiply(dh, slope, out=dh)
