"""Many steps in one kernel: ``for step: for stage: members; barrier of all blocks``.

The kernel is launched cooperatively. It takes its pointers from a table in device memory, one row a replica: runs
that share a launch, each on its own group of blocks with a barrier of its own. Replicas of equal text are of one
*program*. A kernel of several programs has them behind one another, and the last word of a row says which is run.

    persistent(stages, dtype) -> Persistent           text, and the row of the table of this run
    groups(replicas)                                  which may share a kernel
    joined(replicas) -> Joined                        the kernel of several programs
    table(replicas), barriers(replicas)               what is uploaded once
    arguments(table, barriers, steps)                 what each launch takes
    blocks(kernel, multiprocessors, occupancy)        of a replica

A step reads and moves the counters on the device by itself, so ``steps`` is all that a launch is told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.cuda.fused import PLACE, SYNC, Bodies, chain, prelude, shares
from aevb_engine.cuda.launch import Dim, Parameter, Source
from aevb_engine.cuda.module import common, devices, read
from aevb_engine.cuda.source import PREFIX, indent
from aevb_engine.cuda.stages import THREADS, Member
from aevb_engine.memory import address

NAME = f"{PREFIX}persistent"
LATE = 2  # the word of a barrier's state that says that a block gave up
STATE = 32  # words of a barrier's state: a cache line of its own
LIMIT = 1 << 23  # looks of a waiting block: seconds
PROGRAMS = 8  # of one kernel: each is compiled as long as a kernel of its own

AT = "#define AT(type, i) ((type*)__cvta_global_to_generic(word[i]))\n"
WORDS = "__shared__ long long word[{words}];\n"

KERNEL = """\
extern "C" __global__ void __launch_bounds__({threads}, 1) {name}(
    const long long* table, unsigned int* barriers, int replicas, int steps, int limit)
{{
{before}    const unsigned int blocks = gridDim.x / (unsigned int)replicas, replica = blockIdx.x / blocks;
    if (replica >= (unsigned int)replicas)
        return;
    const unsigned int mine = blockIdx.x - replica * blocks;
    unsigned int* const state = barriers + replica * {state};
{goal}    for (int i = threadIdx.x; i < {words}; i += {threads})
        word[i] = table[replica * {words} + i];
    __syncthreads();
{work}}}
"""

GOAL = "unsigned int goal = state[BEGAN];\n"

LOOP = """\
for (int step = 0; step < steps; step++) {{
{stages}}}
if (mine == 0 && threadIdx.x == 0)
    state[BEGAN] = goal;
"""

# Not inlined: registers are those that the neediest takes alone. In a namespace: functions of two programs may have one
# name and other texts.
PROGRAM = """\
namespace program_{number} {{
{functions}
__device__ __noinline__ void run(unsigned int* state, unsigned int mine, unsigned int blocks, int steps, int limit)
{{
{work}}}
}}
"""

# The same way for all blocks of a replica.
BRANCH = """\
if (word[{last}] == {number})
    program_{number}::run(state, mine, blocks, steps, limit);
"""

STAGE = """\
// stage {number}
for (unsigned int v = mine; v < {blocks}u; v += blocks) {{
{work}}}
if (!meet(state, goal += blocks, limit))
    return;
