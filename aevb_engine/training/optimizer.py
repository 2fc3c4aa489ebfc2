"""The optimizer plugin: one fused pass over a range of the flat parameter vector."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar


class Optimizer(ABC):
    """Base class of optimizer plugins; keyword-only constructor parameters are the options ``-o optimizer.KEY=VALUE``.

    ``state`` names its vectors (P,), zero at the start, stored in checkpoints. What changes between steps is computed
    by ``coefficients`` on the host and reaches ``update`` as an array, so that a captured step can replay.
    """

    summary: ClassVar[str] = ""
    default_lr: ClassVar[float] = 0.001
    peak_lr: ClassVar[float | None] = None  # where the rate falls to zero at the end, if another one is better there
    state: tuple[str, ...] = ()
    scratch: int = 1
    still_at_zero: ClassVar[bool] = False  # a parameter whose gradient and state are zero stays as it is
    # The same on numbers, for a compiled loop: scalar(grad, coef, theta, *state) gives (theta, *state); optional.
    scalar: Callable[..., Any] | None = None
    cuda: str | None = None  # elementwise text of ``update``: names grad, theta, the state, and coef[i]

    def check_declared(self) -> None:
        """TypeError or ValueError where an attribute is not what is said of it here."""
        names = self.state
        if not isinstance(names, (tuple, list)) or not all(isinstance(n, str) for n in names):
            raise TypeError(f"state is {names!r}; a tuple of names is needed")
        if len(set(names)) < len(names):
            raise ValueError(f"state is {names!r}; each name may be there once")
        if not isinstance(self.scratch, Integral) or self.scratch < 0:
            raise ValueError(f"scratch is {self.scratch!r}; a number of arrays is needed")
        for name, rate in (("default_lr", self.default_lr), ("peak_lr", self.peak_lr or self.default_lr)):
            if not isinstance(rate, Real) or not 0 < rate < math.inf:
                raise ValueError(f"{name} is {rate!r}; a positive number is needed")

    @abstractmethod
    def coefficients(self, step: int, lr: float) -> tuple[float, ...]:
        """The numbers of one step; ``step`` counts from 1 and ``lr`` follows the schedule."""

    @abstractmethod
    def update(self, xp: Any, grad: Any, coef: Any, scratch: Sequence[Any], theta: Any, *state: Any) -> None:
        """Descend: theta and the state vectors are updated in place, elementwise; ``grad`` may be overwritten."""
