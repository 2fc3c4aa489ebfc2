"""Many steps in one kernel: ``for step: for stage: members; barrier of all blocks``.

The kernel is launched cooperatively. It takes its pointers from a table in device memory, one row a replica: runs of
equal text that share a launch, each on its own group of blocks with a barrier of its own.

    persistent(stages, dtype) -> Persistent           text, and the row of the table of this run
    table(replicas), barriers(replicas)               what is uploaded once
    arguments(table, barriers, steps)                 what each launch takes
    blocks(persistent, multiprocessors, occupancy)    of a replica

A step reads and moves the counters on the device by itself, so ``steps`` is all that a launch is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.cuda.fused import SYNC, Bodies, chain, prelude, shares
from aevb_engine.cuda.launch import Dim, Parameter
from aevb_engine.cuda.module import read
from aevb_engine.cuda.source import PREFIX, indent
from aevb_engine.cuda.stages import THREADS, Member, address

NAME = f"{PREFIX}persistent"
LATE = 2  # the word of a barrier's state that says that a block gave up
STATE = 32  # words of a barrier's state: a cache line of its own
LIMIT = 1 << 23  # looks of a waiting block: seconds

KERNEL = """\
#define AT(type, i) ((type*)__cvta_global_to_generic(word[i]))
extern "C" __global__ void __launch_bounds__({threads}, 1) {name}(
    const long long* table, unsigned int* barriers, int replicas, int steps, int limit)
{{
    __shared__ long long word[{words}];
    const unsigned int blocks = gridDim.x / (unsigned int)replicas, replica = blockIdx.x / blocks;
    if (replica >= (unsigned int)replicas)
        return;
    const unsigned int mine = blockIdx.x - replica * blocks;
    unsigned int* const state = barriers + replica * {state};
    unsigned int goal = state[BEGAN];
    for (int i = threadIdx.x; i < {words}; i += {threads})
        word[i] = table[replica * {words} + i];
    __syncthreads();
    for (int step = 0; step < steps; step++) {{
{stages}    }}
    if (mine == 0 && threadIdx.x == 0)
        state[BEGAN] = goal;
}}
"""

STAGE = """\
// stage {number}
for (unsigned int v = mine; v < {blocks}u; v += blocks) {{
{work}}}
if (!meet(state, goal += blocks, limit))
    return;
"""


@dataclass(frozen=True)
class Persistent:
    """The text, and what this run puts into the table.

    ``shared``: bytes of dynamic shared memory. ``most_blocks``: more blocks of a replica than that have nothing to do.
    """

    code: str
    name: str
    block: Dim
    most_blocks: int
    shared: int
    words: tuple[int, ...]  # addresses and words of the seed, a row of the table
    arrays: tuple[Any, ...]  # what the addresses stand for, kept alive


def persistent(stages: Sequence[Sequence[Member]], dtype: Any) -> Persistent:
    """The kernel of a whole step."""
    bodies = Bodies()
    places: dict[tuple[str, int, str], int] = {}
    arrays: list[Any] = []

    def passed(p: Parameter, value: Any) -> str:
        key = ("pointer", address(value), "") if p.kind == "array" else ("value", int(value), p.name)
        if key not in places and p.kind == "array":
            arrays.append(value)
        place = places.setdefault(key, len(places))
        if p.kind != "array":
            return f"({p.type})word[{place}]"
        return f"AT({p.type}, {place})"

    parts = []
    for number, stage in enumerate(stages):
        work = chain(stage, bodies, passed)
        if any(shares(m.source) for m in stage):
            work += SYNC
        total = sum(m.blocks for m in stage)
        parts.append(STAGE.format(number=number, blocks=total, work=indent(work)))
    kernel = KERNEL.format(
        name=NAME, threads=THREADS, words=len(places), state=STATE, stages=indent(indent("".join(parts)))
    )
    sources = [m.source for stage in stages for m in stage]
    code = "\n".join([*prelude(sources, dtype), *bodies.texts.values(), read("barrier.cuh"), kernel])
    most = max((sum(m.blocks for m in stage) for stage in stages), default=1)
    return Persistent(code, NAME, (THREADS, 1, 1), most, 0, tuple(value for _, value, _ in places), tuple(arrays))


def table(replicas: Sequence[Persistent]) -> npt.NDArray[np.int64]:
    """The rows of all replicas, for upload; ValueError unless their texts are equal."""
    if any(r.code != replicas[0].code for r in replicas):
        raise ValueError("replicas of one launch need the same model, batch and options; only seeds may differ")
    return np.array([r.words for r in replicas], np.uint64).view(np.int64)


def barriers(replicas: Sequence[Persistent]) -> npt.NDArray[np.uint32]:
    """The state of each replica's barrier before the first launch and after a failed one, for upload."""
    return np.zeros((len(replicas), STATE), np.uint32)


def arguments(table: Any, barriers: Any, steps: int, limit: int = LIMIT) -> tuple[Any, ...]:
    """What a launch takes: the uploaded arrays, how many steps, how often a waiting block looks."""
    return (table, barriers, np.int32(len(table)), np.int32(steps), np.int32(limit))


def late(barriers: npt.NDArray[np.uint32]) -> list[int]:
    """The replicas in which a block was waited for in vain, from the downloaded state."""
    return [int(r) for r in np.nonzero(barriers[:, LATE])[0]]


def blocks(persistent: Persistent, multiprocessors: int, occupancy: int, replicas: int = 1) -> int:
    """Blocks of the whole grid: all are resident, one a multiprocessor, none without work; 0 if they do not fit.

    ``occupancy``: blocks of this kernel that fit on one multiprocessor. Where there are more replicas than
    multiprocessors, several blocks share one.
    """
    room = multiprocessors if replicas <= multiprocessors else multiprocessors * occupancy
    if occupancy < 1:
        return 0
    return replicas * min(room // replicas, persistent.most_blocks)
