"""A crew: processes forked for one training step, which run its phases side by side on shared arrays.

Threads of one interpreter hand its lock to each other at every call, and a core that slept takes tens of microseconds
to wake: more than many calls of a step take. A process has a lock of its own, and within a block it waits for the
others awake. Member w runs share w of each phase; who begins a phase waits for all that had a share in the one before.
The shares are those of the threads, and so are the bits.
"""

from __future__ import annotations

import gc
import os
import pickle
import platform
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from aevb_engine.backend.base import Call, Phases
from aevb_engine.backend.choice import wanted
from aevb_engine.backend.shared import fork_worker, shared_zeros
from aevb_engine.errors import BackendError

Agenda = list[tuple[list[tuple[int, int]], Sequence[Call], int]]
SPINS = 8000  # looks at a number, some 200 us, before the member sleeps between two looks
NAP = 10e-6  # asked for; on a busy core who sleeps is soon back, where one that yields is gone for a time slice
LOOK = 0.1  # seconds between two looks whether the others are alive
LINE = 16  # int64 numbers between two counters: no two on a cache line
PATIENCE = 2.0  # seconds for a dismissed member to leave before it is killed
REST = 0.5  # seconds for the other threads of this process to come to rest before a fork
START = 10.0  # seconds for a forked member to be ready
PIPE = 32768  # bytes that a pipe holds, at least
LEFT, FAILED = -1, -2  # what a counter holds in place of phases done
READY = 1  # beside the counter of a member that is


def possible() -> bool:
    """Whether crews work here: Linux, and a processor that shows its writes to others in order; no word for threads."""
    return wanted() != "threads" and sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")


class Crew:
    """Runs ``phases`` any number of times. Closed by ``close``, with the last reference to it, and at exit."""

    def __init__(self, phases: Phases, setup: Callable[[], None]) -> None:
        """OSError where no process can be forked, other threads are at work, or a member is not ready in time.

        ``setup`` is called once in each member that is forked. It may hang there: a lock that another thread held at
        the fork stays locked for ever.
        """
        if not _others_rest(REST):  # OpenBLAS hangs in a fork while its threads work for somebody
            raise BlockingIOError("other threads of this process are at work")
        size = max(map(len, phases))
        self._spins = SPINS if size <= len(os.sched_getaffinity(0)) else 1  # else it would spin where another works
        self._done = 0  # phases, over all runs
        self._count = len(phases)
        self._counts = shared_zeros((size * LINE,), np.int64).data
        self._owner = os.getpid()
        self._agenda = agenda(phases, 0)
        self._last = range(1, len(phases[-1]))  # who else has a share in the last phase
        self._workers: list[tuple[int, int, int]] = []  # process, pipe to write to, pipe to read from
        self._end = weakref.finalize(self, _dismiss, self._owner, self._workers, self._counts)
        for w in range(1, size):
            ends = [*os.pipe(), *os.pipe()]
            try:
                number = fork_worker(partial(self._work, w, agenda(phases, w), setup, ends[0], ends[3]))
            except BaseException:
                for end in ends:
                    os.close(end)
                self.close()
                raise
            os.close(ends[0])
            os.close(ends[3])
            self._workers.append((number, ends[1], ends[2]))
        self._await_ready()

    def _await_ready(self) -> None:
        end = time.monotonic() + START
        while not all(self._counts[w * LINE + READY] for w in range(1, len(self._workers) + 1)):
            if time.monotonic() > end or self._gone():
                self.close()
                raise ChildProcessError("a worker process does not start")
            time.sleep(NAP)

    @property
    def alive(self) -> bool:
        """Whether it can run phases: it was not closed, and this is the process that made it."""
        return self._end.alive and os.getpid() == self._owner

    def run(self, times: int) -> None:
        """Run the phases so many times; BackendError where a process was lost, its exception where one failed."""
        try:
            for _, orders, _ in self._workers:
                os.write(orders, times.to_bytes(8, "little"))
            self._steps(0, self._agenda, times)
            for w in self._last:
                self._wait(w, self._done)
        except BrokenPipeError:
            self._lost()
        except BaseException:  # the others are in the middle of a step: they cannot go on from there
            self.close()
            raise

    def close(self) -> None:
        """Let the processes end."""
        self._end()

    # In every member ----------------------------------------------------------------------------------------

    def _steps(self, me: int, agenda: Agenda, times: int) -> None:
        counts, here = self._counts, me * LINE
        for _ in range(times):
            start = self._done
            for before, calls, number in agenda:
                for other, least in before:
                    if counts[other * LINE] < start + least:
                        self._wait(other, start + least)
                for call in calls:
                    call()
                counts[here] = start + number
            self._done = start + self._count

    def _wait(self, other: int, least: int) -> None:
        counts, place = self._counts, other * LINE
        tries = 0
        looked = 0.0
        while (found := counts[place]) < least:
            if found < 0 or counts[0] < 0:
                self._lost()
            tries += 1
            if tries < self._spins:
                continue
            now = time.monotonic()
            if now > looked + LOOK:
                looked = now
                if self._gone():
                    self._lost()
            time.sleep(NAP)

    def _gone(self) -> bool:
        """Whether a process that this one waits for has ended."""
        if os.getpid() != self._owner:
            return os.getppid() != self._owner
        return any(_ended(number) for number, _, _ in self._workers)

    def _lost(self) -> None:
        """Leave a crew that cannot go on; the first member says why."""
        if os.getpid() != self._owner:
            raise SystemExit
        lost = "a worker process ended unexpectedly (out of memory?); "
        error: BaseException = BackendError(
            f"{lost}the last checkpoint is sound: resume it, or use --threads 1",
            python=f"{lost}the model holds the state of some steps before: fit again, or make it with threads=1",
        )
        for w, (_, _, answers) in enumerate(self._workers, 1):
            if self._counts[w * LINE] == FAILED:
                with os.fdopen(os.dup(answers), "rb") as file:
                    error = pickle.load(file)  # written by our own process
                break
        self.close()
        raise error

    # In a forked member -------------------------------------------------------------------------------------

    def _work(self, me: int, agenda: Agenda, setup: Callable[[], None], orders: int, answers: int) -> None:
        gc.freeze()  # what is not its own is never finalized here
        _keep_open(orders, answers)
        here = me * LINE
        try:
            try:
                setup()
            finally:  # an exception is told by the first run
                self._counts[here + READY] = 1
            while times := self._order(orders):
                self._steps(me, agenda, times)
            self._counts[here] = LEFT
        except SystemExit:
            self._counts[here] = LEFT
        except BaseException as error:
            with os.fdopen(answers, "wb") as file:
                file.write(_pickled(error))
            self._counts[here] = FAILED

    def _order(self, pipe: int) -> int:
        """How many times to run the phases; 0 to leave."""
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while not poll.poll(1000 * LOOK):
            if os.getppid() != self._owner or self._counts[0] == LEFT:  # which nobody may have had time to tell
                return 0
        return int.from_bytes(os.read(pipe, 8), "little")


