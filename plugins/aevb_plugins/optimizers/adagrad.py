"""Adagrad (Duchi, Hazan & Singer 2011)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from aevb_engine.errors import UsageError
from aevb_engine.training.optimizer import Optimizer


def _scalar(grad: Any, coef: Any, theta: Any, squares: Any) -> Any:
    squares = squares + grad * grad
    return theta - coef[0] * (grad / (np.sqrt(squares) + coef[1])), squares


class Adagrad(Optimizer):
    """s <- s + g^2, theta <- theta - lr g / (sqrt(s) + eps), as torch.optim.Adagrad."""

    summary: ClassVar[str] = "Adagrad: each rate falls with its gradients' sum of squares"
    default_lr: ClassVar[float] = 0.02
    peak_lr: ClassVar[float | None] = 0.01  # at 0.02 the first steps close the encoder of some runs on the Frey faces
    still_at_zero: ClassVar[bool] = True
    state = ("squares",)
    scratch = 1
    scalar = staticmethod(_scalar)
    cuda = "squares += grad * grad; theta -= coef[0] * grad / (sqrt(squares) + coef[1]);"

    def __init__(self, *, eps: float = 1e-10, lr_decay: float = 0.0) -> None:
        if eps <= 0:
            raise UsageError(f"optimizer.eps={eps}: a positive value is needed")
        if lr_decay < 0:
            raise UsageError(f"optimizer.lr_decay={lr_decay}: a value of at least 0 is needed")
        self.eps = eps
        self.lr_decay = lr_decay

    def coefficients(self, step: int, lr: float) -> tuple[float, ...]:
        return (lr / (1 + (step - 1) * self.lr_decay), self.eps)

    def update(self, xp: Any, grad: Any, coef: Any, scratch: Sequence[Any], theta: Any, *state: Any) -> None:
        (squares,), (work,) = state, scratch
        xp.multiply(grad, grad, out=work)
        xp.add(squares, work, out=squares)
        xp.sqrt(squares, out=work)
        xp.add(work, coef[1], out=work)
        xp.divide(grad, work, out=work)
        xp.multiply(work, coef[0], out=work)
        xp.subtract(theta, work, out=theta)
