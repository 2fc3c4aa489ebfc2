"""RMSprop (Tieleman & Hinton 2012)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from aevb_engine.errors import UsageError
from aevb_engine.training.optimizer import Optimizer


def _scalar(grad: Any, coef: Any, theta: Any, second: Any) -> Any:
    second = coef[0] * second + grad * grad
    return theta - coef[1] * (grad / (np.sqrt(second) + coef[2])), second


class Rmsprop(Optimizer):
    """v <- a v + (1 - a) g^2, theta <- theta - lr g / (sqrt(v) + eps), as torch.optim.RMSprop.

    ``alpha=0.9`` is the form of Lin & Xu. The state holds v / (1 - a).
    """

    summary: ClassVar[str] = "RMSprop: gradients over their running root mean square"
    default_lr: ClassVar[float] = 0.001
    still_at_zero: ClassVar[bool] = True
    state = ("second",)
    scratch = 1
    scalar = staticmethod(_scalar)
    cuda = "second = coef[0] * second + grad * grad; theta -= coef[1] * grad / (sqrt(second) + coef[2]);"

    def __init__(self, *, alpha: float = 0.99, eps: float = 1e-8) -> None:
        if not 0 <= alpha < 1:
            raise UsageError(f"optimizer.alpha={alpha}: a value in [0, 1) is needed")
        if eps <= 0:
            raise UsageError(f"optimizer.eps={eps}: a positive value is needed")
        self.alpha = alpha
        self.eps = eps

    def coefficients(self, step: int, lr: float) -> tuple[float, ...]:
        root = math.sqrt(1 / (1 - self.alpha))
        return (self.alpha, lr * root, self.eps * root)

    def update(self, xp: Any, grad: Any, coef: Any, scratch: Sequence[Any], theta: Any, *state: Any) -> None:
        (second,), (work,) = state, scratch
        xp.multiply(grad, grad, out=work)
        xp.multiply(second, coef[0], out=second)
        xp.add(second, work, out=second)
        xp.sqrt(second, out=work)
        xp.add(work, coef[2], out=work)
        xp.divide(grad, work, out=work)
        xp.multiply(work, coef[1], out=work)
        xp.subtract(theta, work, out=theta)
