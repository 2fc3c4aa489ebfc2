"""The course of training in memory: a row of means for every fixed number of steps."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

HISTORY_EVERY = 50  # steps a row; windows are counted from step 0
KEPT = 20_000  # steps whose own numbers are kept: more than an interrupt can take back
COLUMNS = ("bound", "reconstruction", "kl")
Rows = npt.NDArray[np.float64]
Row = dict[str, float]


class History:
    """Fills ``rows``: {"step": last of the window, "bound", "reconstruction", "kl": means over it in nats}.

    The windows end at multiples of 50 steps, whatever the blocks in which the steps come; ``close`` ends one early.
    """

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self._ends: list[int] = []  # of the windows so far, also where a user has emptied the list
        self._recent: deque[Rows] = deque()  # of TRAIN_COLUMNS
        self._start: int | None = None  # the steps before it are not known here

    def begin(self, step: int) -> None:
        """Training goes on after ``step``, from which an earlier course may have gone on in another way."""
        if self._start is None:
            self._start = step
        self.close(step)

    @property
    def known(self) -> int:
        """The last step whose numbers have come."""
        return int(self._recent[-1][-1, 0]) if self._recent else 0

    def add(self, steps: Rows) -> list[Row]:
        """Take in rows of TRAIN_COLUMNS; the windows that have ended."""
        self._recent.append(steps)
        while steps[-1, 0] - self._recent[0][-1, 0] > KEPT:
            self._recent.popleft()
        done = int(steps[-1, 0])
        return self._end(done - done % HISTORY_EVERY)

    def close(self, step: int) -> list[Row]:
        """The model is that of ``step``: leave out what lies behind, and end the window there."""
        while self.rows and self.rows[-1]["step"] > step:
            self.rows.pop()
        while self._ends and self._ends[-1] > step:
            self._ends.pop()
        while self._recent and self._recent[-1][-1, 0] > step:
            last = self._recent.pop()
            if last[0, 0] <= step:
                self._recent.append(last[last[:, 0] <= step])
        return self._end(step)

    def _end(self, step: int) -> list[Row]:
        """Windows up to ``step``, which ends the last one."""
        new: list[Row] = []
        last = self._ends[-1] if self._ends else self._start or 0
        while last < step:
            end = min(last - last % HISTORY_EVERY + HISTORY_EVERY, step)
            if len(values := self._between(last, end)):
                means = values.mean(axis=0)  # NaN where the objective has none
                new.append({"step": float(end), **dict(zip(COLUMNS, map(float, means), strict=True))})
            last = end
        self.rows += new
        self._ends += [int(row["step"]) for row in new]
        return new

    def _between(self, first: int, last: int) -> Rows:
        """Bound, reconstruction and kl of the steps after ``first`` up to ``last``, as far as they are known."""
        parts: list[Rows] = [np.empty((0, len(COLUMNS)))]
        for block in reversed(self._recent):
            if block[-1, 0] <= first:
                break
            parts.append(block[(block[:, 0] > first) & (block[:, 0] <= last), 2:5])
        return np.concatenate(parts[::-1])
