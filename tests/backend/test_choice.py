"""Which of some ways runs the steps: decided by time, at little cost, whatever comes and goes."""

from __future__ import annotations

import gc
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aevb_engine.backend.choice import COST, GAIN, LEAD, SOONEST, TRIAL, WINDOW, Choice, wanted
from aevb_engine.errors import UsageError


class Machine:
    """Ways that take so many seconds a step, on a clock of their own; ``load`` changes them."""

    def __init__(self, *pace: float, noise: float = 0.0) -> None:
        self.pace = list(pace)
        self.now = 0.0
        self.calls: list[tuple[float, int, int]] = []  # clock, way, steps
        self._noise = noise
        self._rng = np.random.default_rng(0)
        self.choice = Choice([self._way(i) for i in range(len(pace))], lambda: self.now)

    def _way(self, i: int) -> Callable[[int], None]:
        def run(times: int) -> None:
            self.calls.append((self.now, i, times))
            self.now += times * self.pace[i] * float(np.exp(self._noise * self._rng.standard_normal()))

        return run

    def train(self, seconds: float, times: int = 50) -> float:
        """Seconds a step over about so many seconds."""
        began, before = self.now, self.steps()
        while self.now - began < seconds:
            self.choice(times)
        return (self.now - began) / (self.steps() - before)

    def steps(self, way: int | None = None) -> int:
        return sum(n for _, i, n in self.calls if way in (None, i))


@pytest.mark.parametrize("times", [1, 2, 3, 7, 50, 1000])
def test_every_step_is_run_once(times: int) -> None:
    machine = Machine(1e-3, 2e-3, 1.5e-3)
    for i in range(1, 40):
        machine.choice(times)
        assert machine.steps() == i * times
    machine.choice(0)
    assert machine.steps() == 39 * times


@pytest.mark.parametrize("times", [1, 5, 50])
@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_quickest_is_used(best: int, times: int) -> None:
    """For 100 seconds, at 0.95 of its speed at least, and at 0.98 where it is the one that begins."""
    pace = [2e-3, 2e-3, 2e-3]
    pace[best] = 1e-3
    machine = Machine(*pace)
    machine.train(1, times)
    assert machine.train(100, times) < 1e-3 * 1.02
    assert machine.steps(best) > 0.97 * machine.steps()


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("other", [1.2, 3, 30, 1000])
def test_trials_cost_little(other: float, noise: float) -> None:
    """About COST of the time in the long run, however slow the other way is; where times vary, that of errors, too."""
    machine = Machine(1e-3, other * 1e-3, noise=noise)
    least = 1e-3 * np.exp(noise**2 / 2)
    assert machine.train(300) < least * (1.03 if noise else 1 + 1.2 * COST)
    assert machine.steps(1) > 0


@pytest.mark.parametrize("pace", [1.2e-3, 5e-3, 0.02, 1.0])
def test_a_trial_is_a_few_steps(pace: float) -> None:
    """However slow: it ends with the first step behind the lead at which its time is over."""
    machine = Machine(1e-3, pace)
    while not machine.steps(1) or machine.choice._now == 1:
        machine.choice(50)
    tried = [n for _, i, n in machine.calls if i == 1]
    assert tried[: LEAD + 1] == [1] * (LEAD + 1)
    assert sum(tried) == max(LEAD + 1, math.ceil(TRIAL / pace - 1e-6))


def test_load_comes_and_goes() -> None:
    machine = Machine(0.5e-3, 0.8e-3)
    assert machine.train(30) < 0.5e-3 * 1.03
    machine.pace = [20e-3, 0.9e-3]  # a core is taken
    began = machine.now
    machine.choice(50)  # a block that was under way cannot be left
    machine.train(0.3)
    assert machine.train(30) < 0.9e-3 * 1.05
    assert machine.now - began < 33
    machine.pace = [0.5e-3, 0.8e-3]
    machine.train(2 * 20e-3 * (LEAD + 1) / COST)  # after trials of so many seconds
    assert machine.train(30) < 0.5e-3 * 1.03


def test_a_way_that_becomes_slow_is_left_at_once() -> None:
    """Not when the next trial is due: another was quicker when it was tried."""
    machine = Machine(1e-3, 1.5e-3)
    machine.train(20)
    machine.choice._due = machine.now + 100
    machine.pace[0] = 3e-3
    machine.train(2.5 * WINDOW)
    began = len(machine.calls)
    machine.train(SOONEST / 2)
    assert {i for _, i, _ in machine.calls[began:]} == {1}


def test_nearly_as_quick_is_not_quicker() -> None:
    machine = Machine(1e-3, 1e-3 / (0.99 * GAIN))
    machine.train(60)
    assert machine.choice._used == 0
    assert machine.steps(0) > 0.8 * machine.steps()


def test_what_is_cold_does_not_count() -> None:
    """The steps that fork, compile and fill caches are none of a way's pace: neither at the start nor in a trial."""
    machine = Machine(1e-3, 1.5e-3)
    plain = machine.choice.ways
    cold = [5.0, 0.1]  # seconds: the first step of all compiles, the second forks

    def first(times: int) -> None:
        if cold:
            assert times == 1
            machine.now += cold.pop(0)
        plain[0](times)

    machine.choice.ways = [first, plain[1]]
    machine.train(20)
    assert machine.choice._used == 0
    assert machine.choice._pace == pytest.approx([1e-3, 1.5e-3])


def test_after_an_exception_the_next_call_is_whole() -> None:
    machine = Machine(1e-3, 2e-3)
    plain = machine.choice.ways
    left = [30]

    def fails(times: int) -> None:
        left[0] -= 1
        if left[0] % 3 == 0:
            raise KeyboardInterrupt
        plain[1](times)

    machine.choice.ways = [plain[0], fails]
    interrupts = 0
    for _ in range(2000):
        try:
            machine.choice(10)
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts > 3
    before = machine.steps()
    left[0] = 1 << 40
    machine.choice(10)
    assert machine.steps() == before + 10
    assert machine.choice._used == 0


def test_nothing_is_left_behind() -> None:
    machine = Machine(1e-3, 2e-3)
    clock = [0.0]

    def run(times: int) -> None:
        clock[0] += 1e-3 * times

    machine.choice = Choice([run, run, run], lambda: clock[0])

    def level(calls: int) -> int:
        for _ in range(calls):
            machine.choice(7)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        level(1000)
        before = level(1000)
        assert level(5000) - before < 1000
    finally:
        tracemalloc.stop()


def test_the_word_of_the_environment(monkeypatch: Any) -> None:
    monkeypatch.delenv("AEVB_WORKERS", raising=False)
    assert wanted() is None
    for word in ("processes", "threads", "alone"):
        monkeypatch.setenv("AEVB_WORKERS", word)
        assert wanted() == word
    monkeypatch.setenv("AEVB_WORKERS", "")
    with pytest.raises(UsageError, match="AEVB_WORKERS=: use processes, threads or alone, or unset it"):
        wanted()
