"""The noise and the binarizing gather as compiled loops: the numbers of ``philox.py`` and ``noise.py`` bit for bit."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from aevb_engine.jit import compiled, inlined
from aevb_engine.kernels.noise import ANGLE, ATANH, COS, LOG2, SIN
from aevb_engine.kernels.philox import MULTIPLIERS, ROUNDS, WEYL

M0, M1 = (np.uint64(m) for m in MULTIPLIERS)
W0, W1 = (np.uint64(w) for w in WEYL)
MASK, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_f = np.float32
A3, A2, A1, A0 = ATANH
S3, S2, S1, S0 = SIN
C3, C2, C1, C0 = COS
E2 = _f(-2) * LOG2
SQRT_HALF = np.int32(0x3F3504F3)


def _philox(a: Any, b: Any, c: Any, d: Any, k0: Any, k1: Any) -> Any:
    for _ in range(ROUNDS):
        p, q = M0 * a, M1 * c
        a = (q >> HALF) ^ b ^ k0
        b = q & MASK
        c = (p >> HALF) ^ d ^ k1
        d = p & MASK
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return a, b, c, d


def _box_muller(first: Any, second: Any, bits: Any) -> Any:
    """``bits``: one float32 and the same memory as int32, to take a number apart."""
    number, word = bits
    number[0] = (_f(np.uint32(first)) + _f(0.5)) * _f(2.0**-32)
    e = (word[0] - SQRT_HALF) >> np.int32(23)
    word[0] -= e << np.int32(23)
    m = number[0]
    s = (m - _f(1)) / (m + _f(1))
    t = s * s
    p = t * A3 + A2
    p = p * t + A1
    p = p * t + A0
    p = ((p * t + _f(1)) * s) * _f(-4)
    r = np.sqrt(max(_f(np.int32(e)) * E2 + p, _f(0)))
    u = _f(np.int32(np.uint32(second))) * ANGLE
    t = u * u
    sine = t * S3 + S2
    sine = sine * t + S1
    sine = sine * t + S0
    sine = (sine * t + _f(1)) * u
    cosine = t * C3 + C2
    cosine = cosine * t + C1
    cosine = cosine * t + C0
    cosine = cosine * t + _f(1)
    for _ in range(2):
        product = sine * cosine
        cosine = (sine * sine) * _f(-2) + _f(1)
        sine = product * _f(2)
    return r * cosine, r * sine


@cache
def normal_loop() -> Any:
    """``fill(step, row, stream, k0, k1, bits, out)``: standard normal numbers into out (steps, rows, columns)."""
    philox, box_muller = inlined(_philox), inlined(_box_muller)

    def fill(step: Any, row: Any, stream: Any, k0: Any, k1: Any, bits: Any, out: Any) -> None:
        steps, rows, columns = out.shape
        for t in range(steps):
            for r in range(rows):
                for g in range((columns + 3) // 4):
                    a, b, c, d = philox(np.uint64(g), np.uint64(row + r), np.uint64(step + t), stream, k0, k1)
                    x, y = box_muller(a, b, bits)
                    out[t, r, 4 * g] = x
                    if 4 * g + 1 < columns:
                        out[t, r, 4 * g + 1] = y
                    if 4 * g + 2 < columns:
                        x, y = box_muller(c, d, bits)
                        out[t, r, 4 * g + 2] = x
                        if 4 * g + 3 < columns:
                            out[t, r, 4 * g + 3] = y

    return compiled(fill)


@cache
def gather_bernoulli_loop() -> Any:
    """``gather(data, index, step, row, stream, k0, k1, x)``: x ~ Bernoulli(data[index] / 255)."""
    philox = inlined(_philox)

    def gather(data: Any, index: Any, step: Any, row: Any, stream: Any, k0: Any, k1: Any, x: Any) -> None:
        rows, columns = x.shape
        low = np.uint64(0xFFFF)
        for r in range(rows):
            source = data[index[r]]
            for g in range((columns + 7) // 8):
                words = philox(np.uint64(g), np.uint64(row + r), np.uint64(step), stream, k0, k1)
                for j in range(min(8, columns - 8 * g)):
                    k = (words[j // 2] >> np.uint64(16 * (j % 2))) & low
                    p = source[8 * g + j]
                    x[r, 8 * g + j] = 1 if (np.uint64(255) * k) >> np.uint64(16) < p else 0

    return compiled(gather)
