"""The objective plugin: what a step ascends, as the operations of one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Integral
from typing import ClassVar

from aevb_engine.objectives.program import Pass, Program

COLUMNS = ("bound", "reconstruction", "kl")


class Objective(ABC):
    """Base class of objective plugins; keyword-only constructor parameters are the options ``-o objective.KEY=VALUE``.

    What changes between steps is computed by ``coefficients`` on the host and reaches the operations as an array, so
    that a captured step can replay. State that a resumed run needs is named in ``Program.state``.
    """

    summary: ClassVar[str] = ""
    is_bound: bool = True  # whether what is ascended is a lower bound on log p(x) (in expectation)
    has_encoder: ClassVar[bool] = True  # whether it trains one; without one there is no bound and no encoding
    columns: ClassVar[tuple[str, ...]] = COLUMNS  # which of them it defines; the others hold NaN
    held_out_by_itself: ClassVar[bool] = False  # held-out data are judged by its own columns, not by L^B
    encodes_data_only: ClassVar[bool] = False  # the encoder reads ``p.encoder_input`` and nothing else
    updates: int = 1  # consecutive steps (weight updates) on one batch
    warmup: int = 0  # steps in which the objective still changes: convergence is not judged in them

    def check_declared(self) -> None:
        """TypeError or ValueError where an attribute is not what is said of it here."""
        if not isinstance(self.columns, (tuple, list)) or not set(self.columns) <= set(COLUMNS):
            raise ValueError(f"columns is {self.columns!r}; some of {', '.join(COLUMNS)} are needed")
        for name, value, least in (("updates", self.updates, 1), ("warmup", self.warmup, 0)):
            if not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name} is {value!r}; a number of steps, at least {least}, is needed")

    def coefficients(self, step: int) -> tuple[float, ...]:
        """The numbers of one step; ``step`` counts from 1. Always as many."""
        return ()

    @abstractmethod
    def build(self, p: Pass) -> Program:
        """The operations of one batch; with ``p.gradient`` those of the gradient of minus the mean over the batch."""

    def remarks(self, batch: int, count: int) -> list[str]:
        """What a user must know of the figures of a run on ``count`` data points, a line each."""
        return []
