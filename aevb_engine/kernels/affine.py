"""Affine map y = x W + b (LX 21, 23, 27) and its derivatives."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel("x: rk, weight: kc, bias: c -> y: rc")
def affine(xp: Any, x: Any, weight: Any, bias: Any, y: Any) -> None:
    """y = x W + b."""
    xp.matmul(x, weight, out=y)
    xp.add(y, bias, out=y)


@kernel("x: rk, weight: kc -> y: rc")
def product(xp: Any, x: Any, weight: Any, y: Any) -> None:
    """y = x W; the bias comes with what follows."""
    xp.matmul(x, weight, out=y)


@kernel("dy: rc, weight: kc -> dx: rk")
def affine_backward_data(xp: Any, dy: Any, weight: Any, dx: Any) -> None:
    """dx = dy W^T."""
    xp.matmul(dy, weight.T, out=dx)


@kernel("x: rk, dy: rc -> dweight: kc")
def affine_backward_weight(xp: Any, x: Any, dy: Any, dweight: Any) -> None:
    """dW = x^T dy; a slice of the columns of x gives the same rows of dW."""
    xp.matmul(x.T, dy, out=dweight)


@kernel("weight: r, dy: rc -> dbias: c+", cuda="dbias += weight * dy;")
def affine_backward_bias(xp: Any, weight: Any, dy: Any, dbias: Any) -> None:
    """db = sum over rows of weight * dy (all ones where dy carries its weight already)."""
    xp.matmul(weight, dy, out=dbias)
