"""Adam (Kingma & Ba 2014)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from aevb_engine.errors import UsageError
from aevb_engine.training.optimizer import Optimizer


def _scalar(grad: Any, coef: Any, theta: Any, first: Any, second: Any) -> Any:
    first = coef[0] * first + grad
    second = coef[1] * second + grad * grad
    return theta - coef[2] * (first / (np.sqrt(second) + coef[3])), first, second


class Adam(Optimizer):
    """m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, theta <- theta - lr m^ / (sqrt(v^) + eps), as torch.optim.Adam.

    m^ = m / (1 - b1^t), v^ = v / (1 - b2^t). ``form=paper`` is the variant of Lin & Xu: one decay 0.9 for both moments
    and no bias correction. The state holds m / (1 - b1) and v / (1 - b2): two passes fewer.
    """

    summary: ClassVar[str] = "Adam: bias-corrected first and second moments"
    default_lr: ClassVar[float] = 0.001
    peak_lr: ClassVar[float | None] = 0.003
    still_at_zero: ClassVar[bool] = True
    state = ("first", "second")
    scratch = 1
    scalar = staticmethod(_scalar)
    cuda = (
        "first = coef[0] * first + grad; second = coef[1] * second + grad * grad;"
        " theta -= coef[2] * first / (sqrt(second) + coef[3]);"
    )

    def __init__(
        self,
        *,
        beta1: float = 0.9,
        beta2: float | None = None,
        eps: float = 1e-8,
        form: Literal["torch", "paper"] = "torch",
    ) -> None:
        self.beta1 = beta1
        self.beta2 = beta2 if beta2 is not None else (0.999 if form == "torch" else beta1)
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 <= value < 1:
                raise UsageError(f"optimizer.{name}={value}: a value in [0, 1) is needed")
        if eps <= 0:
            raise UsageError(f"optimizer.eps={eps}: a positive value is needed")
        self.eps = eps
        self.corrected = form == "torch"

    def coefficients(self, step: int, lr: float) -> tuple[float, ...]:
        b1, b2 = self.beta1, self.beta2
        c1, c2 = (1 - b1**step, 1 - b2**step) if self.corrected else (1.0, 1.0)
        root = math.sqrt(c2 / (1 - b2))
        return (b1, b2, lr * (1 - b1) / c1 * root, self.eps * root)

    def update(self, xp: Any, grad: Any, coef: Any, scratch: Sequence[Any], theta: Any, *state: Any) -> None:
        (first, second), (work,) = state, scratch
        xp.multiply(first, coef[0], out=first)
        xp.add(first, grad, out=first)
        xp.multiply(grad, grad, out=work)
        xp.multiply(second, coef[1], out=second)
        xp.add(second, work, out=second)
        xp.sqrt(second, out=work)
        xp.add(work, coef[3], out=work)
        xp.divide(first, work, out=work)
        xp.multiply(work, coef[2], out=work)
        xp.subtract(theta, work, out=theta)
