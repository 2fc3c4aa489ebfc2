"""What follows a product inside the network, in one loop: bias and tanh, and the row weights with tanh's derivative."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from aevb_engine.compiled.elementary import elementary
from aevb_engine.jit import compiled

ONE = np.float32(1)


@cache
def bias_tanh() -> Any:
    """``loop(bias, h)``: h becomes tanh(h + bias)."""
    tanh = elementary().tanh

    def loop(bias: Any, h: Any) -> None:
        for r in range(h.shape[0]):
            row = h[r]
            for c in range(h.shape[1]):
                row[c] = tanh(row[c] + bias[c])

    return compiled(loop)


@cache
def tanh_backward() -> Any:
    """``loop(h, dh)``: dh becomes dh (1 - h^2)."""

    def loop(h: Any, dh: Any) -> None:
        for r in range(h.shape[0]):
            row, drow = h[r], dh[r]
            for c in range(h.shape[1]):
                drow[c] *= ONE - row[c] * row[c]

    return compiled(loop)


@cache
def weighted_tanh_backward() -> Any:
    """``loop(weight, h, dh)``: dh becomes weight dh (1 - h^2), one weight a row."""

    def loop(weight: Any, h: Any, dh: Any) -> None:
        for r in range(h.shape[0]):
            row, drow, w = h[r], dh[r], weight[r]
            for c in range(h.shape[1]):
                drow[c] *= w * (ONE - row[c] * row[c])

    return compiled(loop)
