"""Who runs the shares of a training step: processes, threads or the caller alone, whichever is quicker as it goes on.

Workers that wait for each other at every phase are as slow as the slowest of them: where a core is taken by other work,
one that waits for nobody may be several times as quick. The shares are the same and so are the bits, thus the choice
may change at any step, and is no part of what a run records.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence

from aevb_engine.errors import UsageError

Way = Callable[[int], None]  # runs a step so many times
WORDS = ("processes", "threads", "alone")
LEAD = 2  # steps, one by one, before a way's time counts: it may compile or fork, draws noise anew, its caches are cold
WINDOW = 0.2  # seconds over which the way in use is timed
TRIAL = 0.05  # seconds, and a step behind the lead, over which another one is: some time slices of a busy core
COST = 0.01  # share of the time that trials may lose: the more they lost, the later the next
SOONEST = 0.5  # seconds between trials
GAIN = 1.05  # how many times quicker another way has to be


def wanted() -> str | None:
    """Who shall always do it, by AEVB_WORKERS; None where that is not set: decided by time."""
    word = os.environ.get("AEVB_WORKERS")
    if word is not None and word not in WORDS:
        raise UsageError(f"AEVB_WORKERS={word}: use processes, threads or alone, or unset it")
    return word


class Choice:
    """Calls the quicker of some ways to run the same steps; the first, until the others were tried.

    A way in use is timed over windows. When a trial is due, or another way was quicker when it was last tried, the
    others run a few steps each, in turn, and the quickest goes on. Only the seconds within calls count.
    """

    def __init__(self, ways: Sequence[Way], clock: Callable[[], float] = time.perf_counter) -> None:
        self.ways = ways
        self._clock = clock
        self._used = 0
        self._pace = [math.inf] * len(ways)  # seconds a step, when last timed
        self._spent = 0.0  # seconds in all
        self._due = 0.0  # when the others are tried; not before the first window ends
        self._lost = 0.0  # seconds, by the trials under way
        self._begin(0)

    def __call__(self, times: int) -> None:
        while times:
            count = min(times, self._most())
            began = self._clock()
            self.ways[self._now](count)
            self._note(count, self._clock() - began)
            times -= count

    def _begin(self, way: int) -> None:
        """Go on by this way, in use or on trial."""
        self._now = way
        self._lead = LEAD
        self._began = self._spent
        self._steps, self._seconds = 0, 0.0  # that count

    def _most(self) -> int:
        """Steps until the next look at the clock: a trial goes on in doubling pieces, as it may be a slow one."""
        if self._lead:
            return 1
        if self._now == self._used:
            return sys.maxsize
        if not self._steps:
            return 1
        left = (self._began + TRIAL - self._spent) * self._steps / self._seconds
        return max(1, min(self._steps, round(left)))

    def _note(self, count: int, seconds: float) -> None:
        self._spent += seconds
        if self._now != self._used:
            self._lost += seconds - count * self._pace[self._used]
        if self._lead:
            self._lead -= 1
            return
        self._steps += count
        self._seconds += seconds
        trial = self._now != self._used
        if (self._spent < self._began + TRIAL) if trial else (self._seconds < WINDOW):
            return
        self._pace[self._now] = self._seconds / self._steps
        if not trial and self._spent < self._due and not self._slower():
            self._steps, self._seconds = 0, 0.0
            return
        last = (self._used - 1) % len(self.ways)
        if self._now == last:
            self._decide()
        else:
            self._begin((self._now + 1) % len(self.ways))

    def _slower(self) -> bool:
        """Whether the way in use has become slower than another one was."""
        return self._pace[self._used] > GAIN * min(self._pace)

    def _decide(self) -> None:
        if self._slower():
            self._used = self._pace.index(min(self._pace))
        self._due = self._spent + max(SOONEST, self._lost / COST)
        self._lost = 0.0
        self._begin(self._used)
