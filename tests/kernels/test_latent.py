"""Backward through the latent variables in one pass, against central differences of what it differentiates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from aevb_engine.kernels.latent import latent_backward, latent_backward_mc
from aevb_engine.testing import central_difference

RNG = np.random.default_rng(24)
POINTS, LATENT = 5, 2
Function = Callable[[np.ndarray, np.ndarray], float]


def _agree(function: Function, mu: np.ndarray, logvar: np.ndarray, dmu: np.ndarray, dlogvar: np.ndarray) -> None:
    for value, gradient, moved in (
        (mu, dmu, lambda v: function(v, logvar)),
        (logvar, dlogvar, lambda v: function(mu, v)),
    ):
        direction = RNG.standard_normal(value.shape)
        numeric = central_difference(moved, value, direction)
        assert (gradient * direction).sum() == pytest.approx(numeric, rel=1e-8)


@pytest.mark.parametrize("samples", [1, 3])
def test_elbo(samples: int) -> None:
    """sum dz z(mu, logvar) + weight KL."""
    mu, logvar = RNG.standard_normal((2, POINTS, LATENT))
    dz, eps = RNG.standard_normal((2, POINTS, samples, LATENT))
    scratch, narrow, dmu, dlogvar = np.full_like(eps, np.nan), *np.full((3, POINTS, LATENT), np.nan)

    def function(mu: np.ndarray, logvar: np.ndarray) -> float:
        z = mu[:, None] + np.exp(logvar / 2)[:, None] * eps
        return float((dz * z).sum() + 0.3 * 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).sum())

    latent_backward(np, dz, mu, np.exp(logvar / 2), eps, 0.3, scratch, narrow, dmu, dlogvar)
    _agree(function, mu, logvar, dmu, dlogvar)


@pytest.mark.parametrize("samples", [1, 3])
def test_importance_weights(samples: int) -> None:
    """sum dz z + weight log p(z), at frozen row weights, with -log q entering by its constant alone."""
    mu, logvar = RNG.standard_normal((2, POINTS, LATENT))
    dz, eps = RNG.standard_normal((2, POINTS, samples, LATENT))
    weight = RNG.standard_normal((POINTS, samples))
    scratch, work = np.full((2, *eps.shape), np.nan)
    dmu, dlogvar = np.full((2, POINTS, LATENT), np.nan)

    def function(mu: np.ndarray, logvar: np.ndarray) -> float:
        z = mu[:, None] + np.exp(logvar / 2)[:, None] * eps
        return float((dz * z).sum() - 0.5 * (weight[..., None] * z**2).sum() - 0.1 * logvar.sum())

    z = mu[:, None] + np.exp(logvar / 2)[:, None] * eps
    latent_backward_mc(np, dz, z, weight, np.exp(logvar / 2), eps, -0.1, scratch, work, dmu, dlogvar)
    _agree(function, mu, logvar, dmu, dlogvar)
