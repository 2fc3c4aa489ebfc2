"""Which backend a name stands for."""

from __future__ import annotations

from aevb_engine.backend.base import Backend
from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.errors import BackendError, UsageError, suggest


def choose(name: str, threads: int | None = None) -> tuple[Backend, str | None]:
    """The backend called ``auto``, ``cpu`` or ``gpu``; under ``auto`` on the CPU the reason too."""
    if name == "cpu":
        return NumpyBackend(threads), None
    if name not in ("auto", "gpu"):
        raise UsageError(f"unknown backend '{name}': {suggest(name, ('auto', 'cpu', 'gpu'))}")
    try:
        from aevb_engine.backend.cupy import CupyBackend  # imports cupy, which few installations have

        return CupyBackend(), None
    except BackendError as error:
        if name == "gpu":
            raise
        cause = str(error).removeprefix("backend gpu: ").split(";")[0]
        return NumpyBackend(threads), f"backend auto runs on the CPU: {cause}"