def agenda(phases: Phases, me: int) -> Agenda:
    """Of each phase in which member ``me`` has a share: for whom to wait until how many phases are done, the calls, and
    how many are done then; counted from the start of a step."""
    found = []
    for i, shares in enumerate(phases):
        if me >= len(shares):
            continue
        before = range(len(phases[i - 1]))  # of the first phase: the last one of the step before
        found.append(([(other, i) for other in before if other != me], shares[me], i + 1))
    return found


def _others_rest(seconds: float) -> bool:
    """Whether at one moment within so many seconds all other threads of this process sleep."""
    me, end = threading.get_native_id(), time.monotonic() + seconds
    while any(_state(task) not in ("S", "") for task in Path("/proc/self/task").iterdir() if int(task.name) != me):
        if time.monotonic() > end:
            return False
        time.sleep(1e-3)
    return True


def _state(task: Path) -> str:
    """The letter of a thread's state; nothing where it has ended."""
    with suppress(OSError):
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _keep_open(*wanted: int) -> None:
    """Close every other file but the standard ones: a lock on a run must not outlive the process that took it."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) > 2 and int(entry.name) not in wanted:
            with suppress(OSError):  # the listing's own
                os.close(int(entry.name))


def _pickled(error: BaseException) -> bytes:
    """The exception, or its words where it cannot travel or would not fit into a pipe that nobody reads yet."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        data = b""
    if 0 < len(data) < PIPE:
        return data
    return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"[: PIPE // 8]))


def _ended(number: int) -> bool:
    try:
        return os.waitpid(number, os.WNOHANG)[0] != 0
    except ChildProcessError:  # somebody else has waited for it
        return True


def _dismiss(owner: int, workers: list[tuple[int, int, int]], counts: memoryview) -> None:
    """End the processes: those that wait for an order get one to leave, those within a step see that member 0 left."""
    if os.getpid() != owner:
        return
    counts[0] = LEFT
    for _, orders, answers in workers:
        with suppress(BrokenPipeError):
            os.write(orders, bytes(8))
        os.close(orders)
        os.close(answers)
    end = time.monotonic() + PATIENCE
    for number, _, _ in workers:
        while not _ended(number):
            if time.monotonic() > end:
                os.kill(number, signal.SIGKILL)
                end = time.monotonic() + PATIENCE
            time.sleep(NAP)
    workers.clear()
