"""One kernel a stage: each member's body as a device function, its sizes and constants as literals.

A block of a fused kernel has 256 threads in one dimension and runs virtual blocks of the members; each member sees its
own ``blockIdx gridDim threadIdx blockDim``, so that a body is the same text as in a kernel of its own and gives the
same bits. What differs between runs of one model (the words of the seed) stays an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aevb_engine.cuda.launch import HEAD, Dim, Parameter, Source
from aevb_engine.cuda.module import read, shared
from aevb_engine.cuda.source import PREFIX, indent
from aevb_engine.cuda.stages import THREADS, Member
from aevb_engine.memory import address

MOST_BLOCKS = 1 << 16  # of a captured kernel; it loops over the rest
RUN = ("key0", "key1")  # constants of a run, not of a model

PLACE = """\
struct Place {
    unsigned int x, y, z;
};
"""

SYNC = "__syncthreads();  // shared memory has been read\n"

BODY = """\
__device__ __forceinline__ void {name}({parameters})
{{
    [[maybe_unused]] const Place gridDim = {{{grid}}}, blockDim = {{{block}}};
    [[maybe_unused]] const Place blockIdx = {{{block_index}}};
    [[maybe_unused]] const Place threadIdx = {{{thread_index}}};
{literals}{body}}}
"""


@dataclass(frozen=True)
class Kernel:
    """One launch of a captured step; ``args``: device arrays and the words of the seed as NumPy scalars."""

    name: str
    grid: Dim
    block: Dim
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Captured:
    """A text and its kernels, which launched one after the other are one step."""

    code: str
    kernels: tuple[Kernel, ...]


def captured(stages: Sequence[Sequence[Member]], dtype: Any, most_blocks: int = MOST_BLOCKS) -> Captured:
    """One kernel a stage; at most ``most_blocks`` blocks each."""
    bodies = Bodies()
    texts: list[str] = []
    kernels: list[Kernel] = []
    for number, stage in enumerate(stages):
        name = f"{PREFIX}stage_{number}"
        arguments: dict[tuple[int, str], str] = {}  # (address or value, type) to the parameter's name
        given: list[Any] = []

        def passed(p: Parameter, value: Any, known: dict[Any, str] = arguments, given: list[Any] = given) -> str:
            kind = f"{p.type}*" if p.kind == "array" else p.type
            key = (address(value) if p.kind == "array" else int(value), kind)
            if key not in known:
                known[key] = f"p{len(known)}"
                given.append(value)
            return known[key]

        blocks = sum(m.blocks for m in stage)
        grid = min(blocks, most_blocks)
        work = chain(stage, bodies, passed)
        if grid < blocks and any(shares(m.source) for m in stage):
            work += SYNC
        if grid == blocks:
            loop = f"    const unsigned int v = blockIdx.x;\n{indent(work)}"
        else:
            loop = (
                f"    for (unsigned int v = blockIdx.x; v < {blocks}u; v += {grid}u) {{\n{indent(indent(work))}    }}\n"
            )
        parameters = ", ".join(f"{kind} {parameter}" for (_, kind), parameter in arguments.items())
        texts.append(
            f'extern "C" __global__ void __launch_bounds__({THREADS}, 1) {name}({parameters})\n{{\n{indent(loop)}}}\n'
        )
        kernels.append(Kernel(name, (grid, 1, 1), (THREADS, 1, 1), tuple(given)))
    sources = [m.source for stage in stages for m in stage]
    return Captured("\n".join([*prelude(sources, dtype), *bodies.texts.values(), *texts]), tuple(kernels))


def prelude(sources: Iterable[Source], dtype: Any) -> list[str]:
    """What members stand on."""
    return [*shared(sources, dtype), PLACE]


class Bodies:
    """The device functions of members; equal ones once."""

    def __init__(self) -> None:
        self._names: dict[tuple[Any, ...], str] = {}
        self.texts: dict[str, str] = {}

    def name(self, member: Member) -> str:
        """The function that runs virtual block ``virtual_block`` of a member; its text is kept in ``texts``."""
        source, launch = member.source, member.launch
        pairs = list(zip(source.parameters, launch.args, strict=True))
        fixed = {_written(p): literal(p, value) for p, value in pairs if p.kind != "array" and p.name not in RUN}
        key = (source.name, source.text, launch.grid, launch.block, *fixed.items())
        if key not in self._names:
            name = self._names[key] = f"{source.name}_{len(self._names)}"
            passed = [f"{'' if p.written else 'const '}{p.type}* {p.name}_" for p, _ in pairs if p.kind == "array"]
            passed += [f"{p.type} {p.name}" for p, _ in pairs if p.kind == "const" and p.name in RUN]
            types = {_written(p): p.type for p, _ in pairs}
            self.texts[name] = BODY.format(
                name=name,
                parameters=", ".join([*passed, "unsigned int virtual_block", "unsigned int thread"]),
                grid=", ".join(f"{n}u" for n in launch.grid),
                block=", ".join(f"{n}u" for n in launch.block),
                block_index=_split("virtual_block", launch.grid),
                thread_index=_split("thread", launch.block),
                literals="".join(
                    f"    [[maybe_unused]] const {types[n]} {n} = {value};\n" for n, value in fixed.items()
                ),
                body=indent(HEAD.split(source.text)[-1].strip() + "\n"),
            )
        return self._names[key]


def _written(p: Parameter) -> str:
    """The parameter's name in the text."""
    return {"size": f"size_{p.letter}", "stride": f"{p.name}_{p.letter}"}.get(p.kind, p.name)


