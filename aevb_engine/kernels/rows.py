"""Row weights and scale factors, applied to narrow arrays so that no extra pass of data width is made."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel("x: rc, factor: const -> y: rc", cuda="y = (T)factor * x;")
def scale(xp: Any, x: Any, factor: float, y: Any) -> None:
    """y = factor * x."""
    xp.multiply(x, x.dtype.type(factor), out=y)


@kernel("constant: const -> y: rc", cuda="y = (T)constant;")
def fill(xp: Any, constant: float, y: Any) -> None:
    """y = constant."""
    y[...] = y.dtype.type(constant)


@kernel("weight: r, x: rc -> y: rc", cuda="y = weight * x;")
def weigh(xp: Any, weight: Any, x: Any, y: Any) -> None:
    """y = weight * x, one weight a row."""
    xp.multiply(x, weight[:, None], out=y)


@kernel("weight: r, x: rc, sums: c~ -> total: s+", cuda="sums = weight * x; total += sums;")
def weighted_total(xp: Any, weight: Any, x: Any, sums: Any, total: Any) -> None:
    """total = sum over rows and columns of weight * x: the gradient of one number shared by all columns."""
    xp.matmul(weight, x, out=sums)
    xp.add.reduce(sums, out=total[0:1], keepdims=True)


@kernel("x: rc -> y: rc!", cuda="y += x;")
def add(xp: Any, x: Any, y: Any) -> None:
    """y += x."""
    xp.add(y, x, out=y)


@kernel("parts: pr -> total: r+", cuda="total += parts;")
def sum_of_parts(xp: Any, parts: Any, total: Any) -> None:
    """total = sum of the parts: what the tiles of a product left of a sum over columns."""
    xp.add.reduce(parts, axis=0, out=total)
