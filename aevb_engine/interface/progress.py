"""How far a fit is: a bar on a terminal or in a notebook, plain lines where no line can be drawn over, or nothing."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from aevb_engine import jit
from aevb_engine.interface.arguments import flag

LINE_SECONDS = 5.0  # between two plain lines
REDRAW_SECONDS = 0.5  # of a line that is drawn over itself
SMOOTH = 50  # steps that the shown bound is averaged over
Rows = npt.NDArray[np.float64]


def choose(progress: bool | None) -> Silent:
    """``progress``: True or False, or None for where somebody can see it."""
    if progress is not None:
        progress = flag("progress", progress)
    stderr, dumb = sys.stderr, os.environ.get("TERM", "") in ("", "dumb")
    terminal = stderr is not None and not stderr.closed and stderr.isatty()
    if progress is False or stderr is None or stderr.closed:
        return Silent()
    if notebook():
        return Bar() if find_spec("ipywidgets") else Line()  # without them rich warns and shows nothing
    if terminal and not dumb:
        return Bar()
    return Lines() if progress or terminal else Silent()


def notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class Silent:
    """Shows nothing."""

    def begin(self, step: int, total: int, criterion: str, trained: str) -> None: ...
    def steps(self, rows: Rows) -> None: ...
    def evaluated(self, row: dict[str, float]) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Lines(Silent):
    """A line of plain text every few seconds, and one at the end."""

    every = LINE_SECONDS
    end = "\n"

    def __init__(self) -> None:
        self._step = self._first = self._total = 0
        self._began = self._said = time.monotonic()
        self._seconds = 0.0  # between the first block, which is a warm-up, and the last
        self._criterion = self._trained = "bound"
        self._bound: float | None = None
        self._held: float | None = None
        self._tail = np.empty(0)

    def begin(self, step: int, total: int, criterion: str, trained: str) -> None:
        """Training goes from ``step`` to ``total``; ``criterion`` is what is shown of held-out rows, ``trained`` of the
        batches."""
        self._step = self._first = step
        self._total, self._criterion, self._trained = total, criterion, trained
        self._began = time.monotonic()

    def steps(self, rows: Rows) -> None:
        """Take in rows of TRAIN_COLUMNS."""
        now = time.monotonic()
        if self._tail.size:
            self._seconds = now - self._began
        else:
            self._began, self._first = now, int(rows[-1, 0])
        self._step = int(rows[-1, 0])
        column = rows[:, 2 if self._trained == "bound" else 3]
        self._tail = np.concatenate([self._tail, column])[-SMOOTH:]
        self._bound = float(self._tail.mean())
        self._show()

    def evaluated(self, row: dict[str, float]) -> None:
        """Take in an entry of ``VAE.evaluations``."""
        self._held = row[self._criterion]

    def __enter__(self) -> Self:
        jit.listeners.append(self._compiling)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        jit.listeners.remove(self._compiling)
        if self._tail.size:
            self._say("  ".join(self.parts()), last=True)

    def parts(self) -> list[str]:
        """What there is to say, in words."""
        rate = (self._step - self._first) / self._seconds if self._seconds > 0 else 0.0
        parts = [f"step {self._step:,}/{self._total:,}"] if self._total else []
        if rate:
            parts.append(f"{rate:,.0f} steps/s")
            if self._step < self._total:
                parts.append(f"{_duration((self._total - self._step) / rate)} left")
        if self._bound is not None:
            parts.append(f"{self._trained} {self._bound:,.2f}")
        if self._held is not None:
            parts.append(f"held-out {self._criterion} {self._held:,.2f}")
        return parts

    def _show(self) -> None:
        if time.monotonic() - self._said >= self.every:
            self._say("  ".join(self.parts()))

    def _compiling(self, series: jit.Compiling) -> None:
        if series.count == 1 or time.monotonic() - self._said >= self.every:
            self._say(str(series))

    def _say(self, text: str, last: bool = False) -> None:
        self._said = time.monotonic()
        with contextlib.suppress(OSError, ValueError):  # a terminal that has gone ends no fit
            sys.stderr.write(text + self.end)
            sys.stderr.flush()


class Line(Lines):
    """One line, drawn over itself: a notebook without widgets can do that."""

    every = REDRAW_SECONDS
    end = ""

    def _say(self, text: str, last: bool = False) -> None:
        super()._say(f"\r{text:<110}" + ("\n" if last else ""))


class Bar(Lines):
    """A bar of ``rich``, in a notebook too; its own thread draws it, so that it moves while loops are compiled."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, Task
        from rich.text import Text

        class State(ProgressColumn):
            max_refresh = None

            def render(column, task: Task) -> Text:
                return Text("  ".join(self.lines()), no_wrap=True, overflow="ellipsis")

        console = Console(stderr=True, highlight=False)  # which knows NO_COLOR
        whole = sys.stdout is not None and sys.stdout.isatty()  # else what a callback prints belongs to a file
        self._progress: Any = Progress(
            BarColumn(bar_width=20), State(), console=console, redirect_stdout=whole, refresh_per_second=8
        )
        self._task: Any = self._progress.add_task("fit", total=None)

    def lines(self) -> Iterator[str]:
        """The parts; what is being compiled comes first."""
        if (series := jit.compiling()) is not None:
            yield str(series)
        yield from self.parts()

    def begin(self, step: int, total: int, criterion: str, trained: str) -> None:
        super().begin(step, total, criterion, trained)
        self._progress.update(self._task, total=total - step, completed=0)

    def steps(self, rows: Rows) -> None:
        self._progress.advance(self._task, len(rows))
        super().steps(rows)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._progress.stop()

    def _show(self) -> None: ...


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
