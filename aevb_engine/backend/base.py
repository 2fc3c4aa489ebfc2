"""What the engine asks of a backend: an array module, memory, and a way to run bound operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy.typing as npt

from aevb_engine.operation import Operation, Rows

Call = Callable[[], None]


class Backend(Protocol):
    """Arrays and execution on one device."""

    name: str  # "cpu" or "gpu"
    xp: Any  # numpy or cupy
    threads: int

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any: ...
    def upload(self, array: npt.NDArray[Any]) -> Any: ...
    def download(self, array: Any) -> npt.NDArray[Any]: ...
    def bind(self, operations: Sequence[Operation], rows: Rows) -> list[Call]:
        """The calls that carry out the operations on a share of the rows, in order."""
        ...

    def device(self) -> str:
        """The device in words, for the run's record."""
        ...

    def run(self, phases: Sequence[Sequence[Sequence[Call]]], times: int) -> None:
        """Run the phases in order, ``times`` times; the lists inside a phase may run at the same time."""
        ...

    def close(self) -> None: ...
