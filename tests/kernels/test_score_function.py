"""The score function against central differences of log q at fixed z."""

from __future__ import annotations

import numpy as np
import pytest

from aevb_engine.kernels.score_function import score_function_backward


@pytest.mark.parametrize("samples", [1, 3])
def test_is_the_derivative_of_log_q_at_fixed_z(samples: int) -> None:
    rng = np.random.default_rng(samples)
    mu, logvar = rng.standard_normal((2, 4, 2))
    eps, weight = rng.standard_normal((4, samples, 2)), rng.standard_normal((4, samples))
    sigma = np.exp(logvar / 2)
    z = mu[:, None] + sigma[:, None] * eps

    def value(mu: np.ndarray, logvar: np.ndarray) -> np.ndarray:
        """sum_l weight log q(z | x) by dimension (B, Z)."""
        logq = -0.5 * ((z - mu[:, None]) ** 2 / np.exp(logvar)[:, None] + logvar[:, None])
        return (weight[:, :, None] * logq).sum(axis=1)

    dmu, dlogvar = np.empty((2, 4, 2))
    score_function_backward(np, weight, sigma, eps, np.empty_like(eps), dmu, dlogvar)
    step = 1e-5
    np.testing.assert_allclose(dmu, (value(mu + step, logvar) - value(mu - step, logvar)) / (2 * step), atol=1e-8)
    np.testing.assert_allclose(dlogvar, (value(mu, logvar + step) - value(mu, logvar - step)) / (2 * step), atol=1e-8)
