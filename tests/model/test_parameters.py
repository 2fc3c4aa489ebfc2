"""The flat parameter vector: views, initial values, reproducibility."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.model.parameters import Parameters

SHAPES = {"a.weight": (120, 80), "a.bias": (80,), "b": (1,), "c.weight": (80, 40)}


def _parameters(dtype: type = np.float32) -> Parameters:
    return Parameters(SHAPES, NumpyBackend(1), dtype)


def test_views_share_the_flat_vector() -> None:
    p = _parameters()
    assert p.size == 120 * 80 + 80 + 1 + 80 * 40
    assert [(q.lo, q.hi) for q in p.named.values()] == [(0, 9600), (9600, 9680), (9680, 9681), (9681, 12881)]
    for name, parameter in p.named.items():
        assert parameter.theta.array.shape == parameter.grad.array.shape == SHAPES[name]
        parameter.theta.array[...] = 7
        parameter.grad.array[...] = 8
        assert (p.theta[parameter.lo : parameter.hi] == 7).all()
        assert (p.grad[parameter.lo : parameter.hi] == 8).all()
        assert np.shares_memory(parameter.theta.array, p.theta)
        assert not np.shares_memory(parameter.theta.array, p.grad)


def test_normal_initial_values() -> None:
    """N(0, 0.01^2) for every parameter, biases too (KW section 5)."""
    p = _parameters()
    p.initialize(1)
    scaled = p.theta.astype(np.float64) / 0.01
    n = scaled.size
    assert abs(scaled.mean()) < 4 / math.sqrt(n)
    assert abs((scaled**2).mean() - 1) < 4 * math.sqrt(2 / n)
    assert (p.theta != 0).all()
    assert abs(np.corrcoef(p["a.weight"].theta.array[:80, :40].ravel(), p["c.weight"].theta.array.ravel())[0, 1]) < 0.07


def test_glorot_initial_values() -> None:
    p = _parameters()
    p.initialize(1, "glorot")
    for name, (rows, columns) in (("a.weight", (120, 80)), ("c.weight", (80, 40))):
        weight, limit = p[name].theta.array, math.sqrt(6 / (rows + columns))
        assert np.abs(weight).max() <= limit
        assert np.abs(weight).max() > 0.99 * limit
        assert abs(weight.mean()) < 4 * limit / math.sqrt(3 * weight.size)
        assert weight.var() == pytest.approx(limit**2 / 3, rel=0.06)
    assert not p["a.bias"].theta.array.any()
    assert not p["b"].theta.array.any()


@pytest.mark.parametrize("how", ["normal", "glorot"])
def test_reproducible(how: str) -> None:
    one, again, wide, other = _parameters(), _parameters(), _parameters(np.float64), _parameters()
    for p, seed in ((one, 1), (again, 1), (wide, 1), (other, 2)):
        p.initialize(seed, how)  # type: ignore[arg-type]
    assert one.theta.tobytes() == again.theta.tobytes()
    np.testing.assert_array_equal(wide.theta, one.theta.astype(np.float64))
    assert (other["a.weight"].theta.array != one["a.weight"].theta.array).mean() > 0.99
