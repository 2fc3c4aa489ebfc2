"""Progress of work that is not training: a live line on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from types import TracebackType
from typing import Any, Self

from aevb_cli.boundary import one_line, tell
from aevb_cli.text import number, size

LINE_SECONDS = 5.0  # between two plain lines


def choose(*, quiet: bool) -> Stages:
    """Live where the terminal can do it and the user has not asked for plain text (NO_COLOR)."""
    if quiet:
        return Stages()
    terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    if terminal and not os.environ.get("NO_COLOR"):
        with contextlib.suppress(ImportError):  # without rich in plain lines
            return LiveStages()
    return PlainStages()


class Stages:
    """Shows nothing; called with what is under way, how much of it is done, and of how much (None: unknown)."""

    def __call__(self, what: str, done: int, total: int | None) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PlainStages(Stages):
    """Lines of plain text, none for what is over soon."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            tell(f"{one_line(what)}: {_amount(what, done, total)}")


class LiveStages(Stages):
    """One line with a bar, gone at the end."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        # Names may hold what rich would take for its markup.
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30),
                   TextColumn("{task.fields[amount]}", markup=False))  # fmt: skip
        console = Console(stderr=True, highlight=False)
        self._progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        self._task: Any = None
        self._what = ""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        amount = _amount(what, done, total)
        if self._task is None or what != self._what:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task, self._what = self._progress.add_task(one_line(what), total=total, amount=amount), what
        self._progress.update(self._task, completed=done, amount=amount)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a terminal that has gone ends nothing
            self._progress.stop()


def _amount(what: str, done: int, total: int | None) -> str:
    form = size if what.startswith("downloading") else number
    return form(done) + (f" of {form(total)}" if total is not None else "")
