"""KL(q || N(0, I)) (LX 25) against numerical integration, its sign, and its derivatives."""

from __future__ import annotations

import numpy as np
import pytest

from aevb_engine.kernels.kl import kl, kl_backward
from aevb_engine.testing import central_difference


def _kl(mu: np.ndarray, logvar: np.ndarray) -> np.ndarray:
    out = np.full(len(mu), np.nan, mu.dtype)
    kl(np, mu, logvar, np.full_like(mu, np.nan), out)
    return out


def _integral(mu: float, logvar: float) -> float:
    """The integral of q log(q / p) over 24 standard deviations, by the trapezoid rule."""
    sigma = np.exp(logvar / 2)
    t = np.linspace(-12, 12, 4001)
    z = mu + sigma * t
    log_q = -0.5 * (t**2 + np.log(2 * np.pi)) - np.log(sigma)
    log_p = -0.5 * (z**2 + np.log(2 * np.pi))
    return float(np.sum(np.exp(log_q) * (log_q - log_p)) * sigma * (t[1] - t[0]))


@pytest.mark.parametrize(("mu", "logvar"), [(0.0, 0.0), (1.5, -2.0), (-3.0, 1.0), (0.2, -8.0), (5.0, 3.0)])
def test_against_integration(mu: float, logvar: float) -> None:
    assert _kl(np.array([[mu]]), np.array([[logvar]]))[0] == pytest.approx(_integral(mu, logvar), abs=1e-10)


def test_sum_over_columns() -> None:
    rng = np.random.default_rng(5)
    mu, logvar = rng.standard_normal((2, 3, 4))
    expected = [sum(_integral(mu[r, c], logvar[r, c]) for c in range(4)) for r in range(3)]
    np.testing.assert_allclose(_kl(mu, logvar), expected, rtol=1e-10)


def test_never_negative() -> None:
    rng = np.random.default_rng(6)
    mu, logvar = (rng.standard_normal((20000, 3)) * s for s in (2, 4))
    assert _kl(mu, logvar).min() > 0
    assert _kl(np.zeros((1, 5)), np.zeros((1, 5))) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3])
def test_near_the_prior(size: float, dtype: type) -> None:
    """Where 1/2 (sigma^2 - 1 - logvar) of sigma itself cancels: never below zero, and exact to rounding of logvar."""
    rng = np.random.default_rng(8)
    mu, logvar = (size * rng.standard_normal((2, 20000, 1))).astype(dtype)
    for means in (mu, np.zeros_like(mu)):
        found = _kl(means, logvar)
        assert found.min() >= 0
        m, v = means[:, 0].astype(np.float64), logvar[:, 0].astype(np.float64)
        exact = 0.5 * (m**2 + v**2 * (1 / 2 + v / 6 + v**2 / 24 + v**3 / 120))  # the series of e^v - 1 - v
        np.testing.assert_allclose(found, exact, rtol=1e-6, atol=4 * np.finfo(dtype).eps * size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_stays(dtype: type) -> None:
    with np.errstate(all="ignore"):
        found = _kl(np.zeros((4, 1), dtype), np.array([[np.nan], [-np.inf], [1000], [np.inf]], dtype))
    assert np.isnan(found[0])
    assert (found[1:3] == np.inf).all()
    assert not np.isfinite(found[3])


def test_backward_adds_to_what_is_there() -> None:
    rng = np.random.default_rng(7)
    mu, logvar, da, db, dmu, dlogvar = rng.standard_normal((6, 4, 3))
    before = dmu.copy(), dlogvar.copy()
    kl_backward(np, mu, np.exp(logvar / 2), 0.3, np.full_like(mu, np.nan), dmu, dlogvar)
    by_mu = 0.3 * central_difference(lambda m: _kl(m, logvar).sum(), mu, da)
    by_logvar = 0.3 * central_difference(lambda v: _kl(mu, v).sum(), logvar, db)
    assert ((dmu - before[0]) * da).sum() == pytest.approx(by_mu, rel=1e-8)
    assert ((dlogvar - before[1]) * db).sum() == pytest.approx(by_logvar, rel=1e-8)
