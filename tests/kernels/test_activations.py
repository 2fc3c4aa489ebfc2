"""Hidden activations: forward against the math library, backward against central differences, and far out."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest

from aevb_engine.model.mlp import ACTIVATIONS
from aevb_engine.testing import central_difference

FORMULAS = {
    "tanh": math.tanh,
    "relu": lambda x: max(0.0, x),
    "softplus": lambda x: max(0.0, x) + math.log1p(math.exp(-abs(x))),
}


def _forward(name: str, pre: np.ndarray) -> np.ndarray:
    h = np.full_like(pre, np.nan)
    ACTIVATIONS[name][0](np, pre, h)
    return h


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_forward(name: str) -> None:
    pre = np.concatenate([np.linspace(-30, 30, 241), [-1000.0, -1e-9, 0.0, 1e-9, 1000.0]]).reshape(1, -1)
    expected = np.array([[FORMULAS[name](float(v)) for v in pre[0]]])
    np.testing.assert_allclose(_forward(name, pre), expected, rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_backward(name: str) -> None:
    rng = np.random.default_rng(1)
    pre, direction, dh = (rng.standard_normal((7, 5)) for _ in range(3))
    numeric = (central_difference(lambda p: _forward(name, p), pre, direction) * dh).sum()
    slope, back = np.full_like(pre, np.nan), dh.copy()
    ACTIVATIONS[name][1](np, _forward(name, pre), slope, back)
    assert (back * direction).sum() == pytest.approx(numeric, rel=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softplus_at_a_thousand(dtype: type) -> None:
    pre = np.array([[-1000.0, 1000.0]], dtype)
    h = _forward("softplus", pre)
    assert h.tolist() == [[0.0, 1000.0]]
    dh = np.ones_like(h)
    ACTIVATIONS["softplus"][1](np, h, np.empty_like(h), dh)
    assert dh.tolist() == [[0.0, 1.0]]


def test_relu_at_zero_has_slope_zero() -> None:
    h, dh = np.zeros((1, 2)), np.ones((1, 2))
    ACTIVATIONS["relu"][1](np, h, np.empty_like(h), dh)
    assert not dh.any()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_fused_with_the_bias_before_and_the_row_weight_after(name: str) -> None:
    rng = np.random.default_rng(23)
    module = importlib.import_module(f"aevb_engine.kernels.{name}")
    pre, dh = rng.standard_normal((2, 7, 5))
    bias, weight = rng.standard_normal(5), rng.standard_normal(7)
    h = pre.copy()
    getattr(module, f"bias_{name}")(np, bias, h)
    np.testing.assert_allclose(h, _forward(name, pre + bias), rtol=1e-15)
    direction = rng.standard_normal((7, 5))
    numeric = (central_difference(lambda p: _forward(name, p + bias), pre, direction) * dh * weight[:, None]).sum()
    getattr(module, f"weighted_{name}_backward")(np, weight, h, np.full_like(h, np.nan), dh)
    assert (dh * direction).sum() == pytest.approx(numeric, rel=1e-8)
