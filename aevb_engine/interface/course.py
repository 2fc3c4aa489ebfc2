"""What a fit leaves behind while it goes on: history, held-out bounds, the best state; and who is told of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.errors import UsageError
from aevb_engine.interface.history import COLUMNS, History, Row
from aevb_engine.interface.interrupt import Interrupt
from aevb_engine.interface.progress import Silent
from aevb_engine.training.trainer import Trainer

Callback = Callable[[dict[str, Any]], object]
Rows = npt.NDArray[np.float64]


@dataclass
class Best:
    """The state with the best held-out bound on one set of rows, over all fits that are judged by them."""

    rows: str  # their digest
    step: int | None = None
    value: float = -np.inf
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def offer(self, trainer: Trainer, value: float) -> None:
        """Keep the present state where it is better."""
        if value > self.value:
            self.step, self.value, self.arrays = trainer.step, value, trainer.arrays()


def digest(rows: npt.NDArray[Any], scale: float) -> str:
    """The same for the same rows."""
    found = hashlib.sha256(f"{rows.shape} {rows.dtype} {scale}".encode())
    found.update(np.ascontiguousarray(rows).data)
    return found.hexdigest()


def check_callback(callback: object) -> None:
    """UsageError for what cannot be called."""
    if callback is not None and not callable(callback):
        raise UsageError(f"callback={callback!r}: a function of one dict is needed")


class Course:
    """The training loop's listener."""

    def __init__(
        self,
        trainer: Trainer,
        history: History,
        evaluations: list[Row],
        *,
        columns: tuple[str, ...],
        criterion: str,
        best: Best | None,
        callback: Callback | None,
        display: Silent,
        interrupt: Interrupt,
    ) -> None:
        """``columns``: which of bound, reconstruction and kl there are of held-out rows; ``criterion``: the one that
        tells the best."""
        self.trainer, self.history, self.evaluations = trainer, history, evaluations
        self.columns, self.criterion, self.best = columns, criterion, best
        self.callback, self.display, self.interrupt = callback, display, interrupt
        self._ended = False
        history.begin(trainer.step)
        evaluations[:] = [row for row in evaluations if row["step"] <= trainer.step]

    def steps(self, rows: Rows) -> None:
        self.display.steps(rows)
        self._tell("train", self.history.add(rows))
        self.interrupt.deliver()

    def evaluated(self, row: Rows, is_best: bool) -> None:
        values = dict(zip(COLUMNS, map(float, row[0, 2:5]), strict=True))
        entry = {"step": float(row[0, 0]), **{k: v if k in self.columns else np.nan for k, v in values.items()}}
        self.evaluations.append(entry)
        if self.best is not None:
            self.best.offer(self.trainer, entry[self.criterion])
        self.display.evaluated(entry)
        self._tell("validation", [entry])

    def stop(self) -> bool:
        self.interrupt.deliver()
        return self._ended

    def close(self) -> None:
        """The fit has ended, whatever the reason: history ends with the step that is kept."""
        last = self.trainer.last
        unseen = last[last[:, 0] > self.history.known]  # a divergence, or an interrupt just before they were reported
        if len(unseen):
            self.history.add(unseen)
        self.history.close(self.trainer.step)

    def finish(self) -> None:
        """The same where all went well."""
        self._tell("train", self.history.close(self.trainer.step))

    def _tell(self, part: str, rows: list[Row]) -> None:
        for row in rows:
            if self.callback is not None and self.callback({"part": part, **row}) is True:
                self._ended = True
