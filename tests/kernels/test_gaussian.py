"""Gaussian log-densities (LX 28-31) against known values and the standard library, and their derivatives."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from aevb_engine.kernels.gaussian import (
    gaussian_log_density,
    gaussian_log_density_and_backward,
    reparameterized_log_density,
    standard_normal_log_density,
)
from aevb_engine.testing import central_difference


def _density(x: np.ndarray, mean: np.ndarray, logvar: np.ndarray) -> np.ndarray:
    residual, root = np.full((2, *x.shape), np.nan)
    logp = np.full(x.shape[:-1], np.nan)
    gaussian_log_density(np, x, mean, logvar, residual, root, logp)
    return logp


def test_known_values() -> None:
    logp = np.empty(2)
    standard_normal_log_density(np, np.array([[0.0, 0.0], [1.0, -2.0]]), np.empty((2, 2)), logp)
    np.testing.assert_allclose(logp, [-1.8378770664093453, -1.8378770664093453 - 2.5], rtol=1e-15)


def test_against_the_standard_library() -> None:
    rng = np.random.default_rng(8)
    x, mean, logvar = rng.standard_normal((3, 4, 5))
    expected = [
        sum(math.log(statistics.NormalDist(mean[r, c], math.exp(logvar[r, c] / 2)).pdf(x[r, c])) for c in range(5))
        for r in range(4)
    ]
    np.testing.assert_allclose(_density(x, mean, logvar), expected, rtol=1e-12)
    logp = np.empty(4)
    standard_normal_log_density(np, x, np.empty_like(x), logp)
    np.testing.assert_allclose(logp, _density(x, np.zeros_like(x), np.zeros_like(x)), rtol=1e-13)


def test_reparameterized_density_is_the_density_at_z() -> None:
    rng = np.random.default_rng(9)
    mu, logvar = rng.standard_normal((2, 4, 3))
    eps = rng.standard_normal((4, 2, 3))
    z = mu[:, None] + np.exp(logvar / 2)[:, None] * eps
    logq = np.empty((4, 2))
    reparameterized_log_density(np, logvar, eps, np.full_like(eps, np.nan), logq)
    wide = np.broadcast_to(mu[:, None], z.shape), np.broadcast_to(logvar[:, None], z.shape)
    np.testing.assert_allclose(logq, _density(z, *wide), rtol=1e-12)


def test_backward() -> None:
    rng = np.random.default_rng(10)
    x, mean, logvar, da, db = rng.standard_normal((5, 4, 3))
    square, dmean, dlogvar = np.full((3, 4, 3), np.nan)
    logp = np.empty(4)
    gaussian_log_density_and_backward(np, x, mean, logvar, square, logp, dmean, dlogvar)
    np.testing.assert_allclose(logp, _density(x, mean, logvar), rtol=1e-13)
    by_mean = central_difference(lambda m: _density(x, m, logvar), mean, da)
    by_logvar = central_difference(lambda v: _density(x, mean, v), logvar, db)
    np.testing.assert_allclose((dmean * da).sum(-1), by_mean, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose((dlogvar * db).sum(-1), by_logvar, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("logvar", [-14.0, 14.0])
def test_narrow_and_wide_in_float32(logvar: float) -> None:
    x, mean, wide = (np.full((1, 4), v, np.float32) for v in (0.5, 0.501, logvar))
    logp = np.empty(1, np.float32)
    gaussian_log_density(np, x, mean, wide, np.empty_like(x), np.empty_like(x), logp)
    residual = float(x[0, 0]) - float(mean[0, 0])
    expected = -2 * (residual**2 * math.exp(-logvar) + logvar + math.log(2 * math.pi))
    assert logp[0] == pytest.approx(expected, rel=1e-5)
