"""Which backend a name stands for."""

from __future__ import annotations

import ctypes
import sys

from aevb_engine.backend.base import Backend
from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.errors import BackendError, UsageError, suggest


def choose(name: str, threads: int | None = None) -> tuple[Backend, str | None]:
    """The backend called ``auto``, ``cpu`` or ``gpu``; under ``auto`` on the CPU the reason too."""
    if name == "cpu":
        return NumpyBackend(threads), None
    if name not in ("auto", "gpu"):
        raise UsageError(f"unknown backend '{name}': {suggest(name, ('auto', 'cpu', 'gpu'))}")
    if name == "auto" and not driver_present():
        return NumpyBackend(threads), "backend auto runs on the CPU: no NVIDIA driver"
    try:
        from aevb_engine.backend.cupy import CupyBackend  # imports cupy, which few installations have

        return CupyBackend(), None
    except BackendError as error:
        if name == "gpu":
            raise
        cause = str(error).removeprefix("backend gpu: ").split(";")[0]
        return NumpyBackend(threads), f"backend auto runs on the CPU: {cause}"


def driver_present() -> bool:
    """Whether NVIDIA's driver library is there: known at once, where importing cupy takes longer than a small run."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
