"""Importance sampling: chunks change nothing, the estimate agrees with exact log-likelihoods and with quadrature."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from aevb_engine import registry
from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.evaluation import importance
from aevb_engine.evaluation.estimate import Estimate, RunningWeights
from aevb_engine.evaluation.importance import ImportanceSampler
from aevb_engine.model.model import Architecture, Model
from aevb_engine.operation import Buffer
from aevb_engine.training.step import ResidentRows
from tests.evaluation.oracle import bernoulli_by_quadrature, log_likelihood

DIM, LATENT, ROWS = 6, 2, 7


def make(decoder: str, hidden: tuple[int, ...], options: dict[str, Any] | None = None) -> Model:
    likelihood = registry.create("decoder", decoder, options or {})
    model = Model(Architecture(DIM, LATENT, hidden, precision="float64"), likelihood, NumpyBackend(2))
    model.parameters.theta[...] = 0.3 * np.random.default_rng(1).standard_normal(model.parameters.size)
    return model


def resident(decoder: str) -> ResidentRows:
    rng = np.random.default_rng(2)
    data = rng.standard_normal((ROWS, DIM)) if decoder == "gaussian" else (rng.random((ROWS, DIM)) < 0.5) * 1.0
    return ResidentRows(Buffer("data", data))


def columns(found: Estimate) -> np.ndarray:
    return np.stack([getattr(found, f.name) for f in fields(found)])


def test_chunks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = make("bernoulli", (5,)), resident("bernoulli")
    whole = columns(ImportanceSampler(model, data, 90, seed=3).run())
    monkeypatch.setattr(importance, "SAMPLES_AT_ONCE", 7)
    monkeypatch.setattr(importance, "ROWS_AT_ONCE", 14)
    monkeypatch.setattr(importance, "ROWS_OF_A_BLOCK", 7)
    for threads in (1, 2):
        again = columns(ImportanceSampler(model, data, 90, seed=3, threads=threads).run())
        np.testing.assert_allclose(again, whole, rtol=1e-10)
    assert np.isfinite(whole).all()
    assert np.abs(columns(ImportanceSampler(model, data, 90, seed=4).run()) - whole).min() > 1e-6


def test_bernoulli_agrees_with_quadrature() -> None:
    """log p(x) = log of the integral of p(x | z) N(z; 0, I) on a grid, two latent dimensions; 5 standard errors."""
    model, data = make("bernoulli", (5,)), resident("bernoulli")
    exact = bernoulli_by_quadrature(model, data.data.array)
    samples = 20_000
    found = ImportanceSampler(model, data, samples, threads=2).run()
    error = np.sqrt(1 / found.effective_samples - 1 / samples)  # of log mean w, by the delta method
    np.testing.assert_allclose(found.standard_error, error, rtol=1e-4)
    assert (np.abs(found.log_likelihood - exact) < 5 * error + 1e-6).all()
    assert (error < 0.05).all()


def test_linear_gaussian_agrees_with_the_closed_form() -> None:
    """x = W z + b + noise: log N(x; b, W W^T + diag).

    The encoder is set to the prior: then the weights are bounded, where a trained mean-field encoder may give weights
    of infinite variance.
    """
    model = make("gaussian", (), {"variance": "per_dim", "min_logvar": None, "mean": "linear"})
    data = resident("gaussian")
    for name in ("weight", "bias"):
        model.parameters[f"encoder.head.{name}"].theta.array[...] = 0
    exact = log_likelihood(model, data.data.array)
    samples = 20_000
    found = ImportanceSampler(model, data, samples, threads=2).run()
    error = found.standard_error
    assert (np.abs(found.log_likelihood - exact) < 5 * error + 1e-6).all()
    assert (found.khat < 0.7).all()
    assert (error < 0.1).all()


def test_running_weights() -> None:
    """Chunks of very different size of weight, without overflow; one sample has an effective size of one."""
    logw = np.array([[-1000.0, 1000.0, 999.0], [0.0, 0.0, 0.0]])
    running = RunningWeights(2)
    for k in range(3):
        running.add(logw[:, k : k + 1])
        if k == 0:
            np.testing.assert_allclose(running.effective_samples(), 1)
    np.testing.assert_allclose(running.log_mean(), [1000 + np.log((1 + np.exp(-1)) / 3), 0])
    np.testing.assert_allclose(running.effective_samples()[1], 3)


def test_memory_does_not_depend_on_the_number_of_samples() -> None:
    model, data = make("bernoulli", (5,)), resident("bernoulli")
    sizes = [ImportanceSampler(model, data, k).ws.nbytes for k in (1000, 100_000)]
    assert sizes[0] == sizes[1]
