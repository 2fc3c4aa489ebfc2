"""exp, log1p and tanh in single precision from arithmetic alone, so that a compiled loop around them runs in vectors.

A call into a mathematics library would keep the loop from it. All are within a few units in the last place, and NaN
stays NaN.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from aevb_engine.jit import inlined

_f = np.float32
LOG2E = _f(1.4426950408889634)
LN2_HIGH, LN2_LOW = _f(0.693359375), _f(-2.12194440e-4)  # their sum is log 2; k times the first is exact
LOWEST, HIGHEST = _f(-88), _f(89)  # below the first e^v is 0, above the second infinite
HALF, ONE, TWO = _f(0.5), _f(1), _f(2)
# e^r on |r| <= log(2) / 2: 1 + r + r^2 (E0 + E1 r + ...), coefficients of Cephes' expf
E0, E1, E2, E3, E4, E5 = (
    _f(c)
    for c in (5.0000001201e-1, 1.6666665459e-1, 4.1665795894e-2, 8.3334519073e-3, 1.3981999507e-3, 1.9875691500e-4)
)
# log((1 + s) / (1 - s)) = 2 s (1 + s^2 / 3 + s^4 / 5 + ...) on s <= 1/3
L0, L1, L2, L3, L4, L5 = (_f(2 / n) for n in (1, 3, 5, 7, 9, 11))
# tanh v = v P(v^2) / Q(v^2) up to where it rounds to one: the rational approximation of Eigen
P0, P1, P2, P3, P4, P5, P6 = (
    _f(c)
    for c in (
        4.89352455891786e-03,
        6.37261928875436e-04,
        1.48572235717979e-05,
        5.12229709037114e-08,
        -8.60467152213735e-11,
        2.00018790482477e-13,
        -2.76076847742355e-16,
    )
)
Q0, Q1, Q2, Q3 = (
    _f(c) for c in (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)
)
SATURATED = _f(7.90531110763549805)
BIAS, MANTISSA = np.int32(127), np.int32(23)


class Elementary(NamedTuple):
    """``exp(v)``, ``excess(v)`` = e^v - 1 - v, ``log1p(v)`` of v in [0, 1] and ``tanh(v)``; float32 to float32."""

    exp: Any
    excess: Any
    log1p: Any
    tanh: Any


@cache
def elementary() -> Elementary:
    """The functions, compiled to be inlined."""

    def exp(v: Any) -> Any:
        v = LOWEST if v < LOWEST else v
        v = HIGHEST if v > HIGHEST else v
        n = np.int32(v * LOG2E + (HALF if v >= 0 else -HALF))
        k = _f(n)
        r = (v - k * LN2_HIGH) - k * LN2_LOW
        p = ((((E5 * r + E4) * r + E3) * r + E2) * r + E1) * r + E0
        return (p * r * r + r + ONE) * np.int32((n + BIAS) << MANTISSA).view(_f)

    def excess(v: Any) -> Any:
        """Never negative: for |v| <= log(2) / 2 what the series of e^v holds beyond 1 + v, above it no cancellation."""
        w = LOWEST if v < LOWEST else v
        w = HIGHEST if w > HIGHEST else w
        n = np.int32(w * LOG2E + (HALF if w >= 0 else -HALF))
        k = _f(n)
        r = (w - k * LN2_HIGH) - k * LN2_LOW
        p = ((((E5 * r + E4) * r + E3) * r + E2) * r + E1) * r + E0
        beyond = p * r * r
        power = (beyond + r + ONE) * np.int32((n + BIAS) << MANTISSA).view(_f)
        return beyond if n == 0 else power - ONE - v

    def log1p(v: Any) -> Any:
        s = v / (TWO + v)
        t = s * s
        return (((((L5 * t + L4) * t + L3) * t + L2) * t + L1) * t + L0) * s

    def tanh(v: Any) -> Any:
        v = SATURATED if v > SATURATED else v
        v = -SATURATED if v < -SATURATED else v
        t = v * v
        p = (((((P6 * t + P5) * t + P4) * t + P3) * t + P2) * t + P1) * t + P0
        return v * p / (((Q3 * t + Q2) * t + Q1) * t + Q0)

    return Elementary(inlined(exp), inlined(excess), inlined(log1p), inlined(tanh))
