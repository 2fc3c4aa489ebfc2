"""A likelihood as one loop over its heads: products in, log p(x | z) and the gradient by each head out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from aevb_engine.blame import fault
from aevb_engine.compiled.elementary import elementary
from aevb_engine.jit import compiled, compiles, inlined

SUMS = frozenset({"reassoc", "contract"})  # a sum in any order is what makes it a vector's; NaN and infinity stay


def loop(likelihood: Any, gradient: bool) -> Callable[..., None] | None:
    """``loop(x, logp, [head, bias, scale, dhead] a head)``; None where the likelihood has no scalar text for it, or
    one that numba refuses.

    A head arrives as scale * (head + bias), head (B, L, D) or (1, 1, D), bias (D,); x (B, 1, D), logp (B, L).
    """
    heads = likelihood.heads
    if len(heads) > 2 or any(h.group != 1 or h.source == "scalar" for h in heads):
        return None
    scalar = likelihood.scalar(elementary().exp, elementary().log1p)
    if scalar is None:
        return None
    if not hasattr(scalar, "__code__"):
        raise fault(getattr(likelihood, "inner", likelihood), f"scalar returns {scalar!r}; a function is needed")
    found: Callable[..., None] = _loop(scalar, len(heads), gradient)
    cube, row = np.zeros((1, 1, 1), np.float32), np.zeros(1, np.float32)
    given = [cube, np.zeros((1, 1), np.float32), *([cube, row, np.float32(1), cube] * len(heads))]
    return found if compiles(found, *given, of=getattr(likelihood, "inner", likelihood)) else None


@cache
def _loop(scalar: Callable[..., Any], heads: int, gradient: bool) -> Any:
    """One loop for each number of heads, with and without gradient."""
    f = inlined(scalar)
    zero = np.float32(0)

    def one(x: Any, logp: Any, a: Any, a_bias: Any, a_scale: Any, da: Any) -> None:
        for b in range(logp.shape[0]):
            for k in range(logp.shape[1]):
                row, total = a[b if a.shape[0] > 1 else 0, k if a.shape[1] > 1 else 0], zero
                for j in range(x.shape[2]):
                    total += f(x[b, 0, j], a_scale * (row[j] + a_bias[j]))[0]
                logp[b, k] = total

    def one_with_gradient(x: Any, logp: Any, a: Any, a_bias: Any, a_scale: Any, da: Any) -> None:
        for b in range(logp.shape[0]):
            for k in range(logp.shape[1]):
                row, drow, total = a[b if a.shape[0] > 1 else 0, k if a.shape[1] > 1 else 0], da[b, k], zero
                for j in range(x.shape[2]):
                    value, drow[j] = f(x[b, 0, j], a_scale * (row[j] + a_bias[j]))
                    total += value
                logp[b, k] = total

    def two(
        x: Any, logp: Any, a: Any, a_bias: Any, a_scale: Any, da: Any, c: Any, c_bias: Any, c_scale: Any, dc: Any
    ) -> None:
        for b in range(logp.shape[0]):
            for k in range(logp.shape[1]):
                row = a[b if a.shape[0] > 1 else 0, k if a.shape[1] > 1 else 0]
                other, total = c[b if c.shape[0] > 1 else 0, k if c.shape[1] > 1 else 0], zero
                for j in range(x.shape[2]):
                    total += f(x[b, 0, j], a_scale * (row[j] + a_bias[j]), c_scale * (other[j] + c_bias[j]))[0]
                logp[b, k] = total

    def two_with_gradient(
        x: Any, logp: Any, a: Any, a_bias: Any, a_scale: Any, da: Any, c: Any, c_bias: Any, c_scale: Any, dc: Any
    ) -> None:
        for b in range(logp.shape[0]):
            for k in range(logp.shape[1]):
                row, drow = a[b if a.shape[0] > 1 else 0, k if a.shape[1] > 1 else 0], da[b, k]
                other, dother = c[b if c.shape[0] > 1 else 0, k if c.shape[1] > 1 else 0], dc[b, k]
                total = zero
                for j in range(x.shape[2]):
                    value, drow[j], dother[j] = f(
                        x[b, 0, j], a_scale * (row[j] + a_bias[j]), c_scale * (other[j] + c_bias[j])
                    )
                    total += value
                logp[b, k] = total

    return compiled(((one, one_with_gradient), (two, two_with_gradient))[heads - 1][gradient], SUMS)