def _split(index: str, n: Dim) -> str:
    """A number counted through three dimensions."""
    x = "0u" if n[0] == 1 else index if n[1] == n[2] == 1 else f"{index} % {n[0]}u"
    y = "0u" if n[1] == 1 else f"{index} / {n[0]}u" + ("" if n[2] == 1 else f" % {n[1]}u")
    z = "0u" if n[2] == 1 else f"{index} / {n[0] * n[1]}u"
    return f"{x}, {y}, {z}"


def literal(p: Parameter, value: Any) -> str:
    """A constant in the text, exactly."""
    if isinstance(value, np.floating):
        if not np.isfinite(value):
            raise ValueError(f"constant {p.name} is {value}")
        return f"(T){float(value).hex()}" if p.type == "T" else float(value).hex()
    suffix = {"int": "", "unsigned int": "u", "long long": "ll"}.get(p.type, "")
    return f"{int(value)}{suffix}" if value > -(2**31) else f"({p.type})({int(value) + 1}ll - 1)"


Passed = Callable[[Parameter, Any], str]  # how a kernel names a pointer or a word of the seed


def chain(stage: Sequence[Member], bodies: Bodies, passed: Passed, thread: str = "threadIdx.x") -> str:
    """Text that runs virtual block ``v`` of all members of a stage, numbered through."""
    lines: list[str] = []
    first = 0
    for number, member in enumerate(stage):
        pairs = list(zip(member.source.parameters, member.launch.args, strict=True))
        given = [passed(p, value) for p, value in pairs if p.kind == "array"]
        given += [passed(p, value) for p, value in pairs if p.kind == "const" and p.name in RUN]
        block = "v" if first == 0 else f"v - {first}u"
        call = f"{bodies.name(member)}({', '.join([*given, block, thread])});"
        last = number == len(stage) - 1
        condition = "" if last and number == 0 else "else" if last else f"if (v < {first + member.blocks}u)"
        prefix = "else " if number and not last else ""
        lines.append(f"{prefix}{condition}\n    {call}" if condition else call)
        first += member.blocks
    return "\n".join(lines) + "\n"


def shares(source: Source) -> bool:
    """Whether a text uses shared memory, which the next virtual block may not overwrite before all have read it."""
    return any("__shared__" in text for text in (source.text, source.device, *(read(p) for p in source.parts)))


def usage(stages: Sequence[Sequence[Member]]) -> Mapping[str, int]:
    """How much there is to launch: stages, members, virtual blocks of the widest stage."""
    return {
        "stages": len(stages),
        "members": sum(len(s) for s in stages),
        "blocks": max((sum(m.blocks for m in s) for s in stages), default=0),
    }
