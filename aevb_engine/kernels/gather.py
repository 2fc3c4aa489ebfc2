"""Rows of the resident data set into the batch: indexing, scaling, and dynamic binarization."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel("data: nc, index: r, scale: const, rows: rc~ -> x: rc")
def gather(xp: Any, data: Any, index: Any, scale: float, rows: Any, x: Any) -> None:
    """x = scale * data[index]; ``rows`` is scratch of the data's type (the batch itself where types agree)."""
    xp.take(data, index, axis=0, out=rows, mode="clip")
    if scale != 1.0:
        xp.multiply(rows, x.dtype.type(scale), out=x)
    elif rows.dtype != x.dtype:  # where the types agree, rows is x
        x[...] = rows


@kernel("data: nc, index: r, words: rw, rows: rc~, wide: rc~, ones: rc~ -> x: rc")
def gather_bernoulli(xp: Any, data: Any, index: Any, words: Any, rows: Any, wide: Any, ones: Any, x: Any) -> None:
    """x ~ Bernoulli(data[index] / 255) for 8-bit data, from 16 random bits a pixel.

    x = 1 where 255 k < 65536 p, k uniform in 0 .. 2^16 - 1: the probability is p / 255 to within 2^-16, exactly 0 at
    p = 0 and exactly 1 at p = 255. ``words`` (rows, at least columns / 2) uint32 is the noise; the rest is scratch.
    """
    xp.take(data, index, axis=0, out=rows, mode="clip")
    binarize(xp, rows, words, wide, ones)
    x[...] = ones


def binarize(xp: Any, intensity: Any, words: Any, wide: Any, ones: Any) -> None:
    """ones = [k < 65536 p / 255] with k the 16-bit halves of ``words``, compared exactly as 255 k < 65536 p."""
    halves = words.view(xp.uint16)[:, : intensity.shape[1]]
    xp.multiply(halves, xp.uint32(255), out=wide)
    xp.right_shift(wide, xp.uint32(16), out=wide)  # 255 k < 65536 p  <=>  floor(255 k / 65536) < p
    xp.less(wide, intensity, out=ones)
