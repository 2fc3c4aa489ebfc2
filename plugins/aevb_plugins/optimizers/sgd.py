"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from aevb_engine.training.optimizer import Optimizer


def _scalar(grad: Any, coef: Any, theta: Any) -> Any:
    return (theta - coef[0] * grad,)


class Sgd(Optimizer):
    """theta <- theta - lr g, as torch.optim.SGD."""

    summary: ClassVar[str] = "stochastic gradient descent"
    default_lr: ClassVar[float] = 0.001
    still_at_zero: ClassVar[bool] = True
    scratch = 1
    scalar = staticmethod(_scalar)
    cuda = "theta -= coef[0] * grad;"

    def coefficients(self, step: int, lr: float) -> tuple[float, ...]:
        return (lr,)

    def update(self, xp: Any, grad: Any, coef: Any, scratch: Sequence[Any], theta: Any, *state: Any) -> None:
        (work,) = scratch
        xp.multiply(grad, coef[0], out=work)
        xp.subtract(theta, work, out=theta)
