"""When to stop early, and which evaluation was the best."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

WINDOW = 3  # evaluations in the running mean
TOLERANCE = 1e-4  # relative to the magnitude of the bound: 0.01 nats at 100
PATIENCE = 10  # evaluations without an improvement


@dataclass
class Convergence:
    """Follows the validation bound: smoothed over three evaluations, it has converged when it has not improved by
    1e-4 of its magnitude for ten evaluations. (Of an objective without a bound: what stands in for it.)"""

    recent: list[float] = field(default_factory=list)
    smoothed_best: float | None = None
    waited: int = 0
    best: float | None = None
    best_step: int | None = None

    def add(self, step: int, bound: float, waiting: bool = True) -> bool:
        """Take in an evaluation; True where it is the best so far. Without ``waiting`` patience does not run out.

        One that is not finite (a row of the data where the density overflows) is no improvement, and nothing else.
        """
        if not math.isfinite(bound):
            self.waited += waiting
            return False
        self.recent = [*self.recent, bound][-WINDOW:]
        smoothed = sum(self.recent) / len(self.recent)
        if self.smoothed_best is None or smoothed > self.smoothed_best + TOLERANCE * abs(self.smoothed_best):
            self.smoothed_best, self.waited = smoothed, 0
        elif waiting:
            self.waited += 1
        if self.best is None or bound > self.best:
            self.best, self.best_step = bound, step
            return True
        return False

    @property
    def converged(self) -> bool:
        return self.waited >= PATIENCE

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))
