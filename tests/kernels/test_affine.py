"""The affine map and its three derivatives."""

from __future__ import annotations

import numpy as np
import pytest

from aevb_engine.kernels.affine import affine, affine_backward_bias, affine_backward_data, affine_backward_weight
from aevb_engine.testing import central_difference

RNG = np.random.default_rng(2)
X, WEIGHT, BIAS, DY = (RNG.standard_normal(s) for s in ((6, 4), (4, 3), (3,), (6, 3)))


def _affine(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    y = np.full((x.shape[0], weight.shape[1]), np.nan)
    affine(np, x, weight, bias, y)
    return y


def test_forward() -> None:
    expected = [[sum(X[r, k] * WEIGHT[k, c] for k in range(4)) + BIAS[c] for c in range(3)] for r in range(6)]
    np.testing.assert_allclose(_affine(X, WEIGHT, BIAS), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_backward(place: int) -> None:
    inputs = [X, WEIGHT, BIAS]
    direction = RNG.standard_normal(inputs[place].shape)

    def moved(value: np.ndarray) -> np.ndarray:
        return _affine(*inputs[:place], value, *inputs[place + 1 :])

    numeric = (central_difference(moved, inputs[place], direction) * DY).sum()
    out = np.full_like(inputs[place], np.nan)
    if place == 0:
        affine_backward_data(np, DY, WEIGHT, out)
    elif place == 1:
        affine_backward_weight(np, X, DY, out)
    else:
        affine_backward_bias(np, np.ones(6), DY, out)
    assert (out * direction).sum() == pytest.approx(numeric, rel=1e-8)


def test_a_slice_of_columns_gives_rows_of_the_weight_gradient() -> None:
    whole, part = np.empty((4, 3)), np.empty((2, 3))
    affine_backward_weight(np, X, DY, whole)
    affine_backward_weight(np, X[:, 1:3], DY, part)
    np.testing.assert_allclose(part, whole[1:3], rtol=1e-14)


def test_bias_gradient_takes_row_weights() -> None:
    weight = RNG.standard_normal(6)
    dbias = np.empty(3)
    affine_backward_bias(np, weight, DY, dbias)
    np.testing.assert_allclose(dbias, (weight[:, None] * DY).sum(0), rtol=1e-13)
