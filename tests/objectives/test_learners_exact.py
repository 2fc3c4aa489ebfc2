"""Wake-sleep and Monte Carlo EM on probabilistic PCA, whose maximum-likelihood solution is in closed form, and every
learner with every decoder and optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aevb_engine.objectives.base import COLUMNS
from aevb_plugins.optimizers.adagrad import Adagrad
from aevb_plugins.optimizers.adam import Adam
from aevb_plugins.optimizers.momentum import Momentum
from aevb_plugins.optimizers.rmsprop import Rmsprop
from aevb_plugins.optimizers.sgd import Sgd

LOG_2PI = float(np.log(2 * np.pi))
# Nats a data point below the maximum. Constant rates leave an excess that a likelihood of 30 parameters turns into
# noise of about this size; measured 0.00005 to 0.003 over five starts of each case below.
MARGIN = 0.01


def simulated(latent: int, rows: int = 400, dim: int = 6) -> np.ndarray:
    """Rows of a linear-Gaussian model whose signal is well above its noise."""
    rng = np.random.default_rng(11)
    weight = rng.standard_normal((latent, dim))
    return rng.standard_normal((rows, latent)) @ weight + 0.7 * rng.standard_normal((rows, dim)) + 0.5


def maximum(x: np.ndarray, latent: int) -> float:
    """The largest mean log-likelihood of PPCA (Tipping & Bishop 1999, eq. 7-8): -1/2 [D log 2 pi + sum_(j <= q)
    log l_j + (D - q) log s2 + D], l the eigenvalues of the covariance, s2 the mean of those left out."""
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    noise = values[latent:].mean()
    dim = x.shape[1]
    return float(-0.5 * (dim * LOG_2PI + np.log(values[:latent]).sum() + (dim - latent) * np.log(noise) + dim))


def log_likelihood(model: Any, x: np.ndarray) -> float:
    """Mean log N(x; bias, W^T W + s2 I) of a trained linear model."""
    weight, bias, logvar = (
        np.array(model.parameters[f"decoder.{n}"].theta.array, float) for n in ("mean.weight", "mean.bias", "logvar")
    )
    covariance = weight.T @ weight + np.exp(logvar) * np.eye(x.shape[1])
    centred = x - bias
    _, log_determinant = np.linalg.slogdet(covariance)
    mahalanobis = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred)
    return float(-0.5 * (mahalanobis.mean() + log_determinant + x.shape[1] * LOG_2PI))


def shortfall(run: Any, x: np.ndarray, latent: int, steps: tuple[int, int]) -> float:
    """Nats below the maximum after steps at a rate and more at a twentieth of it."""
    run.run(steps[0])
    run.lr /= 20
    run.run(steps[1])
    return maximum(x, latent) - log_likelihood(run.step.model, x)


def learner(make_step: Any, make_likelihood: Any, name: str, x: np.ndarray, latent: int, **more: Any) -> Any:
    sizes = {"dim": x.shape[1], "latent": latent, "hidden": (), "rows": len(x), "batch": 100, "precision": "float64"}
    return make_step(name, make_likelihood("scalar"), values=x, initial_sd=0.1, **{**sizes, "lr": 0.02, **more})


def test_the_closed_form_is_the_maximum() -> None:
    """The loadings of Tipping & Bishop attain it, and no other noise does better."""
    x = simulated(2)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    noise = values[:-2].mean()
    weight = (vectors[:, -2:] * np.sqrt(values[-2:] - noise)).T

    def at(variance: float) -> float:
        covariance = weight.T @ weight + variance * np.eye(6)
        centred = x - x.mean(0)
        mahalanobis = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred).mean()
        return float(-0.5 * (mahalanobis + np.linalg.slogdet(covariance)[1] + 6 * LOG_2PI))

    assert at(noise) == pytest.approx(maximum(x, 2), abs=1e-10)
    assert max(at(0.9 * noise), at(1.1 * noise)) < maximum(x, 2) - 1e-3


def test_wake_sleep_reaches_the_maximum(make_step: Any, make_likelihood: Any) -> None:
    """With one latent dimension q can be the exact posterior, and wake-sleep is a stochastic EM."""
    x = simulated(1)
    run = learner(make_step, make_likelihood, "wake-sleep", x, 1)
    assert 0 < shortfall(run, x, 1, (1500, 500)) < MARGIN


@pytest.mark.parametrize("batch", [100, 400])
def test_mcem_reaches_the_maximum(batch: int, make_step: Any, make_likelihood: Any) -> None:
    x = simulated(2)
    run = learner(make_step, make_likelihood, "mcem", x, 2, batch=batch)
    assert 0 < shortfall(run, x, 2, (1500, 500)) < MARGIN


@pytest.mark.parametrize("planted", ["chains that never move", "samples of the prior", "an encoder that sleeps on"])
def test_a_planted_error_misses_the_maximum(planted: str, make_step: Any, make_likelihood: Any) -> None:
    x = simulated(1)
    name = "wake-sleep" if planted == "an encoder that sleeps on" else "mcem"
    run = learner(make_step, make_likelihood, name, x, 1)
    step = run.step
    if planted == "chains that never move":
        step.visit_phases = step.phases
        step.ws.buffers["hmc z"].array[...] = 0.3
    elif planted == "samples of the prior":  # the likelihood does not pull
        step.ws.buffers["hmc beta"].array[...] = 0
    else:
        named = step.model.parameters.named
        encoder = [(p.theta.array, p.theta.array.copy()) for n, p in named.items() if n.startswith("encoder")]
        step.phases.append([[lambda: [theta.__setitem__(..., kept) for theta, kept in encoder]]])
    assert shortfall(run, x, 1, (700, 300)) > 5 * MARGIN


OPTIMIZERS = {"sgd": Sgd, "momentum": Momentum, "adagrad": Adagrad, "adam": Adam, "rmsprop": Rmsprop}
LEARNERS: dict[str, dict[str, Any]] = {
    "elbo": {},
    "elbo-mc": {},
    "iwae": {},
    "beta": {"options": {"beta": 4.0, "warmup": 10}},
    "autoencoder": {"samples": 1},
    "wake-sleep": {},
    "mcem": {},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian linear affine -7", "laplace"])
@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_with_every_decoder_and_optimizer(
    name: str, likelihood: str, optimizer: str, make_step: Any, make_likelihood: Any
) -> None:
    made = OPTIMIZERS[optimizer]()
    run = make_step(
        name,
        make_likelihood(likelihood),
        optimizer=made,
        **{"samples": 2, "threads": 2, "lr": made.default_lr, "initial_sd": 0.01, **LEARNERS[name]},
    )
    before = run.theta.copy()
    metrics = run.run(20)
    defined = [column in run.step.objective.columns for column in COLUMNS]
    assert np.isfinite(metrics[:, defined]).all()
    assert np.isnan(metrics[:, np.logical_not(defined)]).all()
    assert np.isfinite(run.theta).all()
    assert (run.theta != before).any()
