"""Every optimizer against a float64 reference written from its definition, one table for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

from aevb_engine import registry
from aevb_engine.errors import UsageError
from aevb_engine.testing import check_optimizer
from aevb_engine.training.optimizer import Optimizer
from aevb_plugins.optimizers.adagrad import Adagrad
from aevb_plugins.optimizers.adam import Adam
from aevb_plugins.optimizers.momentum import Momentum
from aevb_plugins.optimizers.rmsprop import Rmsprop
from aevb_plugins.optimizers.sgd import Sgd

Gradient = Callable[[int], np.ndarray]
Reference = Callable[[np.ndarray, list[np.ndarray], list[float]], Iterator[np.ndarray]]


def sgd() -> Reference:
    """torch.optim.SGD: theta - lr g."""

    def steps(theta: np.ndarray, gradients: list[np.ndarray], rates: list[float]) -> Iterator[np.ndarray]:
        for g, lr in zip(gradients, rates, strict=True):
            theta = theta - lr * g
            yield theta

    return steps


def momentum(m: float = 0.9, nesterov: bool = False, ema: bool = False) -> Reference:
    """torch.optim.SGD with momentum: b = m b + g (b = g at first); nesterov g + m b. LX: b = m b + (1 - m) g."""

    def steps(theta: np.ndarray, gradients: list[np.ndarray], rates: list[float]) -> Iterator[np.ndarray]:
        b: Any = None
        for g, lr in zip(gradients, rates, strict=True):
            first = (1 - m) * g if ema else g
            b = first if b is None else m * b + first
            theta = theta - lr * (g + m * b if nesterov else b)
            yield theta

    return steps


def adagrad(eps: float = 1e-10, lr_decay: float = 0.0) -> Reference:
    """torch.optim.Adagrad: rate lr / (1 + (t - 1) decay), theta - rate g / (sqrt(sum of g^2) + eps)."""

    def steps(theta: np.ndarray, gradients: list[np.ndarray], rates: list[float]) -> Iterator[np.ndarray]:
        total = np.zeros_like(theta)
        for t, (g, lr) in enumerate(zip(gradients, rates, strict=True)):
            total = total + g**2
            theta = theta - lr / (1 + t * lr_decay) * g / (np.sqrt(total) + eps)
            yield theta

    return steps


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, corrected: bool = True) -> Reference:
    """Kingma & Ba, algorithm 1, and torch.optim.Adam; LX without bias correction."""

    def steps(theta: np.ndarray, gradients: list[np.ndarray], rates: list[float]) -> Iterator[np.ndarray]:
        m, v = np.zeros_like(theta), np.zeros_like(theta)
        for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), 1):
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g**2
            m_hat, v_hat = (m / (1 - b1**t), v / (1 - b2**t)) if corrected else (m, v)
            theta = theta - lr * m_hat / (np.sqrt(v_hat) + eps)
            yield theta

    return steps


def rmsprop(alpha: float = 0.99, eps: float = 1e-8) -> Reference:
    """torch.optim.RMSprop: v = a v + (1 - a) g^2, theta - lr g / (sqrt(v) + eps)."""

    def steps(theta: np.ndarray, gradients: list[np.ndarray], rates: list[float]) -> Iterator[np.ndarray]:
        v = np.zeros_like(theta)
        for g, lr in zip(gradients, rates, strict=True):
            v = alpha * v + (1 - alpha) * g**2
            theta = theta - lr * g / (np.sqrt(v) + eps)
            yield theta

    return steps


TABLE: list[tuple[Optimizer, Reference]] = [
    (Sgd(), sgd()),
    (Momentum(), momentum()),
    (Momentum(momentum=0.5), momentum(0.5)),
    (Momentum(momentum=0.0), momentum(0.0)),
    (Momentum(nesterov=True), momentum(nesterov=True)),
    (Momentum(form="ema"), momentum(ema=True)),
    (Momentum(form="ema", momentum=0.7), momentum(0.7, ema=True)),
    (Adagrad(), adagrad()),
    (Adagrad(eps=1e-3, lr_decay=0.1), adagrad(1e-3, 0.1)),
    (Adam(), adam()),
    (Adam(beta1=0.8, beta2=0.95, eps=1e-2), adam(0.8, 0.95, 1e-2)),
    (Adam(beta1=0.0), adam(0.0)),
    (Adam(form="paper"), adam(0.9, 0.9, corrected=False)),
    (Adam(form="paper", beta1=0.7), adam(0.7, 0.7, corrected=False)),
    (Adam(form="paper", beta2=0.99, eps=0.1), adam(0.9, 0.99, 0.1, corrected=False)),
    (Rmsprop(), rmsprop()),
    (Rmsprop(alpha=0.9), rmsprop(0.9)),
    (Rmsprop(alpha=0.5, eps=0.1), rmsprop(0.5, 0.1)),
]
IDS = [f"{type(o).__name__}-{i}" for i, (o, _) in enumerate(TABLE)]
STEPS = 40
RATES = [0.05 * 0.97**t for t in range(STEPS)]


def worst_error(optimizer: Optimizer, reference: Reference, dtype: Any) -> float:
    """The largest distance of theta from the reference over all steps, random gradients of very different sizes."""
    rng = np.random.default_rng(20)
    start = rng.standard_normal(50)
    scale = 10.0 ** rng.uniform(-4, 2, 50)
    gradients = [(rng.standard_normal(50) * scale).astype(dtype).astype(np.float64) for _ in range(STEPS)]
    theta = start.astype(dtype)
    state = [np.zeros_like(theta) for _ in optimizer.state]
    expected = reference(theta.astype(np.float64), gradients, RATES)
    worst = 0.0
    for t, wanted in enumerate(expected):
        coef = np.array(optimizer.coefficients(t + 1, RATES[t]), dtype)
        scratch = [np.full_like(theta, np.nan) for _ in range(max(1, optimizer.scratch))]
        optimizer.update(np, gradients[t].astype(dtype), coef, scratch, theta, *state)
        worst = max(worst, float((np.abs(theta - wanted) / np.maximum(1, np.abs(wanted))).max()))
    return worst


@pytest.mark.parametrize(("optimizer", "reference"), TABLE, ids=IDS)
def test_against_the_definition(optimizer: Optimizer, reference: Reference) -> None:
    assert worst_error(optimizer, reference, np.float64) < 1e-12


@pytest.mark.parametrize(("optimizer", "reference"), TABLE, ids=IDS)
def test_in_float32(optimizer: Optimizer, reference: Reference) -> None:
    assert worst_error(optimizer, reference, np.float32) < 2e-5


@pytest.mark.parametrize(("optimizer", "reference"), TABLE, ids=IDS)
def test_no_other_definition_fits(optimizer: Optimizer, reference: Reference) -> None:
    """The comparison tells every line of the table from every other."""
    fits = [i for i, (_, other) in enumerate(TABLE) if worst_error(optimizer, other, np.float64) < 1e-6]
    wanted = [i for i, (o, _) in enumerate(TABLE) if o is optimizer]
    assert fits == wanted or fits == [0, 3]  # momentum of zero is plain descent


@pytest.mark.parametrize("optimizer", [o for o, _ in TABLE], ids=IDS)
def test_check_optimizer(optimizer: Optimizer) -> None:
    check_optimizer(optimizer)


def test_the_table_covers_every_registered_optimizer() -> None:
    ours = [p.name for p in registry.plugins("optimizer") if p.target.startswith("aevb_plugins.")]
    assert {type(registry.create("optimizer", n)) for n in ours} == {type(o) for o, _ in TABLE}
    defaults = {n: registry.create("optimizer", n).default_lr for n in ours}
    assert defaults == {"sgd": 0.001, "momentum": 0.001, "adagrad": 0.02, "adam": 0.001, "rmsprop": 0.001}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("momentum", {"momentum": 1.0}),
        ("momentum", {"momentum": -0.1}),
        ("momentum", {"nesterov": True, "form": "ema"}),
        ("adagrad", {"eps": 0.0}),
        ("adagrad", {"lr_decay": -1.0}),
        ("adam", {"beta1": 1.0}),
        ("adam", {"beta2": -0.5}),
        ("adam", {"eps": 0.0}),
        ("adam", {"form": "Paper"}),
        ("rmsprop", {"alpha": 1.0}),
        ("rmsprop", {"eps": -1e-8}),
    ],
)
def test_bad_options(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"optimizer\."):
        registry.create("optimizer", name, options)


# check_optimizer can fail -----------------------------------------------------------------------------------


class _Broken(Optimizer):
    """Plain descent with one fault."""

    state = ("velocity",)
    fault: ClassVar[str] = ""

    def coefficients(self, step: int, lr: float) -> tuple[float, ...]:
        return (lr,) * (1 + (self.fault == "coefficients" and step > 5))

    def update(self, xp: Any, grad: Any, coef: Any, scratch: Any, theta: Any, *state: Any) -> None:
        if self.fault == "not elementwise":
            grad = grad / math.sqrt(float((grad**2).sum()))
        if self.fault == "not in place":
            theta = theta.copy()
        if self.fault == "zero gradient":
            grad = grad / xp.where(grad == 0, xp.nan, 1)
        if self.fault == "changes coefficients":
            coef *= 0.5
        if self.fault == "reads scratch":
            grad = grad + 0 * scratch[0]
        theta += coef[0] * (grad if self.fault == "ascends" else -grad)
        state[0][...] = grad

    def _scalar(self, grad: Any, coef: Any, theta: Any, velocity: Any) -> tuple[Any, ...]:
        step = coef[0] * grad
        if self.fault == "scalar, count":
            return (theta - step,)
        return theta - step * (1.01 if self.fault == "scalar" else 1), grad

    scalar = property(lambda self: self._scalar)  # type: ignore[assignment]


def test_check_optimizer_sees_a_name_that_no_checkpoint_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Broken, "state", ("a b",))
    with pytest.raises(AssertionError, match="state 'a b': the name must be an identifier"):
        check_optimizer(_Broken())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("coefficients", "changing lengths"),
        ("not elementwise", "not elementwise"),
        ("not in place", "in place"),
        ("zero gradient", "gradient of zero"),
        ("changes coefficients", "modified its coefficients"),
        ("reads scratch", "not finite|not elementwise"),
        ("ascends", "quadratic rose"),
        ("scalar", "scalar differs from update"),
        ("scalar, count", "scalar gives 1 numbers, not 2"),
    ],
)
def test_check_optimizer_sees(fault: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_optimizer(_Broken())
    monkeypatch.setattr(_Broken, "fault", fault)
    with pytest.raises(AssertionError, match=message) as caught:
        check_optimizer(_Broken())
    assert "\n" not in str(caught.value)
