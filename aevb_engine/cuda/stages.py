"""Which launches of a step may run side by side: layers of their dependence graph, found from memory ranges.

A member is one launch. Two members have a hazard where one writes what the other reads or writes; then the later one
of the step's order belongs to a later layer. Layers are as few as the longest chain of hazards; a member with a choice
goes where the least work is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aevb_engine.cuda.launch import Launch, Source
from aevb_engine.cuda.lower import Text
from aevb_engine.cuda.product import MULTIPROCESSORS
from aevb_engine.memory import address, area, overlap
from aevb_engine.operation import Rows

THREADS = 256  # of every block
HEAVY = 8  # a tile of a product takes about as long as so many blocks of other texts


@dataclass(frozen=True)
class Member:
    """One launch of a text."""

    source: Source
    launch: Launch

    @property
    def blocks(self) -> int:
        return math.prod(self.launch.grid)

    @property
    def heavy(self) -> bool:
        """Whether a block does a tile of a product, and not a few numbers a thread."""
        return "product.cuh" in self.source.parts

    def arrays(self) -> Iterator[tuple[Any, bool]]:
        """Each array, and whether it is written."""
        for p, argument in zip(self.source.parameters, self.launch.args, strict=True):
            if p.kind == "array":
                yield argument, p.written


def members(items: Sequence[Any], rows: Rows) -> list[Member]:
    """The launches of texts on a whole batch; TypeError for an operation without text."""
    out = []
    for item in items:
        if not isinstance(item, Text):
            raise TypeError(f"{getattr(item, 'name', 'a product of the library')} has no CUDA text")
        member = Member(item.source, item.source.launch(*item.arrays(rows)))
        block = member.launch.block
        if math.prod(block) != THREADS:
            raise TypeError(f"{item.source.name}: blocks of {' x '.join(map(str, block))} threads, not of {THREADS}")
        out.append(member)
    return out


def stages(members: Sequence[Member], multiprocessors: int = MULTIPROCESSORS) -> list[list[Member]]:
    """The layers of the dependence graph in order; within one no member touches what another writes."""
    graph = _Graph(members)
    load = [_Load(multiprocessors) for _ in range(graph.count)]

    def importance(m: int) -> tuple[bool, bool, int]:
        """Those without a choice first, then the heavy and wide ones."""
        return graph.earliest[m] < graph.latest[m], not members[m].heavy, -members[m].blocks

    for m in sorted(range(len(members)), key=importance):
        choice = range(graph.earliest[m], graph.latest[m] + 1)
        chosen = min(choice, key=lambda layer: (load[layer].more(members[m]), load[layer].waves, layer))
        load[chosen].add(members[m])
        graph.place(m, chosen)
    out: list[list[Member]] = [[] for _ in load]
    for m, layer in enumerate(graph.earliest):
        out[layer].append(members[m])
    # Blocks are given out in this order: heavy ones first, so that each gets a multiprocessor of its own.
    return [sorted(layer, key=lambda member: not member.heavy) for layer in out]


class _Graph:
    """Who must come before whom, and the layers that each member may be in."""

    def __init__(self, members: Sequence[Member]) -> None:
        touched = [[(area(array), written) for array, written in m.arrays()] for m in members]
        n = len(members)
        self.before: list[list[int]] = [[] for _ in range(n)]
        self.after: list[list[int]] = [[] for _ in range(n)]
        for j in range(n):
            for i in range(j):
                if any((w or v) and overlap(a, b) for a, w in touched[i] for b, v in touched[j]):
                    self.before[j].append(i)
                    self.after[i].append(j)
        self.earliest = [0] * n
        for j in range(n):
            self.earliest[j] = max((self.earliest[i] + 1 for i in self.before[j]), default=0)
        self.count = max(self.earliest, default=-1) + 1
        self.latest = [self.count - 1] * n
        for i in reversed(range(n)):
            self.latest[i] = min((self.latest[j] - 1 for j in self.after[i]), default=self.count - 1)

    def place(self, m: int, layer: int) -> None:
        """Fix a member's layer, and narrow what is left to those before and behind it."""
        self.earliest[m] = self.latest[m] = layer
        todo = [m]
        while todo:
            i = todo.pop()
            for j in self.after[i]:
                if self.earliest[j] <= self.earliest[i]:
                    self.earliest[j] = self.earliest[i] + 1
                    todo.append(j)
        todo = [m]
        while todo:
            j = todo.pop()
            for i in self.before[j]:
                if self.latest[i] >= self.latest[j]:
                    self.latest[i] = self.latest[j] - 1
                    todo.append(i)


class _Load:
    """What a layer has to do, in blocks of light members one after the other on a multiprocessor."""

    def __init__(self, multiprocessors: int) -> None:
        self.multiprocessors = multiprocessors
        self.blocks = {False: 0, True: 0}

    def _waves(self, light: int, heavy: int) -> float:
        """Light ones run where no heavy one is left to run."""
        return max(HEAVY * -(-heavy // self.multiprocessors), (light + HEAVY * heavy) / self.multiprocessors)

    @property
    def waves(self) -> float:
        return self._waves(*self.blocks.values())

    def more(self, member: Member) -> float:
        blocks = self.blocks | {member.heavy: self.blocks[member.heavy] + member.blocks}
        return self._waves(*blocks.values()) - self.waves

    def add(self, member: Member) -> None:
        self.blocks[member.heavy] += member.blocks


class Hazard(AssertionError):
    """Two members of one layer, or of layers in the wrong order, touch the same memory."""


def check(stages: Sequence[Sequence[Member]], members: Sequence[Member]) -> None:
    """Raise ``Hazard`` unless the layers keep the order of every read and write of the same byte.

    A replay: the members in the step's order, each piece of memory remembering the last layer that wrote and read it.
    """
    layer = {id(m): number for number, stage in enumerate(stages) for m in stage}
    if sorted(id(m) for stage in stages for m in stage) != sorted(id(m) for m in members):
        raise Hazard("the layers do not hold each member once")
    runs = {id(a): _runs(a) for m in members for a, _ in m.arrays()}
    edges = np.unique(np.concatenate([r.ravel() for r in runs.values()] or [np.zeros(0, np.int64)]))
    written, read = np.full((2, len(edges)), -1)
    for m in members:
        now = layer[id(m)]
        pieces = [(np.searchsorted(edges, runs[id(a)]), w) for a, w in m.arrays()]
        for spans, w in pieces:
            for lo, hi in spans:
                if written[lo:hi].max(initial=-1) >= now or (w and read[lo:hi].max(initial=-1) >= now):
                    raise Hazard(f"{m.source.name} in layer {now} touches what an earlier member writes or reads there")
        for spans, w in pieces:
            for lo, hi in spans:
                table = written if w else read
                table[lo:hi] = np.maximum(table[lo:hi], now)


def _runs(array: Any) -> Any:
    """[first, last) byte of each dense run of an array."""
    starts = np.array([address(array)], np.int64)
    axes = sorted((abs(int(s)), int(n)) for n, s in zip(array.shape, array.strides, strict=True) if n > 1 and s)
    width = int(np.dtype(array.dtype).itemsize)
    while axes and axes[0][0] == width:
        width *= axes.pop(0)[1]
    for stride, n in axes:
        starts = (starts[:, None] + stride * np.arange(n)).ravel()
    return np.stack([starts, starts + width], 1)
