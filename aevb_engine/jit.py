"""A third text of a few kernels: the same arithmetic as one loop, compiled by numba where it is installed.

Found automatically (the extra ``jit``); ``AEVB_JIT=0`` leaves it out. NumPy alone stays complete, and does the work
where numba cannot: it is tried once, one warning says why not, and ``problem`` keeps it. Loops are compiled without
fast-math unless they ask for a part of it, so noise keeps its bits; they release the interpreter lock.

A loop is compiled when it is bound to its arrays, before it is first used (``compiles``), seconds each, and the machine
code is kept on disk; ``compiling`` tells when.
"""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from types import FunctionType
from typing import Any

from aevb_engine import blame, install

CACHE = "set NUMBA_CACHE_DIR to a folder that can be written"
_problem: str | None = None
_failed: set[Any] = set()  # loops, and classes of plugins, that do not compile


class NotCompiled(Exception):
    """A loop that array code has to replace; why has been said."""


@cache
def available() -> bool:
    """Whether loops are compiled: numba is installed and wanted, and works; where it does not, a warning says so."""
    if os.environ.get("AEVB_JIT", "1") == "0" or _problem is not None:
        return False
    if _spec() is None:
        return False
    amiss = _amiss()
    if amiss is not None:
        _give_up(*amiss)
    return amiss is None


def problem() -> str | None:
    """Why numba, which is there, compiles nothing, with the mend; None where it does, or was not asked to."""
    available()
    return _problem


def _spec() -> Any:
    """Where numba is; None where it is not."""
    try:
        return find_spec("numba")
    except (ImportError, ValueError):  # something without a place that was imported under its name
        return sys.modules.get("numba")


def _amiss() -> tuple[str, str] | None:
    """What is in the way of numba, and the mend."""
    try:
        import numba
        from numba.core import event
        from numba.extending import register_jitable

        needed = numba.njit, numba.typeof, event.register, register_jitable
        disabled = numba.config.DISABLE_JIT or not all(needed)
    except (Exception, SystemExit) as error:  # of another version, of a library below it, or of a folder of that name
        place = next(iter(getattr(_spec(), "submodule_search_locations", None) or []), "?")
        mend = f"install it again ({install.command('jit')}), rename that folder if it is something else"
        return f"numba in {place} cannot be used: {blame.said(error)}", mend
    if disabled:
        return "NUMBA_DISABLE_JIT is set", "unset it"
    try:
        compiled(_probe)
    except Exception as error:
        return f"numba finds no place for what it compiles: {blame.said(error)}", CACHE
    return None


def _probe(x: Any) -> Any:
    return x


def _give_up(why: str, mend: str) -> None:
    global _problem
    _problem = f"loops are not compiled, NumPy runs in their place, slower: {why}; {mend}, or AEVB_JIT=0 to have it so"
    available.cache_clear()
    warnings.warn(_problem, stacklevel=3)


def compiles(loop: Any, *given: Any, of: Any = None) -> bool:
    """Whether a loop can be called with arguments of these types: it is compiled now, or read from the disk.

    Where that fails a warning says so, once, and array code runs in its place: in place of all loops, or where its text
    is a plugin's, ``of``, of that alone.
    """
    if not available() or loop in _failed or type(of) in _failed:
        return False
    try:
        loop.compile(tuple(map(loop.typeof_pyval, given)))
        return True
    except Exception as error:  # numba's, LLVM's, the disk's
        _failed.add(loop if of is None else type(of))
        if of is not None and not isinstance(error, OSError):
            if not works():  # numba itself, which that has said
                return False
            line = f"{blame.name(of)}: scalar cannot be compiled: {blame.said(error)}; array code runs in its place"
            warnings.warn(line, stacklevel=3)
        elif isinstance(error, OSError):
            _give_up(f"numba cannot keep what it compiles: {blame.said(error)}", CACHE)
        else:
            version = getattr(sys.modules.get("numba"), "__version__", "?")
            _give_up(f"numba {version} does not compile {loop.__name__}: {blame.said(error)}", install.command("jit"))
    return False


def works() -> bool:
    """Whether a loop is indeed compiled: what ``available`` does not try, as it takes a moment."""
    return available() and compiles(compiled(_probe), 1.0)


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
