"""cuBLAS through ctypes on a handle and workspace of our own, so that a product can be part of a captured graph.

CuPy refuses its own products while a stream is being captured. Nothing here is used by the engine: it answers whether
this way is open.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORKSPACE = 32 << 20  # bytes: what the library asks for on the newest devices


def library() -> ctypes.CDLL:
    """The very cuBLAS that CuPy has loaded (a product must have run)."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        path = line.split(maxsplit=5)[-1]
        if "/libcublas.so" in path:
            return ctypes.CDLL(path)
    raise FileNotFoundError("no libcublas is loaded in this process")


class Cublas:
    """One handle on one stream."""

    def __init__(self, xp: Any, stream: Any) -> None:
        self.library = library()
        self.handle = ctypes.c_void_p()
        self.workspace = xp.empty((WORKSPACE,), "u1")
        self._one, self._zero = ctypes.c_float(1), ctypes.c_float(0)
        self._check("cublasCreate_v2", ctypes.byref(self.handle))
        self._check("cublasSetStream_v2", self.handle, ctypes.c_void_p(stream.ptr))
        space = ctypes.c_void_p(self.workspace.data.ptr)
        self._check("cublasSetWorkspace_v2", self.handle, space, ctypes.c_size_t(WORKSPACE))

    def _check(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} gives status {status}")

    def product(self, a: Any, b: Any, y: Any, turned_a: bool = False, turned_b: bool = False) -> None:
        """y = op(a) op(b), all stored by rows; the library stores by columns, so it computes y^T = op(b)^T op(a)^T."""
        m, n = y.shape
        k = a.shape[0] if turned_a else a.shape[1]
        pointers = [ctypes.c_void_p(x.data.ptr) for x in (b, a, y)]
        widths = [ctypes.c_int(x.shape[1]) for x in (b, a, y)]
        self._check(
            "cublasSgemm_v2", self.handle, ctypes.c_int(turned_b), ctypes.c_int(turned_a),
            ctypes.c_int(n), ctypes.c_int(m), ctypes.c_int(k), ctypes.byref(self._one),
            pointers[0], widths[0], pointers[1], widths[1], ctypes.byref(self._zero), pointers[2], widths[2],
        )  # fmt: skip

    def close(self) -> None:
        self._check("cublasDestroy_v2", self.handle)


def capture(stream: Any, work: Callable[[], Any]) -> Any:
    """The graph of what ``work`` enqueues on ``stream``, which is in use afterwards."""
    stream.use()
    stream.begin_capture()
    try:
        work()
    finally:
        graph = stream.end_capture()
    return graph
