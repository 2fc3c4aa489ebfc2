"""Rectified linear unit max(0, x)."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel("pre: rc -> h: rc", cuda="h = pre > (T)0 ? pre : (T)0;")
def relu(xp: Any, pre: Any, h: Any) -> None:
    """h = max(0, pre)."""
    xp.maximum(pre, pre.dtype.type(0), out=h)


@kernel("bias: c -> h: rc!", cuda="h = h + bias > (T)0 ? h + bias : (T)0;")
def bias_relu(xp: Any, bias: Any, h: Any) -> None:
    """h becomes relu(h + bias): what follows a product."""
    xp.add(h, bias, out=h)
    relu(xp, h, h)


@kernel("h: rc, slope: rc~ -> dh: rc!", cuda="slope = h > (T)0 ? (T)1 : (T)0; dh = dh * slope;")
def relu_backward(xp: Any, h: Any, slope: Any, dh: Any) -> None:
    """dh becomes the derivative by pre: dh where h > 0, else 0; ``slope`` is scratch."""
    xp.sign(h, out=slope)
    xp.multiply(dh, slope, out=dh)


@kernel("weight: r, h: rc, slope: rc~ -> dh: rc!", cuda="slope = h > (T)0 ? weight : (T)0; dh = dh * slope;")
def weighted_relu_backward(xp: Any, weight: Any, h: Any, slope: Any, dh: Any) -> None:
    """dh becomes weight times the derivative by pre, one weight a row."""
    relu_backward(xp, h, slope, dh)
    xp.multiply(dh, weight[:, None], out=dh)
