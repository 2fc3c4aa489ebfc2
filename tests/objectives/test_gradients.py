"""The gradient of each whole bound, at frozen noise, against central differences in float64: every named parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aevb_engine.operation import Operation
from aevb_engine.testing import central_difference

TOLERANCE = 1e-7
LIKELIHOODS = [
    "bernoulli",
    "laplace",
    "scalar",
    "codes",
    *(f"gaussian {m} {v} {f}" for m in ("linear", "sigmoid") for v in ("affine", "per_dim") for f in ("-1", "none")),
]
SHAPES = [((), "tanh"), *((h, a) for h in ((5,), (4, 3)) for a in ("tanh", "relu", "softplus"))]


def gradient_errors(bound: Any) -> dict[str, float]:
    """For each parameter, how far its gradient along a random direction is off, relative to its own size."""
    gradient = bound.gradient()
    theta = bound.theta.copy()
    rng = np.random.default_rng(99)

    def loss(value: np.ndarray) -> float:
        bound.theta[...] = value
        return bound.loss()

    errors = {}
    for name, p in bound.model.parameters.named.items():
        direction = np.zeros_like(theta)
        direction[p.lo : p.hi] = rng.standard_normal(p.hi - p.lo)
        terms = gradient * direction
        numeric = central_difference(loss, theta, direction)
        errors[name] = abs(float(terms[p.lo : p.hi].sum()) - numeric) / (0.1 + float(np.abs(terms).sum()))
    bound.theta[...] = theta
    return errors


@pytest.mark.parametrize(("hidden", "activation"), SHAPES)
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("name", ["elbo", "elbo-mc", "iwae"])
def test_gradient(
    name: str,
    likelihood: str,
    samples: int,
    hidden: tuple[int, ...],
    activation: str,
    make_likelihood: Any,
    make_bound: Any,
) -> None:
    kind = make_likelihood(likelihood)
    bound = make_bound(name, kind, hidden=hidden, samples=samples, activation=activation, seed=len(hidden))
    errors = gradient_errors(bound)
    worst = max(errors, key=lambda n: errors[n])
    assert errors[worst] < TOLERANCE, f"{worst}: {errors[worst]:.1e}"


@pytest.mark.parametrize("name", ["elbo", "elbo-mc", "iwae"])
def test_a_gradient_does_not_depend_on_the_batch_size(name: str, make_likelihood: Any, make_bound: Any) -> None:
    """Twice the same data points and noise: the same mean bound, the same gradient."""
    one = make_bound(name, make_likelihood("bernoulli"), hidden=(4,), batch=3, samples=2)
    two = make_bound(name, make_likelihood("bernoulli"), hidden=(4,), batch=6, samples=2)
    two.theta[...] = one.theta
    two.x[...] = np.tile(one.x, (2, 1))
    two.eps[...] = np.tile(one.eps, (2, 1))
    np.testing.assert_allclose(two.gradient(), one.gradient(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(two.forward(), np.tile(one.forward(), 2), rtol=1e-13)


@pytest.mark.parametrize("name", ["elbo", "elbo-mc", "iwae"])
def test_forward_alone_gives_the_same_bound(name: str, make_likelihood: Any, make_bound: Any) -> None:
    for likelihood in ("bernoulli", "gaussian sigmoid affine -1", "codes"):
        kind = make_likelihood(likelihood)
        with_gradient, without = (make_bound(name, kind, hidden=(4,), samples=3, gradient=g) for g in (True, False))
        np.testing.assert_allclose(without.forward(), with_gradient.forward(), rtol=1e-12)
        assert not without.program.pieces


# Planted errors ---------------------------------------------------------------------------------------------


def _without(bound: Any, name: str) -> None:
    before = len(bound.program.rows)
    bound.program.rows = [op for op in bound.program.rows if op.name != name]
    assert len(bound.program.rows) < before


def _replaced(bound: Any, name: str, make: Any) -> None:
    """The operation ``name``, followed by what ``make()`` does to the buffers."""

    def wrap(op: Operation) -> Operation:
        def bind(xp: Any, rows: Any) -> Any:
            call = op.bind(xp, rows)

            def run() -> None:
                call()
                make()

            return run

        return Operation(op.name, bind, op.reads, op.writes)

    assert any(op.name == name for op in bound.program.rows)
    bound.program.rows = [wrap(op) if op.name == name else op for op in bound.program.rows]


def _scaled(bound: Any, buffer: str, factor: float, after: str) -> None:
    _replaced(bound, after, lambda: np.multiply(bound[buffer], factor, out=bound[buffer]))


PLANTED = {
    "no KL gradient": ("elbo", lambda b: _without(b, "kl_backward")),
    "wrong sign of the KL term": ("elbo", lambda b: _scaled(b, "kl", -1.0, "kl")),
    "KL divided by the columns": ("elbo", lambda b: _scaled(b, "kl", 1 / 5, "kl")),
    "no entropy gradient": ("elbo-mc", lambda b: _without(b, "add_constant")),
    "no prior gradient": ("elbo-mc", lambda b: _without(b, "prior_backward")),
    "weights that do not sum to one": ("iwae", lambda b: _scaled(b, "weight", 1.01, "importance_row_weights")),
    "weights all equal": ("iwae", lambda b: _replaced(b, "importance_row_weights", lambda: b["weight"].fill(-1 / 9))),
    "a sum instead of a mean over the batch": ("elbo", lambda b: b["weight"].fill(-1 / 3)),
    "gradient scaled by a thousandth too much": ("elbo", lambda b: b["weight"].fill(-1.001 / 9)),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_error_is_caught(planted: str, make_likelihood: Any, make_bound: Any) -> None:
    name, plant = PLANTED[planted]
    bound = make_bound(name, make_likelihood("bernoulli"), hidden=(4,), samples=3)
    assert max(gradient_errors(bound).values()) < TOLERANCE
    plant(bound)
    assert max(gradient_errors(bound).values()) > 100 * TOLERANCE
