"""z = mu + sigma eps (LX 4, 8) and its derivatives by mu and logvar."""

from __future__ import annotations

import numpy as np
import pytest

from aevb_engine.kernels.reparameterize import reparameterize, reparameterize_backward, standard_deviation
from aevb_engine.testing import central_difference


def _z(mu: np.ndarray, logvar: np.ndarray, eps: np.ndarray) -> np.ndarray:
    sigma, z = np.full_like(logvar, np.nan), np.full_like(eps, np.nan)
    standard_deviation(np, logvar, sigma)
    reparameterize(np, mu, sigma, eps, z)
    return z


@pytest.mark.parametrize("samples", [1, 3])
def test_forward_and_backward(samples: int) -> None:
    rng = np.random.default_rng(4)
    mu, logvar, da, db = (rng.standard_normal((5, 2)) for _ in range(4))
    eps, dz = (rng.standard_normal((5, samples, 2)) for _ in range(2))
    expected = mu[:, None] + np.sqrt(np.exp(logvar))[:, None] * eps
    np.testing.assert_allclose(_z(mu, logvar, eps), expected, rtol=1e-14, atol=1e-14)
    sigma, scratch, dmu, dlogvar = np.exp(logvar / 2), np.empty_like(eps), np.empty_like(mu), np.empty_like(mu)
    reparameterize_backward(np, dz, sigma, eps, scratch, dmu, dlogvar)
    by_mu = (central_difference(lambda m: _z(m, logvar, eps), mu, da) * dz).sum()
    by_logvar = (central_difference(lambda v: _z(mu, v, eps), logvar, db) * dz).sum()
    assert (dmu * da).sum() == pytest.approx(by_mu, rel=1e-8)
    assert (dlogvar * db).sum() == pytest.approx(by_logvar, rel=1e-8)
