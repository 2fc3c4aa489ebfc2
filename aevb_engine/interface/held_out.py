"""Which rows a fit holds out, how often it looks at them, and how long it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aevb_engine.errors import UsageError
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.session import CONVERGENCE_EPOCHS, CONVERGENCE_VALIDATION, DEFAULT_EPOCHS, LEAST_STEPS
from aevb_engine.interface.arguments import flag, whole
from aevb_engine.objectives import held_out
from aevb_engine.objectives.base import Objective

EVALUATIONS = 10  # at least, of a fit


@dataclass(frozen=True)
class HeldOut:
    """What a fit was asked to hold out: a ``fraction`` of the training rows, or ``rows`` of their own, or nothing."""

    judge: Objective | None  # what evaluates them
    fraction: float
    rows: Any
    until_converged: bool
    every: int | None  # steps between two looks

    @property
    def wanted(self) -> bool:
        return bool(self.fraction) or self.rows is not None

    @property
    def columns(self) -> tuple[str, ...]:
        """Which of bound, reconstruction and kl there are of them."""
        return self.judge.columns if self.judge is not None else ()

    @property
    def criterion(self) -> str:
        """The one that tells the best step and convergence."""
        return "bound" if "bound" in self.columns else "reconstruction"


def asked(
    config: RunConfig, objective: Objective, validation: Any, until_converged: bool | None, eval_every: int | None
) -> HeldOut:
    """From the arguments of ``fit``, and where they are None from the configuration; UsageError."""
    if validation is None:
        validation = config.validation
    until_converged = config.until_converged if until_converged is None else flag("until_converged", until_converged)
    every = config.eval_every if eval_every is None else whole("eval_every", eval_every, 1)
    fraction, rows = 0.0, None
    if isinstance(validation, (str, bytes, bool, np.bool_)):
        raise UsageError(f"validation={validation!r}: a fraction in [0, 1) or rows (N, D) are needed")
    if isinstance(validation, (int, float, np.number)):
        fraction = replace(config, validation=float(validation)).validation  # checked
        if until_converged and not fraction:
            fraction = CONVERGENCE_VALIDATION
    else:
        rows = validation
    found = HeldOut(held_out(objective), fraction, rows, until_converged, every)
    if found.wanted and found.judge is None:
        raise UsageError(
            f"validation: the objective {config.objective} has no encoder, so there is no held-out bound to follow; "
            "leave validation and until_converged out"
        )
    return found


def length(
    config: RunConfig, epochs: float | None, steps: float | None, per_epoch: float, *, until_converged: bool
) -> int:
    """Steps of a fit: as it is told, else as the model was made, else as those of ``run``: 50 epochs and at least 2,000
    steps (1000 epochs at most until converged)."""
    if epochs is None and steps is None:
        epochs, steps = config.epochs, config.steps
    if steps is not None:
        return int(steps)
    if epochs is None:
        return max(LEAST_STEPS, round((CONVERGENCE_EPOCHS if until_converged else DEFAULT_EPOCHS) * per_epoch))
    return max(1, round(epochs * per_epoch))


def check_length(epochs: Any, steps: Any) -> None:
    """UsageError for a length that is no length."""
    if epochs is not None and steps is not None:
        raise UsageError("epochs and steps exclude each other; give one of them")
    for name, value in (("epochs", epochs), ("steps", steps)):
        if value is None:
            continue
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_))
        if not (number and 0 < value < math.inf):
            raise UsageError(f"{name}={value!r}: a positive number is needed")
        if name == "steps" and value != int(value):
            raise UsageError(f"steps={value!r}: a whole number is needed")


def interval(held: HeldOut, count: int, per_epoch: float) -> int:
    """Steps between evaluations: an epoch, but at least ten evaluations in the ``count`` steps of a fit."""
    return held.every or max(1, min(round(per_epoch) or 1, -(-count // EVALUATIONS)))
