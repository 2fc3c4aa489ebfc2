"""Progress on stderr: live on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aevb_cli.boundary import one_line, tell, warn
from aevb_cli.signals import Interrupt, say
from aevb_cli.text import duration, number, size
from aevb_engine import jit
from aevb_engine.experiment.atomic import quoted

if TYPE_CHECKING:
    from aevb_engine.experiment.folder import RunFolder
    from aevb_engine.experiment.session import Session

LINE_SECONDS = 5.0  # between two plain lines
SMOOTH = 50  # steps that the shown bound of the batches is averaged over, roughly
STOPPING = "stopping after the steps under way; once more to leave at once"


def choose(interrupt: Interrupt, *, quiet: bool, verbose: bool) -> Screen:
    """Live where the terminal can do it and the user has not asked for plain text (NO_COLOR)."""
    if quiet:
        return Screen(interrupt)
    terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    if terminal and not os.environ.get("NO_COLOR"):
        with contextlib.suppress(ImportError):  # without rich in plain lines
            from aevb_cli.live import LiveScreen

            return LiveScreen(interrupt, verbose=verbose)
    return PlainScreen(interrupt, verbose=verbose)


class State:
    """What there is to show of a run."""

    def __init__(self) -> None:
        self.what = ""  # being loaded
        self.done = 0
        self.amount: int | None = None
        self.step = self.total = self.first = 0
        self.bound: float | None = None  # of the batches, smoothed
        self.held_out: float | None = None
        self.best: tuple[float, int] | None = None
        self.label = "test (display only)"
        self.column, self.batch = 2, "batch"
        self.criterion = 2
        self.seconds = 0.0  # of training alone, in this process
        self.eval_every: int | None = None
        self._costs: list[float] = []  # seconds of the evaluations so far
        self._told = time.monotonic()
        self._seconds_before: float | None = None
        self._seen = 0

    def begin(self, session: Session) -> None:
        """Training is about to start, or to go on."""
        self.step = self.first = session.trainer.step
        self.total = session.total_steps
        self.label = "validation" if session.held_out_is == "validation" else "test (display only)"
        if "bound" not in session.objective.columns:
            self.column, self.batch = 3, "batch reconstruction"
        if session.criterion != "bound":
            self.criterion, self.label = 3, f"{self.label} {session.criterion}"
        self.eval_every = session.eval_every if session.held_out is not None else None

    def add(self, rows: Any, total: int, seconds: float) -> None:
        """Take in rows of TRAIN_COLUMNS."""
        if self._seconds_before is not None:
            self.seconds += seconds - self._seconds_before
        else:
            self.first = int(rows[-1, 0])  # the first block is a warm-up: rates count from its end
            self.began = time.monotonic()
        self._seconds_before = seconds
        for value in rows[:, self.column].tolist():
            self._seen = min(SMOOTH, self._seen + 1)  # the first steps weigh alike, then old ones fade
            before = 0.0 if self.bound is None else self.bound
            self.bound = before + (value - before) / self._seen
        self.step, self.total = int(rows[-1, 0]), total
        self._told = time.monotonic()

    def evaluated(self, row: Any, is_best: bool) -> None:
        """Take in a row of EVAL_COLUMNS."""
        self._costs.append(time.monotonic() - self._told)
        self.held_out = float(row[0, self.criterion])
        if is_best:
            self.best = (self.held_out, int(row[0, 0]))

    @property
    def chooses(self) -> bool:
        """Whether the held-out curve tells the best step; the test set's does not."""
        return self.label.startswith("validation")

    @property
    def rate(self) -> float | None:
        """Steps a second of training."""
        return (self.step - self.first) / self.seconds if self.seconds > 0 else None

    @property
    def left(self) -> float | None:
        """Seconds to the end: the steps at their pace, and the evaluations to come at the cost of those before.

        What happens once (the data, the first steps, a first evaluation that prepares the others) does not count.
        """
        if not self.rate:
            return None
        every, costs = self.eval_every, self._costs[1:] or self._costs
        coming = -(-self.total // every) - self.step // every if every and self.step < self.total else 0
        return (self.total - self.step) / self.rate + coming * (sorted(costs)[len(costs) // 2] if costs else 0.0)

    def loading(self) -> str:
        """The load under way, in words."""
        form = size if self.what.startswith("downloading") else number
        amount = f" of {form(self.amount)}" if self.amount is not None else ""
        return f"{one_line(self.what)}: {form(self.done)}{amount}"


class Screen:
    """Shows nothing; what the engine calls Display, and a context that leaves the terminal as it was."""

    def __init__(self, interrupt: Interrupt) -> None:
        self.interrupt = interrupt
        self.folder: RunFolder | None = None
        interrupt.restore = self.leave

    def data(self, what: str, done: int, total: int | None) -> None:
        """A load goes on; the moment to leave when the user wants to, as no run has begun."""
        self.interrupt.check()

    def begin(self, folder: RunFolder, session: Session) -> None:
        """Training is about to start."""
        self.folder = folder

    def steps(self, rows: Any, total: int, seconds: float) -> None: ...
    def evaluated(self, row: Any, is_best: bool) -> None: ...
    def note(self, line: str) -> None: ...
    def drawing(self) -> None: ...

    def leave(self) -> None:
        """The last words before the program leaves at once, from a signal handler."""
        if self.folder is not None:
            place = quoted(str(self.folder.path))
            say(f"left at once; go on from the last checkpoint with: aevb-engine resume {place}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PlainScreen(Screen):
    """Lines of plain text."""

    def __init__(self, interrupt: Interrupt, *, verbose: bool = False) -> None:
        super().__init__(interrupt)
        self.verbose = verbose
        self.state = State()
        self._said = time.monotonic()
        interrupt.announce = lambda: say(STOPPING + "\n")

    def __enter__(self) -> Self:
        jit.listeners.append(self._compiling)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        jit.listeners.remove(self._compiling)

    def _compiling(self, series: jit.Compiling) -> None:
        if series.count == 1 or self._due():
            self._line(str(series))

    def data(self, what: str, done: int, total: int | None) -> None:
        super().data(what, done, total)
        self.state.what, self.state.done, self.state.amount = what, done, total
        if self._due():
            self._line(self.state.loading())

    def begin(self, folder: RunFolder, session: Session) -> None:
        super().begin(folder, session)
        self.state = State()  # not of the replica before
        self.state.begin(session)
        for line in (introduction(session), *session.notes):
            self._line(line)
        self._line(f"run folder {one_line(str(folder.path))}")
        if self.verbose:
            self._line(settings(session))

    def steps(self, rows: Any, total: int, seconds: float) -> None:
        self.state.add(rows, total, seconds)
        if self._due():
            self._status()

    def evaluated(self, row: Any, is_best: bool) -> None:
        self.state.evaluated(row, is_best)
        if self.verbose or self.state.step == self.state.total:
            self._status()

    def note(self, line: str) -> None:
        warn(line)

    def drawing(self) -> None:
        self._line("drawing figures")

    def _due(self) -> bool:
        return time.monotonic() - self._said >= LINE_SECONDS

    def _status(self) -> None:
        state = self.state
        parts = [f"step {state.step:,}/{state.total:,}", f"{state.batch} {number(state.bound)}"]
        if state.held_out is not None:
            parts.append(f"{state.label} {number(state.held_out)}")
        if state.rate is not None:
            parts.append(f"{state.rate:,.0f} steps/s")
        if state.left is not None and state.step < state.total:
            parts.append(f"{duration(state.left)} left")
        self._line("  ".join(parts))

    def _line(self, text: str) -> None:
        self._said = time.monotonic()
        tell(text)


def introduction(session: Session) -> str:
    """Data and model in one line."""
    config, data = session.config, session.dataset
    hidden = "-".join(map(str, (data.dim, *config.hidden, config.latent_dim)))
    threads = f"{config.threads} thread" + ("s" if config.threads != 1 else "")
    pruned = session.trainer.pruned
    if pruned:
        threads += f", {len(pruned.columns)} of {data.dim} columns in the first product"  # the others are always zero
    return (
        f"{config.dataset} {len(data.train):,} + {len(data.test_rows):,} rows, {config.decoder} decoder, {hidden}, "
        f"{session.model.parameters.size:,} parameters, {config.optimizer} {config.lr:g}, {threads}"
    )


def settings(session: Session) -> str:
    """The whole configuration in one line, for -v."""
    from aevb_cli.text import setting

    values = session.config.as_dict()
    return "  ".join(f"{k.replace('_', '-')}={setting(v)}" for k, v in values.items() if v is not None)
