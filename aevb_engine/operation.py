"""Buffers and operations: what one training step is made of.

An operation names its kernel, the buffers it reads and the buffers it writes. The same list is run eagerly, split over
rows or parameters by threads, and checked for hazards in tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from aevb_engine.kernel import Kernel
from aevb_engine.memory import Place, Touched


@dataclass(frozen=True)
class Rows:
    """Data points ``lo`` to ``hi`` of a batch: the share of one thread."""

    lo: int
    hi: int


@dataclass(frozen=True)
class Buffer:
    """A named array of one batch shape.

    ``per_point``: rows of the array for each data point (1: a batch array, L: a sample array, 0: not split by rows).
    ``base``: the storage it is a view of; two buffers with one base may overlap.
    """

    name: str
    array: Any
    per_point: int = 0
    base: str = ""

    @cached_property
    def place(self) -> Place:
        """Its bytes."""
        return Place(self.array)

    @property
    def storage(self) -> str:
        return self.base or self.name

    def view(self, rows: Rows) -> Any:
        """The share of ``rows``, or the whole array where it is not split."""
        k = self.per_point
        return self.array[rows.lo * k : rows.hi * k] if k else self.array

    def part(self, index: Any) -> Buffer:
        """A view by NumPy index of the same storage."""
        return Buffer(self.name, self.array[index], self.per_point, self.storage)

    def reshaped(self, per_point: int, *shape: int) -> Buffer:
        """The same numbers in another shape."""
        return Buffer(self.name, self.array.reshape(shape), per_point, self.storage)


@dataclass(frozen=True)
class Operation:
    """``bind(xp, rows)`` gives the call to run; ``reads`` and ``writes`` are all it touches.

    What it writes it writes wholly, or reads it, too (but for rows of a report that only the host reads). Of what it
    writes, ``scratch`` means nothing afterwards.
    ``kernel`` with its ``arguments``, or for an operation of several kernels its ``facts`` by name, say the same to a
    backend that launches texts of its own.
    """

    name: str
    bind: Callable[[Any, Rows], Callable[[], None]]
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    kernel: Kernel | None = None
    arguments: tuple[Buffer | float, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    scratch: tuple[Buffer, ...] = ()
    unfinished: bool = False  # what it writes is still to be finished by another that stands for the same ones

    @cached_property
    def touched(self) -> Touched:
        """The same as memory."""
        reads, writes, scratch = ([b.place for b in buffers] for buffers in (self.reads, self.writes, self.scratch))
        return Touched(reads, writes, writes if self.unfinished else [], scratch)


def operation(kernel: Kernel, *arguments: Buffer | float) -> Operation:
    """The operation that calls ``kernel`` with buffers and constants in the order of its signature."""
    if len(arguments) != len(kernel.arguments):
        raise TypeError(f"kernel {kernel.name} takes {len(kernel.arguments)} arguments, not {len(arguments)}")
    reads: list[Buffer] = []
    writes: list[Buffer] = []
    scratch: list[Buffer] = []
    for declared, given in zip(kernel.arguments, arguments, strict=True):
        if isinstance(given, Buffer):
            if declared.output or declared.scratch:
                writes.append(given)
            if declared.scratch:
                scratch.append(given)
            if not (declared.output or declared.scratch) or declared.inplace:
                reads.append(given)
        elif declared.shape != "const":
            raise TypeError(f"kernel {kernel.name}: {declared.name} must be a buffer")

    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        views = tuple(a.view(rows) if isinstance(a, Buffer) else a for a in arguments)
        function = kernel.function
        return lambda: function(xp, *views)

    return Operation(kernel.name, bind, tuple(reads), tuple(writes), kernel, arguments, scratch=tuple(scratch))


def custom(
    name: str,
    bind: Callable[[Any, Rows], Callable[[], None]],
    reads: tuple[Buffer, ...] = (),
    writes: tuple[Buffer, ...] = (),
    scratch: tuple[Buffer, ...] = (),
    **facts: Any,
) -> Operation:
    """An operation that is not one kernel: its reads, writes and scratch (written, too) are declared by hand."""
    return Operation(name, bind, reads, (*writes, *scratch), facts=facts, scratch=scratch)
