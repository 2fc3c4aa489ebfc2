"""A third text of a few kernels: the same arithmetic as one loop, compiled by numba where it is installed.

Found automatically (the extra ``jit``); ``AEVB_JIT=0`` leaves it out. NumPy alone stays complete. Loops are compiled
without fast-math unless they ask for a part of it, so noise keeps its bits; they release the interpreter lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import FunctionType
from typing import Any


@cache
def available() -> bool:
    """Whether numba is installed and wanted."""
    return os.environ.get("AEVB_JIT", "1") != "0" and find_spec("numba") is not None


def compiled(function: Callable[..., Any], fastmath: frozenset[str] = frozenset()) -> Any:
    """``function`` compiled on first call; the machine code is kept in a cache on disk for the next process."""
    import numba

    return numba.njit(nogil=True, error_model="numpy", cache=True, fastmath=set(fastmath) or False)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """``function`` compiled into the loops that call it.

    A copy, that pickles with its code: the cache finds a loop by what its functions say, not by where they live.
    """
    from numba.extending import register_jitable

    copy = FunctionType(function.__code__, function.__globals__, function.__name__, None, function.__closure__)
    copy.__module__ = "__main__"
    return register_jitable(forceinline=True, error_model="numpy")(copy)


@cache
def update_loop(scalar: Callable[..., Any], states: int) -> Any:
    """One pass over a range: theta and up to two state vectors through ``scalar(grad, coef, theta, *state)``."""
    step = inlined(scalar)

    def none(grad: Any, coef: Any, decay: Any, theta: Any) -> None:
        for i in range(theta.size):
            (theta[i],) = step(grad[i] + decay * theta[i], coef, theta[i])

    def one(grad: Any, coef: Any, decay: Any, theta: Any, a: Any) -> None:
        for i in range(theta.size):
            theta[i], a[i] = step(grad[i] + decay * theta[i], coef, theta[i], a[i])

    def two(grad: Any, coef: Any, decay: Any, theta: Any, a: Any, b: Any) -> None:
        for i in range(theta.size):
            theta[i], a[i], b[i] = step(grad[i] + decay * theta[i], coef, theta[i], a[i], b[i])

    return compiled((none, one, two)[states])
