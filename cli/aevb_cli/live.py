"""Live progress on a terminal: two lines that fit its width, drawn over themselves."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from aevb_cli.boundary import one_line
from aevb_cli.display import STOPPING, Screen, State, introduction, settings
from aevb_cli.signals import Interrupt, say
from aevb_cli.text import duration, number, wrap
from aevb_engine import jit

if TYPE_CHECKING:
    from aevb_engine.experiment.folder import RunFolder
    from aevb_engine.experiment.session import Session

SHOW_CURSOR = "\x1b[?25h"
BAR = 30  # columns of the bar where there is room


class LiveScreen(Screen):
    """A bar with step, rate and time left; below it the bounds."""

    def __init__(self, interrupt: Interrupt, *, verbose: bool = False) -> None:
        super().__init__(interrupt)
        self.verbose = verbose
        self.state = State()
        self.phase = "loading"
        self.console = Console(stderr=True, highlight=False, soft_wrap=False)
        # Transient: the summary on stdout takes the place of the bar.
        self.live = Live(self, console=self.console, refresh_per_second=8, transient=True, redirect_stdout=False)
        # The handler writes nothing itself on the first signal: the next refresh shows it.

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a terminal that has gone does not end a run
            self.live.stop()

    def leave(self) -> None:
        say(f"\r\n{SHOW_CURSOR}")
        super().leave()

    def data(self, what: str, done: int, total: int | None) -> None:
        super().data(what, done, total)
        self.state.what, self.state.done, self.state.amount = what, done, total

    def begin(self, folder: RunFolder, session: Session) -> None:
        super().begin(folder, session)
        self.state = State()  # not of the replica before
        self.state.begin(session)
        self.phase = "training"
        for line in (introduction(session), *session.notes):
            self._print(line)
        self._print(f"run folder {folder.path}")
        if self.verbose:
            self._print(settings(session))

    def steps(self, rows: Any, total: int, seconds: float) -> None:
        self.state.add(rows, total, seconds)

    def evaluated(self, row: Any, is_best: bool) -> None:
        self.state.evaluated(row, is_best)
        if self.verbose:
            state = self.state
            best = "  best" if is_best and state.chooses else ""  # the test set's curve chooses nothing
            self._print(f"step {state.step:,}  {state.label} {number(state.held_out)}{best}")

    def note(self, line: str) -> None:
        self._print(f"warning: {line}", style="yellow")

    def drawing(self) -> None:
        self.phase = "drawing"

    def _print(self, line: str, style: str = "dim") -> None:
        with contextlib.suppress(OSError):
            self.console.print(Text(wrap(one_line(line), self.console.width), style=style), soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(options.max_width - 1, 1)
        state = self.state
        if self.phase == "loading":
            if state.what:
                yield _line(state.loading(), state.done, state.amount, width)
            else:
                yield _fit([("loading", "")], width)
        elif self.phase == "drawing":
            yield _fit([("drawing figures", "")], width)
        else:
            after = [f"step {state.step:,}/{state.total:,}"]
            if state.rate is not None:
                after.append(f"{state.rate:,.0f} steps/s")
            if state.left is not None:
                after.append(f"{duration(state.left)} left")
            yield _line("  ".join(after), state.step, state.total, width)
            if state.bound is not None:
                parts = [(f"{state.batch} {number(state.bound)}", "cyan")]
                if state.held_out is not None:
                    parts.append((f"{state.label} {number(state.held_out)}", "green"))
                if state.best is not None and state.chooses:
                    parts.append((f"best {number(state.best[0])} at step {state.best[1]:,}", "dim"))
                yield _fit([*parts, ("nats a data point", "dim")], width)
        if (series := jit.compiling()) is not None:
            yield _fit([(str(series), "dim")], width)
        if self.interrupt.number:
            yield _fit([(STOPPING, "yellow")], width)


def _line(text: str, done: int, total: int | None, width: int) -> Any:
    """A bar and a text where both fit, else the text alone."""
    from rich.table import Table

    room = min(BAR, width - len(text) - 2)
    if room < 5:
        return _fit([(part, "") for part in text.split("  ")], width)
    grid = Table.grid(padding=(0, 2, 0, 0))
    bar = ProgressBar(total=total or None, completed=done, width=room, pulse=not total, animation_time=time.monotonic())
    grid.add_row(bar, Text(text, no_wrap=True))
    return grid


def _fit(parts: list[tuple[str, str]], width: int) -> Text:
    """As many of the parts as fit into one line; the first one is cut if it must be."""
    line = Text(no_wrap=True, overflow="crop")
    for i, (text, style) in enumerate(parts):
        gap = "  " if i else ""
        if i and len(line) + len(gap) + len(text) > width:
            break
        line.append(gap)
        line.append(text, style=style)
    line.truncate(width)
    return line
