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
