"""Arrays in memory that processes forked for the work share, and that any other forked process has a copy of."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_live: weakref.WeakSet[Any] = weakref.WeakSet()  # the regions
_own = False  # whether the fork under way is one of ours


class _Region(mmap.mmap):
    """Anonymous shared memory; the class of its own admits weak references."""


def shared_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros of their own pages: no two arrays share a cache line, so that processes do not slow each other down.

    MemoryError as from ``numpy.zeros``.
    """
    dtype = np.dtype(dtype)
    count = math.prod(shape)
    if count == 0:
        return np.zeros(shape, dtype)
    try:
        region = _Region(-1, count * dtype.itemsize)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"no {count * dtype.itemsize} bytes for an array of shape {shape}") from error
    _live.add(region)
    return np.frombuffer(region, dtype, count).reshape(shape)


def is_shared(array: Any) -> bool:
    """Whether the array, or what it is a view of, was made here."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array.obj if isinstance(array, memoryview) else array, _Region)


def fork_worker(work: Callable[[], None]) -> int:
    """Fork a process that does ``work`` on the shared arrays and ends; its number."""
    global _own
    _own = True
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns where other threads exist, and JAX where it is loaded: the child calls array code alone,
            # and takes no lock of theirs.
            warnings.simplefilter("ignore")
            number = os.fork()
    finally:
        _own = False
    if number:
        return number
    try:
        work()
    finally:
        os._exit(0)


def _separate() -> None:
    """In a child that somebody else forked: the same arrays at the same place, but its own, as after any fork."""
    if _own or not _live:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    fixed = 0x10  # MAP_FIXED on Linux
    for region in list(_live):
        size = len(region)
        address = ctypes.addressof(ctypes.c_char.from_buffer(region))
        content = ctypes.string_at(address, size)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed
        if libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) != address:
            os.abort()  # never two processes on the same parameters
        ctypes.memmove(address, content, size)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_separate)
