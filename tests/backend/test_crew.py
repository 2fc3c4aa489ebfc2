"""Crews of processes: the bits of threads and of one alone, the order of phases, and a member that fails, dies or is
left."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aevb_engine.backend import choice, crew, shared
from aevb_engine.backend import numpy as backend_numpy
from aevb_engine.backend.crew import Crew, agenda
from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.errors import BackendError, UsageError
from aevb_engine.operation import Buffer, custom
from tests.patience import patience, until

pytestmark = pytest.mark.skipif(not crew.possible(), reason="crews need Linux on x86-64")
OBJECTIVES = {"elbo": {}, "iwae": {}, "wake-sleep": {}, "mcem": {"leapfrogs": 2, "updates": 3}}
Gone = Callable[..., bool]


def nothing() -> None: ...


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Always a crew, however busy the machine is."""
    monkeypatch.setenv("AEVB_WORKERS", "processes")
    for name in ("REST", "START"):
        monkeypatch.setattr(crew, name, patience())


@pytest.fixture
def place() -> Any:
    """Numbers that all members see."""
    return shared.shared_zeros((8,), np.int64)


@pytest.fixture
def made() -> Iterator[Callable[..., Crew]]:
    """Crews that are closed at the end."""
    crews: list[Crew] = []

    def make(*phases: list[list[Any]]) -> Crew:
        crews.append(Crew(phases, nothing))
        return crews[-1]

    yield make
    for c in crews:
        c.close()


