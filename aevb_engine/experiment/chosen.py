"""Which checkpoint stands for a run: the best where validation rows chose one, else the last. Decided here alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aevb_engine.errors import FileFormatError, UsageError
from aevb_engine.experiment.atomic import shown
from aevb_engine.experiment.checkpoint import Checkpoint, CheckpointStore

Which = Literal["best", "last"]


@dataclass(frozen=True)
class Chosen:
    """A checkpoint, which one of the run's it is, and a line for each file that was skipped."""

    checkpoint: Checkpoint
    which: Which
    warnings: list[str]


def chosen(checkpoints: Path, which: Which | None = None, *, where: Path | None = None) -> Chosen:
    """The checkpoint of a folder ``checkpoints`` that stands for its run, or the one asked for.

    UsageError where the best is asked for and there is none, FileFormatError where there is no sound one; ``where`` is
    what they name, the run's folder by default.
    """
    store = CheckpointStore(checkpoints)
    where = where or checkpoints.parent
    best = store.best() if which != "last" else None
    if best is not None:
        return Chosen(best, "best", store.warnings)
    if which == "best":
        line = f"{shown(where)} has no sound best checkpoint (runs with --validation have one); use"
        raise UsageError(f"{line} --checkpoint last", python=f'{line} which="last"')
    last = store.newest()
    if last is None:
        reason = store.warnings[0] if store.warnings else "it ended before the first one; run it anew"
        raise FileFormatError(f"{shown(where)} holds no sound checkpoint; {reason}")
    return Chosen(last, "last", store.warnings)
