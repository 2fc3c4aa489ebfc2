"""Where arrays lie: whether two share bytes, and whether some arrays hold all bytes of another.

Arrays are told by address, shape and strides alone, so that those of a device and of the host are alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


def address(array: Any) -> int:
    """Where an array begins: on the device, or for the double of CuPy on the host."""
    pointer = getattr(array.data, "ptr", None)
    return int(array.ctypes.data if pointer is None else pointer)


def view(array: Any) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """What tells two views apart: address, shape, strides of the axes longer than one."""
    strides = tuple(s if n > 1 else 0 for n, s in zip(array.shape, array.strides, strict=True))
    return address(array), tuple(array.shape), strides


@dataclass(frozen=True)
class Area:
    """The bytes of an array: rows of ``width`` bytes, ``pitch`` apart, within [lo, hi)."""

    lo: int
    hi: int
    width: int
    pitch: int

    @property
    def dense(self) -> bool:
        """Whether it is every byte from the first to the last."""
        return self.hi - self.lo == self.width


def area(array: Any) -> Area:
    """Rows where every axis but the last ones lies dense; otherwise all bytes between the first and the last."""
    axes = [(int(n), int(s)) for n, s in zip(array.shape, array.strides, strict=True) if n > 1]
    if any(n == 0 for n in array.shape):
        return Area(0, 0, 0, 0)
    width = int(np.dtype(array.dtype).itemsize)
    lo = address(array) + sum((n - 1) * s for n, s in axes if s < 0)
    hi = lo + width + sum((n - 1) * abs(s) for n, s in axes)
    axes = sorted((abs(s), n) for n, s in axes if s)
    while axes and axes[0][0] == width:
        width *= axes.pop(0)[1]
    pitch = axes[0][0] if axes else 0
    rows_only = all(outer % pitch == 0 for outer, _ in axes) if pitch else True
    return Area(lo, hi, width, pitch if pitch > width and rows_only else 0)


def overlap(a: Area, b: Area) -> bool:
    """Whether two arrays share bytes; exact for dense ones and for columns of one matrix."""
    if a.lo >= b.hi or b.lo >= a.hi:
        return False
    if a.pitch and a.pitch == b.pitch:
        apart = (b.lo - a.lo) % a.pitch
        return apart < a.width or apart + b.width > a.pitch
    return True


class Place:
    """An array's bytes, and which view of them it is."""

    def __init__(self, array: Any) -> None:
        self.area = area(array)
        self.view = view(array)

    def touches(self, others: Iterable[Place]) -> bool:
        """Whether it shares bytes with any of the others."""
        return any(overlap(self.area, other.area) for other in others)

    def within(self, others: Iterable[Place]) -> bool:
        """Whether the others together hold all of its bytes; never said wrongly, now and then not seen."""
        others = [other for other in others if overlap(self.area, other.area)]
        if any(other.view == self.view for other in others):
            return True
        lo, hi = self.area.lo, self.area.hi
        for first, last in sorted((o.area.lo, o.area.hi) for o in others if o.area.dense):
            if first <= lo < last:
                lo = last
        return lo >= hi


@dataclass(frozen=True)
class Touched:
    """What an operation, or what stands in its place, reads and writes.

    ``unfinished``: of what it writes, arrays that another item has still to finish (a product without its bias).
    ``scratch``: of what it writes, arrays that mean nothing afterwards.
    """

    reads: list[Place]
    writes: list[Place]
    unfinished: list[Place]
    scratch: list[Place]
