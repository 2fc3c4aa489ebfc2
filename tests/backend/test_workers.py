"""The threads of the NumPy backend: interrupts, exceptions, and what is left of a backend that is dropped."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from aevb_engine.backend import cores
from aevb_engine.backend import numpy as backend
from aevb_engine.backend.numpy import NumpyBackend
from tests.alarm import interrupted


@pytest.fixture
def two() -> Iterator[NumpyBackend]:
    made = NumpyBackend(2)
    yield made
    made.close()


def rows() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "aevb-rows"]


@pytest.mark.parametrize("where", ["start", "share", "wait"])
def test_after_an_interrupt_no_share_is_under_way(
    where: str, two: NumpyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the next run would take its late end for that of a share of its own, and return before that is done."""
    log: list[str] = []

    def slow(name: str) -> Any:
        def call() -> None:
            time.sleep(0.05)
            log.append(name)

        return call

    def interrupt(*given: Any) -> None:
        raise KeyboardInterrupt

    shares = [[lambda: None], [slow("before")]]
    with monkeypatch.context() as patch:
        if where == "share":
            shares[0] = [interrupt]
        elif where == "wait":
            patch.setattr(backend._Worker, "wait", interrupt)
        else:
            start = backend._Worker.start

            def started(self: Any, share: Any) -> None:
                start(self, share)
                raise KeyboardInterrupt

            patch.setattr(backend._Worker, "start", started)
        with pytest.raises(KeyboardInterrupt):
            two.run([shares], 1)
    assert log in (["before"], [])  # a share that had not begun yet need not
    kept = list(log)
    two.run([[[lambda: None], [slow("after")]]], 1)
    assert log == [*kept, "after"]
    assert len(rows()) == 1


def test_a_signal_at_any_moment(two: NumpyBackend) -> None:
    """Sixty interrupts at all places of a run of short phases; every run after one is whole."""
    total = np.zeros(2, np.int64)

    def add(i: int) -> Any:
        return lambda: total.__setitem__(i, total[i] + 1)

    phases = [[[add(0)], [add(1)]]] * 20
    rng = np.random.default_rng(0)
    for _ in range(60):
        interrupted(lambda: two.run(phases, 200), float(rng.uniform(1e-5, 2e-3)))
        total[...] = 0
        two.run(phases, 5)
        assert total.tolist() == [100, 100]


def test_an_exception_of_either_share_ends_the_run(two: NumpyBackend) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    for shares in ([[fail], [lambda: None]], [[lambda: None], [fail]]):
        with pytest.raises(ZeroDivisionError):
            two.run([shares], 1)
    done: list[int] = []
    two.run([[[lambda: done.append(1)], [lambda: done.append(2)]]], 1)
    assert sorted(done) == [1, 2]


def test_a_dropped_backend_leaves_neither_thread_nor_arrays() -> None:
    gc.collect()
    before = len(rows())
    made = NumpyBackend(2)
    array = np.zeros(10)
    gone = weakref.ref(array)
    made.run([[[lambda: None], [lambda a=array: a.fill(1)]]], 1)  # type: ignore[misc]
    del array
    gc.collect()
    assert gone() is None
    assert len(rows()) == before + 1
    del made
    gc.collect()
    assert len(rows()) == before


def test_many_more_shares_than_workers_are_done_by_few_to_the_same_bits(
    make_step: Any, make_likelihood: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By threads, by a crew and alone; the shares fix the bits."""
    found = set()
    for way in ("threads", "processes", "alone"):
        monkeypatch.setenv("AEVB_WORKERS", way)
        for most in (8, 2):
            monkeypatch.setattr(backend, "most_workers", lambda most=most: most)
            step = make_step("elbo", make_likelihood("bernoulli"), threads=7)
            metrics = step.run(5)
            found.add((metrics.tobytes(), step.theta.tobytes()))
    assert len(found) == 1


def test_the_hands_of_many_shares() -> None:
    done: list[int] = []
    phases = [[[lambda i=i: done.append(i)] for i in range(7)], [[lambda: done.append(7)]]]  # type: ignore[misc]
    few = backend.gathered(phases, 3)
    assert [[len(share) for share in phase] for phase in few] == [[3, 2, 2], [1]]
    for phase in few:
        for share in phase:
            for call in share:
                call()
    assert sorted(done[:7]) == list(range(7))
    assert done[7] == 7
    assert backend.gathered(phases, 7) is phases


def test_as_many_workers_as_the_cores_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand threads are a few workers, and that is said."""
    monkeypatch.setattr(cores, "LEAST_WORKERS", 3)
    monkeypatch.setattr(cores, "TIMES_CORES", 0)
    made = NumpyBackend(1000)
    made.run([[[lambda: None]] * 1000], 1)
    assert len(made._workers) == 2
    made.close()
    (line,) = cores.crowded(1000)
    assert line.startswith("--threads 1000: 3 workers do the shares of 1000")
    assert cores.crowded(3) == cores.crowded(None) == []


def test_where_no_more_threads_start_those_there_are_do_all_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, 0

    def few(self: threading.Thread) -> None:
        nonlocal started
        if started == 2:
            raise RuntimeError("can't start new thread")
        started += 1
        start(self)

    monkeypatch.setattr(threading.Thread, "start", few)
    made, done = NumpyBackend(6), set[int]()
    made.run([[[lambda i=i: done.add(i)] for i in range(6)]], 1)  # type: ignore[misc]
    assert done == set(range(6))
    assert len(made._workers) == 2
    made.close()
