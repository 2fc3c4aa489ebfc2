"""The reference backend: NumPy arrays, and workers over rows and parameters with BLAS at one thread.

Each worker owns a share of the rows, then one of the parameters; shares of fixed size give the same bits in every run.
What is run many times, a training step, is run by processes (``crew.py``) where the system allows that, by threads
(NumPy and BLAS release the interpreter lock), or by the caller alone, whichever is quicker (``choice.py``). BLAS
threads would spin and collapse on a busy machine.
"""

from __future__ import annotations

import os
import platform
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import threadpoolctl

from aevb_engine import jit
from aevb_engine.backend import crew
from aevb_engine.backend.base import Call, Phases, Plan, Replay
from aevb_engine.backend.blas import one_thread
from aevb_engine.backend.choice import Choice, Way, wanted
from aevb_engine.backend.cores import most_workers, physical_cores
from aevb_engine.backend.products import bind
from aevb_engine.backend.shared import is_shared, shared_zeros
from aevb_engine.errors import BackendError
from aevb_engine.operation import Buffer, Operation, Rows

# Elements in the buffers through which NumPy passes broadcast, strided and converted operands: below 4 KiB each, where
# the default of 8,192 would allocate tens of KiB in every call. Undone with the error state.
BUFFER = 496


class NumpyBackend:
    """NumPy on the CPU with ``threads`` workers (the caller is the first), or as many as the cores can use: then a
    worker does the shares of several."""

    name = "cpu"
    xp: Any = np
    asynchronous = False
    tf32 = False

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or physical_cores()
        self._workers: list[_Worker] = []
        weakref.finalize(self, _retire, self._workers).atexit = False  # at exit they end by themselves
        self._lock = threading.Lock()  # one run at a time: models may be used from several threads
        self._process = os.getpid()  # whose threads and lock they are
        self._wanted = wanted()
        self._shared = self.threads > 1 and crew.possible()
        self._repeated: weakref.WeakSet[_Repeated] = weakref.WeakSet()
        self._blas = threadpoolctl.ThreadpoolController()

    def enter(self) -> None: ...

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        # Zeros: padding is never read from uninitialized memory.
        return shared_zeros(shape, dtype) if self._shared else np.zeros(shape, dtype)

    def upload(self, array: npt.NDArray[Any]) -> Any:
        return np.ascontiguousarray(array)

    def upload_beside(self, arrays: Sequence[npt.NDArray[Any]]) -> list[Any]:
        return [self.upload(a) for a in arrays]

    def download(self, array: Any) -> npt.NDArray[Any]:
        return np.array(array)

    def bind(
        self,
        operations: Sequence[Operation],
        rows: Rows,
        products: str = "fp32",
        read: Sequence[Buffer] | None = None,
    ) -> list[Call]:
        if products != "fp32":
            raise BackendError(f"products in {products} need a GPU")
        if jit.available():
            from aevb_engine.compiled.lower import lower  # imports numba

            with suppress(jit.NotCompiled):  # then they stay as they are
                operations = lower(operations, read)
        return [bind(operation, rows) for operation in operations]

    def replay(self, plan: Plan, operations: Sequence[Operation], rows: Rows, read: Sequence[Buffer] = ()) -> Replay:
        raise BackendError(f"trainer {plan.path} needs a GPU")

    def device(self) -> str:
        return platform.processor() or platform.machine()

    def run(self, phases: Phases, times: int) -> None:
        phases = gathered(phases, most_workers())
        self._settle()
        with self._lock, self.one_thread():
            while len(self._workers) < max(map(len, phases)) - 1:
                try:
                    self._workers.append(_Worker())
                except RuntimeError:  # the system starts no more threads: those there are do all the shares
                    phases = gathered(phases, len(self._workers) + 1)
            try:
                for _ in range(times):
                    for shares in phases:
                        busy = self._workers[: len(shares) - 1]
                        for worker, share in zip(busy, shares[1:], strict=True):
                            worker.start(share)
                        for call in shares[0]:
                            call()
                        for worker in busy:
                            worker.wait()
                        for worker in busy:
                            worker.check()
            except BaseException:  # an interrupt comes anywhere, also between a share's start and its end
                _retire(self._workers)
                raise

    def repeat(self, phases: Phases, operations: Sequence[Operation]) -> Callable[[int], None]:
        phases = gathered(phases, most_workers())
        threads = partial(self.run, phases)
        if max(map(len, phases)) == 1:
            return threads
        alone = partial(self.run, [[[call for share in shares for call in share]] for shares in phases])
        ways: dict[str, Way] = {"threads": threads, "alone": alone}
        # What a plugin writes into arrays of its own making, other processes would not see.
        if self._shared and all(is_shared(b.array) for op in operations for b in op.writes):
            repeated = _Repeated(self, phases)
            self._repeated.add(repeated)
            ways = {"processes": repeated, **ways}
        if self._wanted is None:
            return Choice(list(ways.values()))
        return ways.get(self._wanted, threads)

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """BLAS at one thread, and the array module as kernels want it."""
        with one_thread(self._blas), np.errstate():  # which undoes both
            _quiet()
            yield

    def close(self) -> None:
        for repeated in list(self._repeated):
            repeated.close()
        self._settle()
        with self._lock:  # not while somebody's shares are under way
            _retire(self._workers)

    def _settle(self) -> None:
        """In a process that the user has forked: no thread came along."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._lock = threading.Lock()
            self._workers.clear()


def gathered(phases: Phases, most: int) -> Phases:
    """The phases with at most so many shares: where there are more, each of the new ones is some of the old ones.

    The calls are the same, and so are the bits: shares of a phase do not depend on each other.
    """
    if max(map(len, phases)) <= most:
        return phases
    return [
        shares if len(shares) <= most else [[call for share in shares[i::most] for call in share] for i in range(most)]
        for shares in phases
    ]


def _quiet() -> None:
    """For this thread or process: overflow and invalid values are looked for by the trainer, by step."""
    np.seterr(all="ignore")
    np.setbufsize(BUFFER)


def _begin() -> None:
    """In a forked process: as above, and a product, which hangs now or never where BLAS was in use at the fork."""
    _quiet()
    square = np.ones((128, 128), np.float32)
    np.matmul(square, square)


class _Repeated:
    """Phases run by a crew of processes, but for the first time: what compiles then does so once, for all of them."""

    def __init__(self, backend: NumpyBackend, phases: Phases) -> None:
        self._backend = backend
        self._phases = phases
        self._crew: crew.Crew | None = None
        self._warm = False
        self._refused = False

    def __call__(self, times: int) -> None:
        if not self._warm:
            self._backend.run(self._phases, 1)
            self._warm = True
            times -= 1
        if not times:
            return
        with self._backend.one_thread():
            if not self._refused and (self._crew is None or not self._crew.alive):
                try:
                    self._crew = crew.Crew(self._phases, _begin)
                except OSError:  # no process starts here: threads, to the same bits
                    self._crew, self._refused = None, True
            if self._crew is not None:
                self._crew.run(times)
                return
        self._backend.run(self._phases, times)

    def close(self) -> None:
        if self._crew is not None:
            self._crew.close()


def _retire(workers: list[_Worker]) -> None:
    """End the threads, each after the share it is at."""
    leaving = workers[:]
    workers.clear()
    for worker in leaving:
        worker.leave()
    for worker in leaving:
        worker.join()


class _Worker:
    """A thread that runs one share at a time; two bare locks hand over in a few microseconds."""

    def __init__(self) -> None:
        self._go, self._done = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._done.acquire()
        self._share: Sequence[Call] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, daemon=True, name="aevb-rows")
        self._thread.start()

    def start(self, share: Sequence[Call]) -> None:
        self._share = share
        self._go.release()

    def wait(self) -> None:
        self._done.acquire()
        self._share = None  # whose arrays may be the last of a model

    def check(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def leave(self) -> None:
        self._share = None
        if self._go.locked():  # else it is on its way, and finds nothing to do
            self._go.release()

    def join(self) -> None:
        if self._thread is not threading.current_thread():  # a model may be collected anywhere
            self._thread.join()

    def _loop(self) -> None:
        _quiet()
        while True:
            self._go.acquire()
            share = self._share
            if share is None:
                return
            self._perform(share)
            share = None  # nor kept here
            self._done.release()

    def _perform(self, share: Sequence[Call]) -> None:
        try:
            for call in share:
                call()
        except BaseException as error:
            self._error = error
