"""Uniform and standard normal noise from Philox words: the eps of the reparameterization (LX 4), bit-reproducible.

The Box-Muller transform here uses only float32 additions, products, one division and one square root, each rounded
once, and no mathematics library: log u = e log 2 + 2 atanh(s) by its series, sine and cosine by theirs at a quarter of
the angle, doubled twice. So NumPy and CUDA (``__fadd_rn``, ``__fmul_rn``, ``__fdiv_rn``, ``__fsqrt_rn``) give the same
bits. float64 noise is the cast.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from aevb_engine import jit
from aevb_engine.kernels.philox import CHUNK, Philox, key, stream_id

_f = np.float32
HALF_SQRT = np.uint32(0x3F3504F3)  # the bits of sqrt(1/2): mantissas are taken from [sqrt(1/2), sqrt(2))
ATANH = tuple(_f(1 / k) for k in (9, 7, 5, 3))
SIN = tuple(_f(c) for c in (1 / 362880, -1 / 5040, 1 / 120, -1 / 6))
COS = tuple(_f(c) for c in (1 / 40320, -1 / 720, 1 / 24, -1 / 2))
LOG2 = _f(math.log(2))
ANGLE = _f(math.pi / 4 * 2.0**-31)  # a signed 32-bit word to a quarter of an angle in [-pi, pi)


class Noise:
    """One stream of noise on its own scratch.

    ``words``, ``uniform``, ``normal`` fill ``out`` (steps, rows, columns) for steps ``step ..`` and rows ``row ..``;
    each number depends on (seed, stream, step, row, column) alone, never on the shape asked for. Nothing is allocated
    where ``out`` is contiguous float32 with a multiple of four columns.
    """

    def __init__(self, xp: Any, seed: int, stream: str) -> None:
        self.xp = xp
        self.stream = stream_id(stream)
        self._philox = Philox(xp, seed)
        self._word = tuple(xp.empty(CHUNK, dtype=xp.uint32) for _ in range(4))
        self._float = tuple(xp.empty(CHUNK, dtype=xp.float32) for _ in range(6))
        self._index = xp.arange(CHUNK, dtype=xp.uint64)
        self._loop: Any = None
        if xp is np and jit.available():
            from aevb_engine.kernels.noise_loop import normal_loop

            self._loop = normal_loop()
            self._loop_key = tuple(np.uint64(w) for w in (self.stream, *key(seed)))
            one = np.empty(1, np.float32)
            self._bits = (one, one.view(np.int32))
            self._compiled: dict[Any, bool] = {}  # by the type of what is filled
        self._counter = tuple(xp.empty(CHUNK, dtype=xp.uint64) for _ in range(4))

    def words(self, step: int, row: int, out: Any) -> None:
        """Random 32-bit words into ``out`` (steps, rows, columns) uint32; columns a multiple of four."""
        flat = out.reshape(-1, 4)
        for lo, hi, words in self._chunks(step, row, out.shape[0], out.shape[1], out.shape[2] // 4):
            for j, word in enumerate(words):
                flat[lo:hi, j] = word

    def uniform(self, step: int, row: int, out: Any) -> None:
        """Uniform numbers k / 2^24 in [0, 1) into ``out`` (steps, rows, columns)."""
        self._fill(step, row, out, self._uniform)

    def normal(self, step: int, row: int, out: Any) -> None:
        """Standard normal numbers into ``out`` (steps, rows, columns)."""
        if self._loop is not None:
            given = (step, row, *self._loop_key, self._bits, out)
            kind = out.dtype, out.flags.c_contiguous
            if kind not in self._compiled:
                self._compiled[kind] = jit.compiles(self._loop, *given)
            if self._compiled[kind]:
                self._loop(*given)
                return
        self._fill(step, row, out, self._normal)

    def _fill(self, step: int, row: int, out: Any, transform: Any) -> None:
        xp = self.xp
        steps, rows, columns = out.shape
        groups = -(-columns // 4)
        exact = columns % 4 == 0 and out.dtype == xp.float32 and out.flags.c_contiguous
        padded = out if exact else xp.empty((steps, rows, 4 * groups), dtype=xp.float32)
        flat = padded.reshape(-1, 4)
        for lo, hi, words in self._chunks(step, row, steps, rows, groups):
            transform(words, flat[lo:hi])
        if not exact:
            out[...] = padded[:, :, :columns]

    def _chunks(self, step: int, row: int, steps: int, rows: int, groups: int) -> Any:
        """Counters of a (steps, rows, groups) block in C order, a chunk at a time, as four words."""
        xp = self.xp
        u64 = xp.uint64
        total = steps * rows * groups
        for lo in range(0, total, CHUNK):
            n = min(CHUNK, total - lo)
            g, w, r, t = (c[:n] for c in self._counter)
            xp.add(self._index[:n], u64(lo), out=w)
            xp.floor_divide(w, u64(groups), out=r)
            xp.multiply(r, u64(groups), out=g)
            xp.subtract(w, g, out=g)
            xp.floor_divide(r, u64(rows), out=t)
            xp.multiply(t, u64(rows), out=w)
            xp.subtract(r, w, out=r)
            xp.add(r, u64(row), out=r)
            xp.add(t, u64(step), out=t)
            words = self._philox(g, r, t, u64(self.stream))
            narrow = tuple(w32[:n] for w32 in self._word)
            for wide, word in zip(words, narrow, strict=True):
                word[...] = wide
            yield lo, lo + n, narrow

    def _uniform(self, words: tuple[Any, ...], out: Any) -> None:
        xp = self.xp
        for j, word in enumerate(words):
            xp.right_shift(word, xp.uint32(8), out=word)
            number = self._float[0][: word.size]
            number[...] = word
            xp.multiply(number, _f(2.0**-24), out=out[:, j])

    def _normal(self, words: tuple[Any, ...], out: Any) -> None:
        for j in (0, 2):
            box_muller(self.xp, words[j], words[j + 1], [f[: out.shape[0]] for f in self._float], out[:, j : j + 2])


def box_muller(xp: Any, first: Any, second: Any, scratch: Any, out: Any) -> None:
    """Two words (n,) uint32 to two independent standard normal numbers (n, 2): r cos(angle), r sin(angle).

    r^2 = -2 log u with u = (k + 1/2) / 2^32 rounded to float32, k the first word; the angle is the second word as a
    signed fraction of pi. ``first`` is overwritten.
    """
    u, s, p, r, c, t = scratch
    # u in (0, 1] as mantissa m in [sqrt(1/2), sqrt(2)) and exponent e
    u[...] = first
    xp.add(u, _f(0.5), out=u)
    xp.multiply(u, _f(2.0**-32), out=u)
    bits = u.view(xp.uint32)
    exponent = first.view(xp.int32)
    xp.subtract(bits, HALF_SQRT, out=first)
    xp.right_shift(exponent, xp.int32(23), out=exponent)
    r[...] = exponent
    xp.left_shift(exponent, xp.int32(23), out=exponent)
    xp.subtract(bits, first, out=bits)
    # log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| <= 0.172
    xp.add(u, _f(1), out=p)
    xp.subtract(u, _f(1), out=s)
    xp.divide(s, p, out=s)
    xp.multiply(s, s, out=t)
    _horner(xp, ATANH, t, p)
    xp.multiply(p, t, out=p)
    xp.add(p, _f(1), out=p)
    xp.multiply(p, s, out=p)
    xp.multiply(p, _f(-4), out=p)
    xp.multiply(r, _f(-2) * LOG2, out=r)
    xp.add(r, p, out=r)
    xp.maximum(r, _f(0), out=r)
    xp.sqrt(r, out=r)
    # sine and cosine of a quarter of the angle, then doubled twice
    u[...] = second.view(xp.int32)
    xp.multiply(u, ANGLE, out=u)
    xp.multiply(u, u, out=t)
    _horner(xp, SIN, t, s)
    xp.multiply(s, t, out=s)
    xp.add(s, _f(1), out=s)
    xp.multiply(s, u, out=s)
    _horner(xp, COS, t, c)
    xp.multiply(c, t, out=c)
    xp.add(c, _f(1), out=c)
    for _ in range(2):
        xp.multiply(s, c, out=c)
        xp.multiply(s, s, out=s)
        xp.multiply(s, _f(-2), out=s)
        xp.add(s, _f(1), out=s)  # cosine of the doubled angle
        xp.multiply(c, _f(2), out=c)  # sine of the doubled angle
        s, c = c, s
    xp.multiply(r, c, out=out[:, 0])
    xp.multiply(r, s, out=out[:, 1])


def _horner(xp: Any, coefficients: tuple[Any, ...], x: Any, out: Any) -> None:
    """Polynomial with the highest coefficient first."""
    xp.multiply(x, coefficients[0], out=out)
    xp.add(out, coefficients[1], out=out)
    for coefficient in coefficients[2:]:
        xp.multiply(out, x, out=out)
        xp.add(out, coefficient, out=out)
