"""What the engine asks of a backend: an array module, memory, and a way to run bound operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy.typing as npt

Call = Callable[[], None]


class Backend(Protocol):
    """Arrays and execution on one device."""

    name: str  # "cpu" or "gpu"
    xp: Any  # numpy or cupy
    threads: int

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any: ...
    def upload(self, array: npt.NDArray[Any]) -> Any: ...
    def download(self, array: Any) -> npt.NDArray[Any]: ...
    def device(self) -> str:
        """The device in words, for the run's record."""
        ...

    def run(self, phases: Sequence[Sequence[Sequence[Call]]], times: int) -> None:
        """Run the phases in order, ``times`` times; the lists inside a phase may run at the same time."""
        ...

    def close(self) -> None: ...


def choose(name: str, threads: int | None = None) -> Backend:
    """The backend called ``auto``, ``cpu`` or ``gpu``."""
    from aevb_engine.backend.numpy import NumpyBackend
    from aevb_engine.errors import BackendError, UsageError

    if name in ("auto", "cpu"):
        return NumpyBackend(threads)
    if name == "gpu":
        raise BackendError("backend 'gpu' is not part of this version; use --backend cpu")
    raise UsageError(f"unknown backend '{name}': known: auto, cpu, gpu")