"""


@dataclass(frozen=True)
class Program:
    """The parts of a text."""

    sources: tuple[Source, ...]
    dtype: str
    bodies: tuple[str, ...]
    stages: str


@dataclass(frozen=True)
class Joined:
    """A kernel of one or several programs.

    ``texts``: of each program as a kernel alone, which tells them apart. ``shared``: bytes of dynamic shared memory.
    ``most_blocks``: more blocks of a replica than that have nothing to do. ``row``: words of a row of the table.
    """

    code: str
    texts: tuple[str, ...]
    most_blocks: int
    row: int
    name: str = NAME
    block: Dim = (THREADS, 1, 1)
    shared: int = 0


@dataclass(frozen=True)
class Persistent(Joined):
    """The kernel of one program, and what this run puts into the table."""

    words: tuple[int, ...] = ()  # addresses and words of the seed, a row of the table
    arrays: tuple[Any, ...] = ()  # what the addresses stand for, kept alive
    program: Program | None = None


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
    stages_text = "".join(parts)
    sources = tuple(m.source for stage in stages for m in stage)
    code = "\n".join(
        [
            *prelude(sources, dtype),
            *bodies.texts.values(),
            read("barrier.cuh"),
            AT + _kernel(_loop(stages_text), len(places), WORDS, GOAL),
        ]
    )
    return Persistent(
        code,
        (code,),
        max((sum(m.blocks for m in stage) for stage in stages), default=1),
        len(places),
        words=tuple(value for _, value, _ in places),
        arrays=tuple(arrays),
        program=Program(sources, np.dtype(dtype).name, tuple(bodies.texts.values()), stages_text),
    )


def _loop(stages: str) -> str:
    return LOOP.format(stages=indent(stages))


def _kernel(work: str, words: int, before: str = "", goal: str = "") -> str:
    return KERNEL.format(
        name=NAME, threads=THREADS, words=words, state=STATE, work=indent(work),
        before=indent(before.format(words=words)), goal=indent(goal),
    )  # fmt: skip


def groups(replicas: Sequence[Persistent]) -> list[list[int]]:
    """Numbers of replicas that may share a kernel: of one number type, and of ``PROGRAMS`` programs at most."""
    found: dict[tuple[str, int], list[int]] = {}
    known: dict[str, dict[str, int]] = {}  # number of each text, by number type
    for i, replica in enumerate(replicas):
        assert replica.program is not None
        dtype = replica.program.dtype
        number = known.setdefault(dtype, {}).setdefault(replica.code, len(known[dtype]))
        found.setdefault((dtype, number // PROGRAMS), []).append(i)
    return list(found.values())


def joined(replicas: Sequence[Persistent]) -> Joined:
    """One kernel for all; that of the first where their texts are equal."""
    by_text = {r.code: r for r in replicas}
    if len(by_text) == 1:
        return replicas[0]
    programs = [r.program for r in by_text.values() if r.program is not None]
    dtypes = {p.dtype for p in programs}
    if len(dtypes) > 1:
        raise ValueError(f"replicas of one launch need one number type, not {' and '.join(sorted(dtypes))}")
    macros = {
        tuple(re.findall(r"^\s*#.*", "\n".join([*devices(p.sources), *p.bodies]), re.MULTILINE)) for p in programs
    }
    if len(macros) > 1:  # a namespace does not hold them
        raise ValueError("the CUDA texts of a plugin define macros, and not the same ones in every replica")
    row = max(r.row for r in by_text.values()) + 1
    before = [*common([s for p in programs for s in p.sources], programs[0].dtype), PLACE, read("barrier.cuh")]
    functions, branches = [], ""
    for number, p in enumerate(programs):
        own = "\n".join([*devices(p.sources), *p.bodies])
        functions.append(PROGRAM.format(number=number, functions=own, work=indent(GOAL + _loop(p.stages))))
        branches += BRANCH.format(last=row - 1, number=number)
    code = "\n".join([*before, AT, WORDS.format(words=row), *functions, _kernel(branches, row)])
    return Joined(code, tuple(by_text), max(r.most_blocks for r in by_text.values()), row)


def table(replicas: Sequence[Persistent], kernel: Joined | None = None) -> npt.NDArray[np.int64]:
    """The rows of all replicas, for upload; ValueError unless each is of a program of the kernel (the first's)."""
    kernel = kernel or replicas[0]
    rows = np.zeros((len(replicas), kernel.row), np.uint64)
    for row, replica in zip(rows, replicas, strict=True):
        if replica.code not in kernel.texts:
            raise ValueError("replicas of one launch need the same model, batch and options; only seeds may differ")
        row[: replica.row] = replica.words
        if len(kernel.texts) > 1:
            row[-1] = kernel.texts.index(replica.code)
    return rows.view(np.int64)


def barriers(replicas: Sequence[Persistent]) -> npt.NDArray[np.uint32]:
    """The state of each replica's barrier before the first launch and after a failed one, for upload."""
    return np.zeros((len(replicas), STATE), np.uint32)


def arguments(table: Any, barriers: Any, steps: int, limit: int = LIMIT) -> tuple[Any, ...]:
    """What a launch takes: the uploaded arrays, how many steps, how often a waiting block looks."""
    return (table, barriers, np.int32(len(table)), np.int32(steps), np.int32(limit))


def late(barriers: npt.NDArray[np.uint32]) -> list[int]:
    """The replicas in which a block was waited for in vain, from the downloaded state."""
    return [int(r) for r in np.nonzero(barriers[:, LATE])[0]]


def blocks(kernel: Joined, multiprocessors: int, occupancy: int, replicas: int = 1) -> int:
    """Blocks of the whole grid: all are resident, one a multiprocessor, none without work; 0 if they do not fit.

    ``occupancy``: blocks of this kernel that fit on one multiprocessor. Where there are more replicas than
    multiprocessors, several blocks share one.
    """
    room = multiprocessors if replicas <= multiprocessors else multiprocessors * occupancy
    if occupancy < 1:
        return 0
    return replicas * min(room // replicas, kernel.most_blocks)
