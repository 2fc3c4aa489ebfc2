"""Arrays in memory that processes forked for the work share, and that any other forked process has a copy of."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

PIECE = 1 << 22  # bytes copied at a time
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
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
    """Fork a process that does ``work`` on the shared arrays and ends, deaf to the terminal's signals; its number.

    Where the main thread forks it, the system ends it together with this process, however that ends.
    """
    global _own
    _own = True
    owner, follows = os.getpid(), _follows()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # or one could lead the child into the caller's code
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns where other threads exist, and JAX where it is loaded: the child calls array code alone,
            # and takes no lock of theirs.
            warnings.simplefilter("ignore")
            number = os.fork()
        if not number:
            try:
                follows()
                if os.getppid() != owner:  # it ended before that
                    os._exit(0)
                for each in SIGNALS:
                    signal.signal(each, signal.SIG_IGN)
                signal.set_wakeup_fd(-1)
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                work()
            finally:
                os._exit(0)
    finally:
        _own = False
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return number


def _follows() -> Callable[[], object]:
    """What a child calls to be killed when its parent ends; nothing off Linux.

    Nor in other threads: the system goes by the thread that forked, which may end while the process goes on. Workers
    of those look for themselves, every tenth of a second, whether their parent is there.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return lambda: None
    return partial(ctypes.CDLL(None).prctl, 1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG


def _separate() -> None:
    """In a child that somebody else forked: the same arrays at the same place, but its own, as after any fork."""
    if _own or not _live:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    fixed = 0x10  # MAP_FIXED on Linux
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | fixed  # with the workers that this process forks for itself
    try:
        for region in list(_live):
            first = ctypes.addressof(ctypes.c_char.from_buffer(region))
            for at in range(0, len(region), PIECE):
                address, size = first + at, min(PIECE, len(region) - at)
                content = ctypes.string_at(address, size)
                if libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) != address:
                    os.abort()
                ctypes.memmove(address, content, size)
    except BaseException:  # no memory, say: what is raised here is printed, and the child goes on
        os.abort()  # never two processes on the same parameters


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_separate)
