"""From log-weights of samples to a bound: means, log-mean-exp without overflow, and row weights."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aevb_engine.kernels.bound import (
    add_constant,
    difference,
    importance_row_weights,
    log_mean_exp,
    log_weight,
    mean_of_samples,
    prior_backward,
)
from aevb_engine.testing import central_difference


def _log_mean_exp(logw: np.ndarray) -> np.ndarray:
    bound = np.full(len(logw), np.nan, logw.dtype)
    log_mean_exp(np, logw, np.full_like(logw, np.nan), bound)
    return bound


@pytest.mark.parametrize("samples", [1, 4])
def test_mean_of_samples(samples: int) -> None:
    logp = np.random.default_rng(11).standard_normal((3, samples))
    mean = np.empty(3)
    mean_of_samples(np, logp, mean)
    np.testing.assert_allclose(mean, [math.fsum(row) / samples for row in logp], rtol=1e-14)


def test_sums() -> None:
    a, b, c, out = np.random.default_rng(12).standard_normal((4, 3, 2))
    log_weight(np, a, b, c, out)
    np.testing.assert_allclose(out, a + b - c, atol=1e-15)
    difference(np, a[0], b[0], out[0])
    assert (out[0] == a[0] - b[0]).all()
    before = a.copy()
    add_constant(np, -0.25, a)
    assert (a == before - 0.25).all()


def test_log_mean_exp() -> None:
    logw = np.random.default_rng(13).standard_normal((5, 4)) * 3
    expected = [math.log(math.fsum(math.exp(v) for v in row) / 4) for row in logw]
    np.testing.assert_allclose(_log_mean_exp(logw), expected, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("level", [-1e5, -1e3, 1e3, 1e5])
def test_log_mean_exp_does_not_overflow(dtype: type, level: float) -> None:
    logw = np.array([[level, level + 1, level - 500]], dtype)
    expected = level + math.log((1 + math.e) / 3)
    assert _log_mean_exp(logw)[0] == pytest.approx(expected, rel=3e-7)


def test_log_mean_exp_of_one_sample_is_that_sample() -> None:
    logw = np.random.default_rng(14).standard_normal((6, 1)) * 100
    assert (_log_mean_exp(logw) == logw[:, 0]).all()


def test_row_weights_are_the_derivative() -> None:
    rng = np.random.default_rng(15)
    logw, direction = rng.standard_normal((2, 5, 4))
    weight = np.empty_like(logw)
    importance_row_weights(np, logw, _log_mean_exp(logw), -1 / 20, weight)
    numeric = -central_difference(lambda w: _log_mean_exp(w).mean(), logw, direction)
    assert (weight * direction).sum() == pytest.approx(numeric, rel=1e-8)
    np.testing.assert_allclose(weight.sum(1), -1 / 5, rtol=1e-13)


def test_prior_backward() -> None:
    rng = np.random.default_rng(16)
    z, direction, dz = rng.standard_normal((3, 5, 2))
    weight, before = rng.standard_normal(5), dz.copy()
    numeric = central_difference(lambda v: (-0.5 * (v**2).sum(1) * weight).sum(), z, direction)
    prior_backward(np, weight, z, np.full_like(z, np.nan), dz)
    assert ((dz - before) * direction).sum() == pytest.approx(numeric, rel=1e-8)
