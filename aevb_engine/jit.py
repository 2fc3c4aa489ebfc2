"""A third text of a few kernels: the same arithmetic as one loop, compiled by numba where it is installed.

Found automatically (the extra ``jit``); ``AEVB_JIT=0`` leaves it out. NumPy alone stays complete. Loops are compiled
without fast-math unless they ask for a part of it, so noise keeps its bits; they release the interpreter lock.

The first use of a loop compiles it, seconds each, and keeps the machine code on disk; ``compiling`` tells when.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from types import FunctionType
from typing import Any


@cache
def available() -> bool:
    """Whether numba is installed and wanted."""
    return os.environ.get("AEVB_JIT", "1") != "0" and find_spec("numba") is not None


@dataclass
class Compiling:
    """A series of loops being compiled; one that begins seconds after the last one ended is another."""

    count: int = 0  # begun so far
    since: float = 0.0  # time.monotonic of the first
    ended: float = -math.inf  # of the last one that has ended
    depth: int = 0  # a loop may compile functions that it calls

    def __str__(self) -> str:
        seconds = time.monotonic() - self.since
        return f"compiling loops (first time; kept on disk): {self.count} so far, {seconds:.0f} s"


SERIES = 5.0  # seconds without any that end a series
listeners: list[Callable[[Compiling], None]] = []  # called when a loop begins to be compiled
_series = Compiling()


def compiling() -> Compiling | None:
    """What is being compiled at this moment; None where nothing is, or all comes from the disk."""
    return _series if _series.depth else None


@cache
def _watch() -> None:
    from numba.core import event

    class Watch(event.Listener):  # type: ignore[misc] # numba has no types
        def on_start(self, _: Any) -> None:
            _series.depth += 1
            if _series.depth > 1:
                return
            now = time.monotonic()
            if now - _series.ended > SERIES:
                _series.count, _series.since = 0, now
            _series.count += 1
            for each in listeners[:]:
                each(_series)

        def on_end(self, _: Any) -> None:
            _series.depth -= 1
            _series.ended = time.monotonic()

    event.register("numba:compile", Watch())


def compiled(function: Callable[..., Any], fastmath: frozenset[str] = frozenset()) -> Any:
    """``function`` compiled on first call; the machine code is kept in a cache on disk for the next process."""
    import numba

    _watch()
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
