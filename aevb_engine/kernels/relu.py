"""Rectified linear unit max(0, x)."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel("pre: rc -> h: rc", cuda="h = pre > (T)0 ? pre : (T)0;")
def relu(xp: Any, pre: Any, h: Any) -> None:
    """h = max(0, pre)."""
    xp.maximum(pre, pre.dtype.type(0), out=h)


@kernel("h: rc, slope: rc~ -> dh: rc!", cuda="slope = h > (T)0 ? (T)1 : (T)0; dh = dh * slope;")
def relu_backward(xp: Any, h: Any, slope: Any, dh: Any) -> None:
    """dh becomes the derivative by pre: dh where h > 0, else 0; ``slope`` is scratch."""
    xp.sign(h, out=slope)
    xp.multiply(dh, slope, out=dh)
