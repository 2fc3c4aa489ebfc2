"""The reference backend: NumPy arrays, and Python threads over rows and parameters with BLAS at one thread.

NumPy and BLAS release the interpreter lock, so threads that each own a share of the rows run side by side. BLAS threads
of its own would spin and collapse on a busy machine; shares of fixed size give the same bits in every run.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import threadpoolctl

from aevb_engine import jit
from aevb_engine.backend.base import Call, Plan, Replay
from aevb_engine.errors import BackendError
from aevb_engine.operation import Operation, Rows

# Elements in the buffers through which NumPy passes broadcast, strided and converted operands: below 4 KiB each, where
# the default of 8,192 would allocate tens of KiB in every call. Undone with the error state.
BUFFER = 496


class NumpyBackend:
    """NumPy on the CPU with ``threads`` workers (the calling thread is the first)."""

    name = "cpu"
    xp: Any = np
    asynchronous = False

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or physical_cores()
        self._workers: list[_Worker] = []
        self._blas = threadpoolctl.ThreadpoolController()

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        return np.zeros(shape, dtype)  # zeros: padding is never read from uninitialized memory

    def upload(self, array: npt.NDArray[Any]) -> Any:
        return np.ascontiguousarray(array)

    def upload_beside(self, arrays: Sequence[npt.NDArray[Any]]) -> list[Any]:
        return [self.upload(a) for a in arrays]

    def download(self, array: Any) -> npt.NDArray[Any]:
        return np.array(array)

    def bind(self, operations: Sequence[Operation], rows: Rows, products: str = "fp32") -> list[Call]:
        if products != "fp32":
            raise BackendError(f"products in {products} need a GPU")
        if jit.available():
            from aevb_engine.compiled.lower import lower  # imports numba

            operations = lower(operations)
        return [operation.bind(np, rows) for operation in operations]

    def replay(self, plan: Plan, operations: Sequence[Operation], rows: Rows) -> Replay:
        raise BackendError(f"trainer {plan.path} needs a GPU")

    def device(self) -> str:
        return platform.processor() or platform.machine()

    def run(self, phases: Sequence[Sequence[Sequence[Call]]], times: int) -> None:
        while len(self._workers) < max(map(len, phases)) - 1:
            self._workers.append(_Worker())
        # Overflow and invalid values are looked for by the trainer, by step; a warning a kernel would say less.
        with self._blas.limit(limits=1, user_api="blas"), np.errstate(all="ignore"):
            np.setbufsize(BUFFER)
            for _ in range(times):
                for shares in phases:
                    busy = self._workers[: len(shares) - 1]
                    for worker, share in zip(busy, shares[1:], strict=True):
                        worker.start(share)
                    try:
                        for call in shares[0]:
                            call()
                    finally:
                        for worker in busy:
                            worker.wait()
                    for worker in busy:
                        worker.check()

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()


class _Worker:
    """A thread that runs one share at a time; two bare locks hand over in a few microseconds."""

    def __init__(self) -> None:
        self._go, self._done = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._done.acquire()
        self._share: Sequence[Call] | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._loop, daemon=True, name="aevb-rows").start()

    def start(self, share: Sequence[Call]) -> None:
        self._share = share
        self._go.release()

    def wait(self) -> None:
        self._done.acquire()

    def check(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        self._share = None
        self._go.release()

    def _loop(self) -> None:
        with np.errstate(all="ignore"):
            np.setbufsize(BUFFER)
            while True:
                self._go.acquire()
                if self._share is None:
                    return
                try:
                    for call in self._share:
                        call()
                except BaseException as error:
                    self._error = error
                self._done.release()


def physical_cores() -> int:
    """Physical cores this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        cores = set(_core_lines(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")))
    except OSError:
        cores = set()
    return max(1, min(allowed, len(cores) or allowed))


def _core_lines(cpuinfo: str) -> list[tuple[str, str]]:
    """(package, core) of every processor listed in /proc/cpuinfo."""
    found = []
    package = "0"
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "physical id":
            package = value.strip()
        elif name.strip() == "core id":
            found.append((package, value.strip()))
    return found
