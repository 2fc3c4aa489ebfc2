"""A pytest plugin: the tests of ``tests/cuda_on_cpu`` launch on the device instead of through a C++ compiler.

``compile_text`` gives a program with the same interface. For a launch, the whole block of memory that each array is
part of is copied to the device, guard bands included, and afterwards back, so that a write outside is seen as in CI.
The thread schedule is the device's own.
"""

from __future__ import annotations

import re
import shutil
from functools import cache
from typing import Any

import numpy as np
import outcomes  # noqa: F401 - makes ``tests`` the checkout's

from aevb_engine.backend.cupy import OPTIONS, open_cupy
from aevb_engine.cuda.launch import HEAD
from tests.cuda_on_cpu import runner

if shutil.which("g++") is None:  # the tests are skipped without it; here it is not needed
    shutil.which = lambda name, *a, **k: "device" if name == "g++" else None  # type: ignore[assignment]


class DeviceProgram(runner.Program):
    """A text compiled for the device; arguments are held against the text as on the CPU."""

    def __init__(self, text: str) -> None:
        self.number = np.float64 if re.search(r"typedef\s+double\s+T\s*;", text) else np.float32
        self.types = {m[1]: [runner._split(item) for item in m[2].split(",")] for m in HEAD.finditer(text)}
        self.xp = open_cupy()
        self._module = self.xp.RawModule(code=text, options=OPTIONS)

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
            back = self.xp.asnumpy(there)
            if host.flags.writeable:
                host[...] = back

    def _sent(self, array: Any, blocks: dict[int, tuple[Any, Any]]) -> Any:
        """One element of the device's copy: a launch takes its address alone."""
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        if not root.flags.c_contiguous or root.dtype != array.dtype:
            raise TypeError(f"cannot send an array of {array.dtype} inside one of {root.dtype}, {root.strides}")
        at = root.ctypes.data
        if at not in blocks:
            flat = root.reshape(-1)
            blocks[at] = flat, self.xp.asarray(flat)
        offset = (array.ctypes.data - at) // array.itemsize
        return blocks[at][1][offset : offset + 1]


@cache
def compile_text(text: str, sanitize: bool = False) -> DeviceProgram:
    """In place of the runner's; a sanitized build is the same text."""
    return _compiled(text)


@cache
def _compiled(text: str) -> DeviceProgram:
    return DeviceProgram(text)


runner.compile_text = compile_text