def setter(place: Any, i: int, value: Callable[[], int]) -> Callable[[], None]:
    return lambda: place.__setitem__(i, value())


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_bits_of_threads(
    name: str, threads: int, make_step: Any, make_likelihood: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for workers in ("processes", "threads", "alone"):
        monkeypatch.setenv("AEVB_WORKERS", workers)
        run = make_step(name, make_likelihood("bernoulli"), samples=2, threads=threads, options=OBJECTIVES[name])
        metrics = run.run(70)
        repeated = run.step._run_visit
        assert isinstance(getattr(repeated, "_crew", None), Crew) == (workers == "processes")
        found.append((metrics.tobytes(), run.theta.tobytes(), [s.tobytes() for s in run.step.state]))
    assert found[0] == found[1] == found[2]


class Turns:
    """In place of a choice: the ways take turns, so that every three follow each other in every order."""

    ORDER = tuple(int(way) for way in "000100201101202102211121222")  # way by way; all triples of 0, 1, 2

    def __init__(self, ways: Any) -> None:
        self.ways = ways
        self.done = 0

    def __call__(self, times: int) -> None:
        while times:
            count = min(times, 1 + self.done % 2)
            self.ways[self.ORDER[self.done % len(self.ORDER)]](count)
            self.done += 1
            times -= count


def test_the_turns_are_every_pattern() -> None:
    twice = Turns.ORDER * 2
    assert {twice[i : i + 3] for i in range(len(Turns.ORDER))} == set(itertools.product(range(3), repeat=3))


# Every objective with two workers, two of them with three and fresh pixels; all others take as long again.
QUICK = [*((name, 2, False) for name in OBJECTIVES), ("elbo", 3, True), ("mcem", 3, True)]
EVERY = [(name, threads, dynamic) for name in OBJECTIVES for threads in (2, 3) for dynamic in (False, True)]


@pytest.mark.parametrize(
    ("name", "threads", "dynamic"),
    [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in EVERY],
)
def test_who_runs_a_step_may_change_at_any_step(
    name: str, threads: int, dynamic: bool, make_step: Any, make_likelihood: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every pattern, and as fast as a choice by time can change: the bits of a crew alone."""

    def trained() -> tuple[Any, bytes, bytes, list[bytes]]:
        run = make_step(
            name,
            make_likelihood("bernoulli"),
            samples=2,
            threads=threads,
            dynamic=dynamic,
            options=OBJECTIVES[name],
        )
        metrics = run.run(130)
        assert metrics[-1].any()
        return run.step._run_visit, metrics.tobytes(), run.theta.tobytes(), [s.tobytes() for s in run.step.state]

    _, *expected = trained()
    monkeypatch.delenv("AEVB_WORKERS")
    monkeypatch.setattr(choice, "WINDOW", 0.0)
    monkeypatch.setattr(choice, "TRIAL", 0.0)
    monkeypatch.setattr(choice, "SOONEST", 0.0)
    monkeypatch.setattr(choice, "COST", 1e9)
    chosen, *found = trained()
    assert isinstance(chosen, choice.Choice)
    assert np.isfinite(chosen._pace).all()  # all three were used
    assert found == expected
    monkeypatch.setattr(backend_numpy, "Choice", Turns)
    turns, *found = trained()
    assert isinstance(turns, Turns)
    assert len(turns.ways) == 3
    assert turns.done >= 40
    assert found == expected


def test_a_crew_that_is_not_used_takes_no_time(made: Callable[..., Crew]) -> None:
    """While another way runs the steps: at most a clock tick in so many, in one of the windows looked at."""
    run = made([[nothing], [nothing]], [[nothing], [nothing]])
    run.run(5)
    ticks = os.sysconf("SC_CLK_TCK")

    def used() -> int:
        fields = Path(f"/proc/{run._workers[0][0]}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def rests() -> bool:
        began, before = time.monotonic(), used()
        time.sleep(0.5)
        return used() - before <= 0.02 * ticks * (time.monotonic() - began)

    assert any(rests() for _ in range(10))


@pytest.mark.parametrize("name", ["elbo", "elbo-mc", "iwae", "beta", "autoencoder", "wake-sleep", "mcem"])
def test_all_that_a_step_writes_is_shared(name: str, make_step: Any, make_likelihood: Any) -> None:
    step = make_step(name, make_likelihood("gaussian sigmoid affine -1"), samples=1, threads=2).step
    lists = [step.first, step.visit, *step.parameters, step.leave]
    for operation in (op for operations in lists for op in operations):
        for buffer in operation.writes:
            assert shared.is_shared(buffer.array), (operation.name, buffer.name)
    step.backend.close()


def test_members_are_processes_that_stay(made: Callable[..., Crew], place: Any) -> None:
    run = made([[setter(place, 0, os.getpid)], [setter(place, 1, os.getpid)]], [[nothing]])
    run.run(3)
    seen = place[:2].tolist()
    assert seen[0] == os.getpid() != seen[1]
    run.run(1)
    assert place[:2].tolist() == seen


def test_a_phase_begins_when_the_one_before_has_ended(made: Callable[..., Crew]) -> None:
    """Each member writes its own cell slowly, then sums all cells: a member that ran ahead would miss an addition."""
    cells, sums, first = (shared.shared_zeros((3, 8), np.int64) for _ in range(3))
    draw = np.random.default_rng(0)
    wait = [d.tolist() for d in draw.exponential(20e-6, (3, 64))]

    def write(w: int) -> Callable[[], None]:
        def run() -> None:
            n = int(cells[w, 0])
            end = time.perf_counter() + wait[w][n % 64]
            while time.perf_counter() < end:
                pass
            cells[w, 0] = n + 1

        return run

    def read(w: int) -> Callable[[], None]:
        return lambda: sums.__setitem__((w, 0), sums[w, 0] + cells[:, 0].sum())

    def head() -> None:
        first[0, 0] += sums[:, 0].sum()

    steps = 500
    made([[head]], [[write(w)] for w in range(3)], [[read(w)] for w in range(3)], [[nothing]]).run(steps)
    assert cells[:, 0].tolist() == [steps] * 3
    assert sums[:, 0].tolist() == [3 * steps * (steps + 1) // 2] * 3
    before = np.arange(steps, dtype=object)  # the head of step n sees the sums after n steps
    assert first[0, 0] == sum(9 * n * (n + 1) // 2 for n in before)


def test_the_last_phase_is_waited_for(made: Callable[..., Crew], place: Any) -> None:
    def slow() -> None:
        time.sleep(0.02)
        place[1] += 1

    run = made([[nothing], [nothing]], [[nothing], [slow]])
    for times in (1, 2):
        run.run(times)
    assert place[1] == 3


def test_the_agenda_of_a_member() -> None:
    a, b = [nothing], [nothing]
    phases = [[a], [a, b], [a, b], [a]]
    assert agenda(phases, 0) == [([], a, 1), ([], a, 2), ([(1, 2)], a, 3), ([(1, 3)], a, 4)]
    assert agenda(phases, 1) == [([(0, 1)], b, 2), ([(0, 2)], b, 3)]


def test_more_members_than_cores_do_not_burn_each_others_time(made: Callable[..., Crew]) -> None:
    """Two members on one core: a phase costs two turns, not a scheduler's slice of milliseconds that one spins away.

    In time of the processor, which other work does not take; half of it by each, and this one's is looked at.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        run = made([[nothing], [nothing]], [[nothing], [nothing]])
        run.run(50)
        taken = []
        for _ in range(5):
            began = time.process_time()
            run.run(200)
            taken.append(time.process_time() - began)
    finally:
        os.sched_setaffinity(0, before)
    assert run._spins == 1
    assert min(taken) < 200 * 2.5e-3


# Failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [2, 3])
def test_an_exception_of_a_member_is_raised(members: int, made: Callable[..., Crew], gone: Gone) -> None:
    def fail() -> None:
        raise KeyError("of a plugin")

    run = made([[nothing]], [[nothing] for _ in range(members - 1)] + [[fail]], [[nothing] for _ in range(members)])
    workers = [number for number, _, _ in run._workers]
    with pytest.raises(KeyError, match="of a plugin"):
        run.run(5)
    assert not run.alive
    assert all(gone(n) for n in workers)


def test_an_exception_that_cannot_travel_says_its_words(made: Callable[..., Crew]) -> None:
    class Local(Exception): ...

    def fail() -> None:
        raise Local("words")

    with pytest.raises(RuntimeError, match="Local: words"):
        made([[nothing], [fail]]).run(1)


def test_a_long_exception_is_cut(made: Callable[..., Crew]) -> None:
    """It has to fit into a pipe that nobody reads yet."""

    def fail() -> None:
        raise ValueError("long " * 100_000)

    with pytest.raises(RuntimeError, match="ValueError: long long"):
        made([[nothing], [fail]]).run(1)


def test_after_an_interrupt_the_next_steps_run(make_step: Any, make_likelihood: Any, gone: Gone) -> None:
    run = make_step("elbo", make_likelihood("bernoulli"), threads=2)
    run.fill()
    run.step.run(5)
    repeated = run.step._run_visit
    stop = [False]

    def interrupt() -> None:
        if stop[0]:
            raise KeyboardInterrupt

    repeated.close()  # the calls are part of what is forked
    run.step.phases[2][0].insert(0, interrupt)
    run.step.run(5)
    stop[0] = True
    workers = [number for number, _, _ in repeated._crew._workers]
    with pytest.raises(KeyboardInterrupt):
        run.step.run(5)
    assert all(gone(n) for n in workers)
    stop[0] = False
    run.step.run(5)
    assert np.isfinite(run.theta).all()
    run.step.backend.close()


def test_after_an_interrupt_of_one_alone_the_crew_goes_on(
    make_step: Any, make_likelihood: Any, monkeypatch: pytest.MonkeyPatch, gone: Gone
) -> None:
    """Its members slept and know nothing of it; the trainer puts the parameters back."""
    monkeypatch.delenv("AEVB_WORKERS")
    run, other = (make_step("elbo", make_likelihood("bernoulli"), threads=2) for _ in range(2))
    stop = [False]

    def interrupt() -> None:
        if stop[0]:
            raise KeyboardInterrupt

    run.step.phases[2][0].insert(0, interrupt)
    for r in (run, other):
        r.fill()
    processes, _, alone = run.step._run_visit.ways
    processes(5)
    kept = [np.array(a) for a in (run.theta, *run.step.state)]
    workers = [number for number, _, _ in processes._crew._workers]
    stop[0] = True
    with pytest.raises(KeyboardInterrupt):
        alone(5)
    stop[0] = False
    for array, before in zip((run.theta, *run.step.state), kept, strict=True):
        array[...] = before
    run.step.clock.cursor.array[...] = run.step.clock.step.array[...] = 5
    for way in (processes, alone, processes):
        way(5)
    assert [number for number, _, _ in processes._crew._workers] == workers
    other.step.run(20)
    assert run.theta.tobytes() == other.theta.tobytes()
    for r in (run, other):
        r.step.backend.close()
    assert all(gone(n) for n in workers)


@pytest.mark.parametrize("when", ["waits", "works"])
def test_a_killed_member_is_one_error_and_waited_for_no_longer(
    when: str, made: Callable[..., Crew], place: Any, gone: Gone
) -> None:
    def die() -> None:
        if when == "works" and place[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    run = made([[nothing], [die], [nothing]], [[nothing], [nothing], [nothing]], [[nothing]])
    run.run(2)
    workers = [number for number, _, _ in run._workers]
    place[0] = 1
    if when == "waits":
        os.kill(workers[0], signal.SIGKILL)
    with pytest.raises(BackendError, match="worker process ended unexpectedly"):
        run.run(1000)
    assert all(gone(n) for n in workers)


def test_signals_of_the_group_reach_the_first_member_alone(made: Callable[..., Crew], place: Any) -> None:
    run = made([[nothing], [setter(place, 0, os.getpid)]], [[nothing]])
    run.run(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(run._workers[0][0], number)
    run.run(1)
    assert place[0] == run._workers[0][0]


def test_members_hold_no_file_of_the_first(made: Callable[..., Crew], tmp_path: Path) -> None:
    """A lock on a run folder would else outlive a killed process."""
    with (tmp_path / "lock").open("w"):
        run = made([[nothing], [nothing]])
        run.run(1)
        links = [str(e.readlink()) for e in Path(f"/proc/{run._workers[0][0]}/fd").iterdir() if int(e.name) > 2]
    assert len(links) == 2
    assert all(link.startswith("pipe:") for link in links)


SCRIPT = """
import os, sys, time
import numpy as np
from aevb_engine.backend import crew
from aevb_engine.backend.crew import Crew
crew.REST = crew.START = 1e6
from aevb_engine.backend.shared import shared_zeros
place = shared_zeros((1,), np.int64)
def work():
    place[0] = 1
    if sys.argv[1] == "works":
        os.write(1, b"works\\n")
        time.sleep(1e6)
made = Crew([[[lambda: None]], [[work], [lambda: None]], [[lambda: None], [lambda: None]]], lambda: None)
print(made._workers[0][0], flush=True)
if sys.argv[1] == "works":
    made.run(1)
made.run(2)
if sys.argv[1] == "waits":
    print("waits", flush=True)
    time.sleep(1e6)
"""


@pytest.mark.parametrize("when", ["waits", "works", "ends"])
def test_members_end_with_the_first(when: str, gone: Gone) -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT, when], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        if when == "ends":
            assert process.wait(patience()) == 0
        else:
            assert process.stdout.readline() == f"{when}\n"
            process.kill()
        assert gone(number)


# Life -------------------------------------------------------------------------------------------------------


def test_members_end_with_the_step(make_step: Any, make_likelihood: Any, gone: Gone) -> None:
    """With the last reference, without ``close``."""
    run = make_step("elbo", make_likelihood("bernoulli"), threads=2)
    run.fill()
    run.step.run(3)
    workers = [number for number, _, _ in run.step._run_visit._crew._workers]
    assert len(workers) == 1
    os.kill(workers[0], 0)  # it is there
    del run
    gc.collect()
    assert gone(workers[0])


def test_where_no_process_may_be_forked_threads_run(
    make_step: Any, make_likelihood: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    expected = make_step("elbo", make_likelihood("bernoulli"), threads=2)
    metrics = expected.run(20)
    monkeypatch.setattr(os, "fork", refuse)
    run = make_step("elbo", make_likelihood("bernoulli"), threads=2)
    assert run.run(20).tobytes() == metrics.tobytes()
    assert run.theta.tobytes() == expected.theta.tobytes()


@pytest.mark.parametrize("how", ["hangs", "is killed", "ends"])
def test_where_a_member_does_not_start_threads_run(
    how: str, make_step: Any, make_likelihood: Any, monkeypatch: pytest.MonkeyPatch, gone: Gone
) -> None:
    """As where BLAS was in use by another thread at the fork; nothing is lost, and no process is left."""
    from aevb_engine.backend import numpy as backend

    forked = shared.shared_zeros((1,), np.int64)

    def setup() -> None:
        forked[0] = os.getpid()
        if how == "hangs":
            time.sleep(1e6)
        if how == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(3)

    expected = make_step("elbo", make_likelihood("bernoulli"), threads=2)
    metrics = expected.run(20)
    monkeypatch.setattr(backend, "_begin", setup)
    monkeypatch.setattr(crew, "START", 10.0)
    monkeypatch.setattr(crew, "PATIENCE", 2.0)
    seconds = itertools.count(0.0, 5.0)  # a clock that stands until the member is in the middle of its start
    clock = SimpleNamespace(monotonic=lambda: next(seconds) if forked[0] else 0.0, sleep=time.sleep)
    monkeypatch.setattr(crew, "time", clock)
    run = make_step("elbo", make_likelihood("bernoulli"), threads=2)
    assert run.run(20).tobytes() == metrics.tobytes()
    assert run.theta.tobytes() == expected.theta.tobytes()
    assert forked[0] > 0
    assert gone(int(forked[0]))


def test_what_fails_at_the_start_of_a_member_is_raised() -> None:
    def setup() -> None:
        raise ZeroDivisionError("at the start")

    made = Crew([[[nothing], [nothing]]], setup)
    with pytest.raises(ZeroDivisionError, match="at the start"):
        made.run(1)


def test_a_member_that_fails_and_ends_between_two_looks_is_heard(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was ready, as it says by then: its exception is told by the first run."""

    def setup() -> None:
        until(lambda: place[0], "the first look")
        raise ZeroDivisionError("at the start")

    def gone(self: Crew) -> bool:
        place[0] = 1
        until(lambda: self._counts[crew.LINE] == crew.FAILED, "the end of the member")
        return True

    with monkeypatch.context() as patch:
        patch.setattr(Crew, "_gone", gone)
        made = Crew([[[nothing], [nothing]]], setup)
    with pytest.raises(ZeroDivisionError, match="at the start"):
        made.run(1)


def test_a_signal_right_after_the_fork_does_not_lead_the_child_into_the_callers_code(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = os.fork

    def interrupted() -> int:
        number = fork()
        if not number:
            os.kill(os.getpid(), signal.SIGINT)
        return number

    monkeypatch.setattr(os, "fork", interrupted)
    me = os.getpid()
    try:
        number = shared.fork_worker(lambda: place.__setitem__(0, 7))
    except KeyboardInterrupt:
        if os.getpid() != me:
            os._exit(1)
        raise
    assert os.waitpid(number, 0)[1] == 0
    assert place[0] == 7
    with pytest.raises(KeyboardInterrupt):  # and the parent hears as before
        signal.raise_signal(signal.SIGINT)


def test_one_thread_shares_nothing(make_step: Any, make_likelihood: Any) -> None:
    before = set(shared._live)
    run = make_step("elbo", make_likelihood("bernoulli"), threads=1)
    run.run(3)
    assert not set(shared._live) - before
    assert not hasattr(run.step._run_visit, "_crew")


def test_a_process_forked_by_the_user_has_arrays_of_its_own(make_step: Any, make_likelihood: Any) -> None:
    """Both go on training, to the same bits, without touching each other."""
    run, other = (make_step("elbo", make_likelihood("bernoulli"), threads=2) for _ in range(2))
    for r in (run, other):
        r.fill()
        r.step.run(10)
    expected = other.theta.copy()
    result = shared.shared_zeros((1,), np.int64)
    number = os.fork()
    if number == 0:  # the result goes by the exit code: its own memory is seen by nobody else
        code = 1
        try:
            run.step.run(20)
            result[0] = 7
            code = 0 if not np.array_equal(run.theta, expected) else 2
            run.step.backend.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 0
    assert result[0] == 0
    assert run.theta.tobytes() == expected.tobytes()
    run.step.run(20)
    other.step.run(20)
    assert run.theta.tobytes() == other.theta.tobytes()
    for r in (run, other):
        r.step.backend.close()


def test_threads_in_a_process_forked_by_the_user() -> None:
    """Threads do not survive a fork; evaluation needs them."""
    backend = NumpyBackend(2)
    done = [0, 0]
    phases = [[[lambda i=i: done.__setitem__(i, done[i] + 1)] for i in range(2)]]
    backend.run(phases, 3)
    limit = patience()
    number = os.fork()
    if number == 0:
        signal.alarm(int(limit))  # a thread that is waited for in vain
        try:
            backend.run(phases, 1)
        finally:
            os._exit(0 if done == [4, 4] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 0
    backend.run(phases, 1)
    assert done == [4, 4]
    backend.close()


@pytest.mark.parametrize("shape", [(1 << 40, 1 << 30), (1 << 46,)])
def test_too_large_an_array(shape: tuple[int, ...]) -> None:
    with pytest.raises(MemoryError, match=r"bytes for an array of shape \("):
        shared.shared_zeros(shape, np.float64)


def test_a_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEVB_WORKERS", "thread")
    with pytest.raises(UsageError, match="AEVB_WORKERS=thread: use processes, threads or alone, or unset it"):
        NumpyBackend(2)


def test_threads_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEVB_WORKERS", "threads")
    backend = NumpyBackend(2)
    assert backend.empty((3,), np.float32).base is None
    assert not hasattr(backend.repeat([[[nothing], [nothing]]], []), "_crew")


def test_one_alone_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEVB_WORKERS", "alone")
    backend = NumpyBackend(2)
    seen: list[str] = []
    names = [lambda: seen.append(threading.current_thread().name)] * 2
    backend.repeat([[names, names], [names]], [])(2)
    assert seen == [threading.current_thread().name] * 12


@pytest.mark.parametrize("shared_arrays", [True, False])
def test_without_a_word_time_decides(shared_arrays: bool, place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among threads and one alone where processes cannot; with one worker there is nothing to decide."""
    monkeypatch.delenv("AEVB_WORKERS")
    array = place if shared_arrays else np.zeros(8)
    written = custom("own", lambda xp, rows: nothing, (), (Buffer("own", array),))
    backend = NumpyBackend(2)
    decided = backend.repeat([[[nothing], [nothing]]], [written])
    assert isinstance(decided, choice.Choice)
    assert hasattr(decided.ways[0], "_crew") == shared_arrays
    assert len(decided.ways) == 2 + shared_arrays
    assert not isinstance(backend.repeat([[[nothing]]], [written]), choice.Choice)


def test_what_a_plugin_writes_elsewhere_is_written_by_threads(place: Any) -> None:
    """In another process it would be lost, silently."""
    backend = NumpyBackend(2)
    phases = [[[nothing], [nothing]]]
    for array, crews in ((backend.empty((4,), np.float32), True), (place[2:4], True), (np.zeros(4), False)):
        written = custom("own", lambda xp, rows: nothing, (), (Buffer("own", array).part(slice(1, None)),))
        assert hasattr(backend.repeat(phases, [written]), "_crew") == crews
    assert not shared.is_shared(np.zeros(3)[1:])
