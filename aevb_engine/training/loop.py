"""The training loop: blocks of steps, evaluations, early stopping, and a listener that sees everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from aevb_engine.training.convergence import Convergence
from aevb_engine.training.step import BLOCK
from aevb_engine.training.trainer import Trainer

EVAL_COLUMNS = ("step", "seen", "bound", "reconstruction", "kl", "bound_se", "best")
RESPONSE = 0.2  # seconds of work between two looks at the listener
TAIL = 500  # the most steps that the reported training bound is averaged over
Rows = npt.NDArray[np.float64]
Ended = Literal["done", "converged", "stopped"]
Blocks = Generator[int, tuple[Rows, float], Ended]


class Listener(Protocol):
    """Logs, draws, saves. ``stop`` is asked between blocks; True ends the loop, resumable."""

    def steps(self, rows: Rows) -> None: ...
    def evaluated(self, row: Rows, is_best: bool) -> None: ...
    def stop(self) -> bool: ...


@dataclass
class Progress:
    """Where the loop stands: what a checkpoint stores beside the trainer's arrays."""

    seconds: float = 0.0  # training only: without evaluation, logging and saving
    tail: Rows = field(default_factory=lambda: np.empty((0, 6)))  # the last rows of TRAIN_COLUMNS
    evaluations: Rows = field(default_factory=lambda: np.empty((0, len(EVAL_COLUMNS))))
    convergence: Convergence = field(default_factory=Convergence)

    def last_steps(self) -> Rows:
        """The rows of TRAIN_COLUMNS whose means stand for the end of training: the last tenth of it, at most 500 steps.

        A longer window of a short run would be an average over its course, far below where it ended.
        """
        done = int(self.tail[-1, 0]) if len(self.tail) else 0
        return self.tail[-window(done) :]

    def meta(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "convergence": self.convergence.as_dict()}


def window(steps: int) -> int:
    """How many of the last steps the reported training bound of so many steps is a mean of."""
    return max(1, min(TAIL, steps // 10))


def fit(trainer: Trainer, progress: Progress, **options: Any) -> Ended:
    """Train to the end of ``blocks(trainer, progress, **options)``."""
    loop = blocks(trainer, progress, **options)
    try:
        steps = next(loop)
        while True:
            start = time.perf_counter()
            rows = trainer.advance(steps)
            steps = loop.send((rows, time.perf_counter() - start))
    except StopIteration as end:
        ended: Ended = end.value
        return ended


def blocks(
    trainer: Trainer,
    progress: Progress,
    *,
    total: int,
    eval_every: int,
    evaluate: Callable[[], dict[str, float]] | None,
    until_converged: bool,
    listener: Listener,
    criterion: str = "bound",
) -> Blocks:
    """The loop without the training: says how many steps are next, and is sent the rows of so many or fewer, and the
    seconds that they took.

    Train up to ``total`` steps, evaluating every ``eval_every`` and at the end; goes on from ``trainer.step``.

    ``evaluate`` may be None: nothing is held out. ``criterion`` is the column that tells the best evaluation and
    convergence; evaluations in the objective's warm-up do not count as waiting.
    """
    warmup = trainer.objective.warmup
    pace = RESPONSE / BLOCK  # seconds a step, first guess: a short block
    while trainer.step < total:
        if until_converged and progress.convergence.converged:
            return "converged"
        if listener.stop():
            return "stopped"
        to_evaluation = eval_every - trainer.step % eval_every
        steps = max(1, min(trainer.block, to_evaluation, total - trainer.step, int(RESPONSE / pace)))
        rows, elapsed = yield steps
        pace = elapsed / len(rows)
        progress.seconds += elapsed
        progress.tail = np.concatenate([progress.tail, rows])[-TAIL:]
        listener.steps(rows)
        if evaluate is not None and (trainer.step % eval_every == 0 or trainer.step == total):
            result = evaluate()
            is_best = progress.convergence.add(trainer.step, result[criterion], waiting=trainer.step > warmup)
            numbers = [result[k] for k in ("bound", "reconstruction", "kl", "bound_se")]
            row = np.array([[trainer.step, rows[-1, 1], *numbers, float(is_best)]])
            progress.evaluations = np.concatenate([progress.evaluations, row])
            listener.evaluated(row, is_best)
    return "done"
