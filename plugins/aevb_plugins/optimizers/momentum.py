"""Gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from aevb_engine.errors import UsageError
from aevb_engine.training.optimizer import Optimizer


def _scalar(grad: Any, coef: Any, theta: Any, velocity: Any) -> Any:
    velocity = coef[1] * velocity + grad
    return theta - coef[0] * velocity, velocity


def _nesterov(grad: Any, coef: Any, theta: Any, velocity: Any) -> Any:
    velocity = coef[1] * velocity + grad
    return theta - coef[0] * (grad + coef[1] * velocity), velocity


class Momentum(Optimizer):
    """v <- m v + g, theta <- theta - lr v, as torch.optim.SGD with momentum.

    ``form=ema`` is the moving average of Lin & Xu: v <- m v + (1 - m) g. ``nesterov`` steps along g + m v.
    """

    summary: ClassVar[str] = "gradient descent with momentum"
    default_lr: ClassVar[float] = 0.001
    still_at_zero: ClassVar[bool] = True
    state = ("velocity",)
    scratch = 1

    def __init__(
        self, *, momentum: float = 0.9, form: Literal["torch", "ema"] = "torch", nesterov: bool = False
    ) -> None:
        if not 0 <= momentum < 1:
            raise UsageError(f"optimizer.momentum={momentum}: a value in [0, 1) is needed")
        if nesterov and form == "ema":
            raise UsageError("optimizer.nesterov=true: not defined for optimizer.form=ema; use form=torch")
        self.momentum = momentum
        self.gain = 1 - momentum if form == "ema" else 1.0
        self.nesterov = nesterov
        self.scalar = _nesterov if nesterov else _scalar
        step = "grad + coef[1] * velocity" if nesterov else "velocity"
        self.cuda = f"velocity = coef[1] * velocity + grad; theta -= coef[0] * ({step});"

    def coefficients(self, step: int, lr: float) -> tuple[float, ...]:
        # The moving average is kept unnormalised, v / (1 - m): its factor goes into the rate.
        return (lr * self.gain, self.momentum)

    def update(self, xp: Any, grad: Any, coef: Any, scratch: Sequence[Any], theta: Any, *state: Any) -> None:
        (velocity,), (work,) = state, scratch
        xp.multiply(velocity, coef[1], out=velocity)
        xp.add(velocity, grad, out=velocity)
        if self.nesterov:
            xp.multiply(velocity, coef[1], out=work)
            xp.add(work, grad, out=work)
            xp.multiply(work, coef[0], out=work)
        else:
            xp.multiply(velocity, coef[0], out=work)
        xp.subtract(theta, work, out=theta)
