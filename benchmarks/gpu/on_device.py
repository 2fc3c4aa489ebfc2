"""A pytest plugin: the tests of ``tests/cuda_on_cpu`` launch on the device instead of through a C++ compiler.

``compile_text`` gives a program with the same interface. For a launch, the whole block of memory that each array is
part of is copied to the device, guard bands included, and afterwards back, so that a write outside is seen as in CI.
The thread schedule is the device's own: three schedules are three runs, which must have the same bits.
"""

from __future__ import annotations

import re
import shutil
from functools import cache
from typing import Any

import numpy as np
import outcomes

from aevb_engine.backend import cupy as backend
from aevb_engine.cuda.launch import HEAD
from tests.cuda_on_cpu import runner
from tests.gpu import conftest

CUPY = backend.open_cupy()

if shutil.which("g++") is None:  # the tests are skipped without it; here it is not needed
    shutil.which = lambda name, *a, **k: "device" if name == "g++" else None  # type: ignore[assignment]


class DeviceProgram(runner.Program):
    """A text compiled for the device; arguments are held against the text as on the CPU."""

    def __init__(self, text: str) -> None:
        self.number = np.float64 if re.search(r"typedef\s+double\s+T\s*;", text) else np.float32
        self.types = {m[1]: [runner._split(item) for item in m[2].split(",")] for m in HEAD.finditer(text)}
        self._module = CUPY.RawModule(code=text, options=backend.OPTIONS)

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
        if cooperative:
            raise NotImplementedError("tests of cooperative kernels hold addresses of the host")
        for kind, value in zip(self.types[name], args, strict=True):
            self._held(name, kind, value)
        blocks: dict[int, tuple[Any, Any]] = {}
        given = [self._sent(a, blocks) if isinstance(a, np.ndarray) else a for a in args]
        self._module.get_function(name)(grid, block, tuple(given))
        for host, there in blocks.values():
            back = CUPY.asnumpy(there)
            if host.flags.writeable:
                host[...] = back

    def _sent(self, array: Any, blocks: dict[int, tuple[Any, Any]]) -> Any:
        """One element of the device's copy: a launch takes its address alone."""
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        root = root.view(np.ndarray)  # without what a subclass forbids
        root = root if root.flags.c_contiguous else root.T
        if not root.flags.c_contiguous:
            raise TypeError(f"cannot send a block of {root.shape} with gaps: {root.strides}")
        at = root.ctypes.data
        if at not in blocks:
            flat = root.reshape(-1).view(np.uint8)  # bytes: views may be of other types than the block
            blocks[at] = flat, CUPY.asarray(flat)
        start = array.ctypes.data - at
        return blocks[at][1][start : start + array.itemsize].view(array.dtype)


@cache
def compile_text(text: str, sanitize: bool = False) -> DeviceProgram:
    """In place of the runner's; a sanitized build is the same text."""
    return _compiled(text)


@cache
def _compiled(text: str) -> DeviceProgram:
    return DeviceProgram(text)


def _together(item: Any) -> str:
    """A function's tests of one number type: they launch the same modules, which one process compiles once."""
    return f"{item.nodeid.partition('[')[0]} {'float64' in item.nodeid}"


runner.compile_text = compile_text
outcomes.together = _together
# The double builds test_own.py's steps on the host. The name cupy stays CuPy's, which imports parts of itself late.
_double = conftest.load_double()
_module = _double.RawModule
_double.RawModule = lambda *, code, **options: _module(code="probe", **options)  # nothing launches them: not compiled
backend.open_cupy = lambda: _double
conftest.load_double = lambda: CUPY
