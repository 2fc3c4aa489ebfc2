"""Compile a CUDA text with g++ against shim.h and execute launches of it on NumPy arrays.

    program = compile_text(module(sources, np.float32))
    program.run(source.launch(x, y), schedule="shuffled")

The parameter types are read from the text itself and each argument is held against them, so that a launch with a wrong
order or width fails here as it would corrupt memory on a device.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from aevb_engine.cuda.launch import HEAD, TYPES, Launch

SCHEDULES = ("forward", "reverse", "shuffled")
COMPILER = shutil.which("g++")
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-fno-exceptions", "-w")
SANITIZE = ("-fsanitize=undefined", "-fno-sanitize=vptr")
BARRIER = re.compile(r"\b(__syncthreads\w*|__shfl\w*|__syncwarp|__nanosleep)\b")
# Beside the shared variables, so that an overrun is reported and not a crash.
GUARD = "static __attribute__((used)) char shim_guard[1024];\n"
SHIM = Path(__file__).with_name("shim.h")


class Deadlock(AssertionError):
    """Part of a block waits for what the rest never reaches."""


class Program:
    """A compiled text."""

    def __init__(self, text: str, library: Path) -> None:
        self.number = np.float64 if re.search(r"typedef\s+double\s+T\s*;", text) else np.float32
        self.types = {m[1]: [_split(item) for item in m[2].split(",")] for m in HEAD.finditer(text)}
        self._library = ctypes.CDLL(str(library))

    def run(self, launch: Launch, schedule: str = "forward", seed: int = 1) -> None:
        self.call(launch.name, launch.grid, launch.block, launch.args, schedule, seed)

    def call(
        self,
        name: str,
        grid: Any,
        block: Any,
        args: Any,
        schedule: str = "forward",
        seed: int = 1,
        cooperative: bool = False,
    ) -> None:
        """Execute one launch; TypeError where an argument is not what the text declares.

        ``cooperative``: all blocks are alive together and may wait for one another.
        """
        types = self.types[name]
        if len(types) != len(args):
            raise TypeError(f"{name} takes {len(types)} arguments, not {len(args)}")
        assert np.prod(block) <= 1024, "a block has at most 1024 threads"
        assert max(grid[1:]) <= 65535, "grid y and z are at most 65535"
        held = [self._held(name, kind, value) for kind, value in zip(types, args, strict=True)]
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(h) for h in held))
        sizes = [(ctypes.c_uint * 3)(*(int(v) for v in dim)) for dim in (grid, block)]
        run = getattr(self._library, f"shim_run_{name}")
        if run(pointers, *sizes, SCHEDULES.index(schedule), ctypes.c_uint64(seed), int(cooperative)):
            raise Deadlock(f"{name}: a barrier or shuffle that not every thread reaches, or a block waited for in vain")

    def _held(self, name: str, kind: tuple[str, bool, str], value: Any) -> Any:
        base, pointer, parameter = kind
        wanted = np.dtype(self.number if base == "T" else TYPES[base])
        if np.dtype(getattr(value, "dtype", object)) != wanted:
            raise TypeError(f"{name}: {parameter} is {getattr(value, 'dtype', type(value))}, not {wanted}")
        if pointer:
            return ctypes.c_void_p(value.ctypes.data)
        if not isinstance(value, np.generic):
            raise TypeError(f"{name}: {parameter} must be a NumPy scalar")
        return np.ctypeslib.as_ctypes_type(wanted)(value.item())


def _split(item: str) -> tuple[str, bool, str]:
    match = re.fullmatch(r"\s*(?:const )?([a-zA-Z ]+?)\s*(\*?) ?(\w+)\s*", item)
    assert match is not None, item
    return match[1], bool(match[2]), match[3]


@cache
def folder() -> Path:
    """Compiled texts are kept by content: a second run of the tests compiles nothing."""
    path = Path(tempfile.gettempdir()) / f"aevb-cuda-on-cpu-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    assert path.stat().st_uid == os.getuid(), f"{path} belongs to somebody else"
    return path


@cache
def compile_text(text: str, sanitize: bool = False) -> Program:
    """A program from a module's text; ``sanitize`` reports undefined behaviour on stderr as "runtime error"."""
    assert COMPILER is not None
    # Without linkage, so that shared variables of templates may lie in one section with the others.
    source = f"namespace {{\n{text}\n}}\n{GUARD}{_entries(text)}"
    flags = FLAGS + (SANITIZE if sanitize else ())
    library = folder() / f"{digest(*flags, source, SHIM.read_text(encoding='utf-8'))}.so"
    if not library.exists():
        header = _header(flags)
        with alone(library.stem), tempfile.TemporaryDirectory(dir=folder()) as work:
            if not library.exists():  # another process of the tests may have made it meanwhile
                code, built = Path(work) / "text.cpp", Path(work) / "text.so"
                code.write_text(f'#include "{header}"\n{source}', encoding="utf-8")
                _compile(*flags, "-shared", "-o", built, code)
                built.replace(library)
    return Program(text, library)


@cache
def _header(flags: tuple[str, ...]) -> Path:
    """shim.h with a precompiled form beside it, which is half of what a short text takes."""
    path = folder() / f"shim-{digest(*flags, SHIM.read_text(encoding='utf-8'))}" / SHIM.name
    with alone(path.parent.name):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=folder()) as work:
                made = Path(work) / path.parent.name
                made.mkdir()
                shutil.copy(SHIM, made)
                _compile(*flags, "-x", "c++-header", "-o", f"{made / SHIM.name}.gch", made / SHIM.name)
                made.replace(path.parent)
    return path


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@contextmanager
def alone(name: str) -> Iterator[None]:
    """One process at a time, of those that make the same thing."""
    with (folder() / f"{name[-2:]}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(*arguments: object) -> None:
    done = subprocess.run([str(COMPILER), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]


def _entries(text: str) -> str:
    """For each kernel a function that unpacks its arguments, and one that runs a grid of it."""
    waiting = _cooperative(text)
    out = []
    for match in HEAD.finditer(text):
        name = match[1]
        types = [_split(item) for item in match[2].split(",")]
        given = ", ".join(f"*({base}{'*' if ptr else ''}*)a[{i}]" for i, (base, ptr, _) in enumerate(types))
        out.append(
            f"static void shim_body_{name}(void** a) {{ {name}({given}); }}\n"
            f'extern "C" int shim_run_{name}(void** args, const unsigned int* grid, const unsigned int* block,\n'
            f"    int schedule, uint64_t seed, int cooperative)\n"
            f"{{ return shim::run_grid(shim_body_{name}, args, grid, block, schedule, seed, "
            f"{'true' if name in waiting else 'false'}, cooperative); }}\n"
        )
    return "\n".join(out)


def _cooperative(text: str) -> set[str]:
    """The kernels that wait for one another's threads, themselves or in a device function they call."""
    pieces = re.split(r'(?=^extern "C" |^template <|^__device__ |^static |^#define )', text, flags=re.MULTILINE)
    named: dict[str, str] = {}
    for piece in pieces:
        match = re.search(r"(\w+)\s*\(", HEAD.sub(r"\1(", piece) if HEAD.search(piece) else piece)
        if match is not None:
            named[match[1]] = piece
    waiting = {name for name, piece in named.items() if BARRIER.search(piece)}
    while True:
        pattern = re.compile(rf"\b({'|'.join(waiting)})\b") if waiting else None
        more = {n for n, piece in named.items() if pattern and n not in waiting and pattern.search(piece)}
        if not more:
            return waiting
        waiting |= more
