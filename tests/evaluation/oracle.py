"""Exact answers of the linear-Gaussian model, and quadrature of one with two latent dimensions."""

from __future__ import annotations

import numpy as np

from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.model.model import Architecture, Model
from aevb_engine.operation import Buffer
from aevb_engine.training.step import ResidentRows
from aevb_plugins.decoders.bernoulli import Bernoulli
from aevb_plugins.decoders.gaussian import Gaussian


def _parameters(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loadings (Z, D), bias and log-variances (D,) of the decoder, in double."""
    names = ("decoder.mean.weight", "decoder.mean.bias", "decoder.logvar")
    weight, bias, logvar = (np.asarray(model.parameters[n].theta.array, np.float64) for n in names)
    return weight, bias, logvar


def posterior(model: Model, x: np.ndarray, beta: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Mean (N, Z) and covariance (Z, Z) of p(z) p(x | z)^beta."""
    weight, bias, logvar = _parameters(model)
    scaled = beta * weight * np.exp(-logvar)
    covariance = np.linalg.inv(np.eye(len(weight)) + scaled @ weight.T)
    return (x - bias) @ scaled.T @ covariance, covariance


def log_likelihood(model: Model, x: np.ndarray) -> np.ndarray:
    """log N(x; bias, W^T W + diag e^logvar) (N,)."""
    weight, bias, logvar = _parameters(model)
    covariance = weight.T @ weight + np.diag(np.exp(logvar))
    residual = x - bias
    mahalanobis = np.einsum("nd,dn->n", residual, np.linalg.solve(covariance, residual.T))
    return -0.5 * (mahalanobis + np.linalg.slogdet(2 * np.pi * covariance)[1])


def bernoulli_by_quadrature(model: Model, x: np.ndarray) -> np.ndarray:
    """log of the integral of p(x | z) N(z; 0, I) on a grid (N,): two latent dimensions, one hidden layer of tanh."""
    grid = np.linspace(-8, 8, 161)
    z = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    named = {n: np.asarray(p.theta.array, np.float64) for n, p in model.parameters.named.items()}
    hidden = np.tanh(z @ named["decoder.1.weight"] + named["decoder.1.bias"])
    logit = hidden @ named["decoder.logit.weight"] + named["decoder.logit.bias"]
    logp = x @ logit.T - np.logaddexp(0, logit).sum(1) - 0.5 * (z**2).sum(1) - np.log(2 * np.pi)
    largest = logp.max(1)
    total = np.exp(logp - largest[:, None]).sum(1) * (grid[1] - grid[0]) ** 2
    answer: np.ndarray = largest + np.log(total)
    return answer


# Models with exact answers ----------------------------------------------------------------------------------


def linear_model(
    latent: int,
    *,
    dim: int = 12,
    loadings: float = 1.0,
    orthogonal: bool = False,
    precision: str = "float64",
    threads: int = 1,
    seed: int = 1,
) -> Model:
    """Factor analysis: hidden = (), one variance a column. With ``orthogonal`` the posterior has no correlations.

    The encoder is the best mean-field Gaussian: the posterior's mean, and as variances the inverse diagonal of its
    precision (exact where the loadings are orthogonal).
    """
    rng = np.random.default_rng(seed)
    likelihood = Gaussian(mean="linear", variance="per_dim", min_logvar=None)
    model = Model(Architecture(dim, latent, (), precision=precision), likelihood, NumpyBackend(threads))
    logvar = rng.uniform(-0.7, 0.7, dim)
    weight = loadings * rng.standard_normal((latent, dim)) / np.sqrt(dim)
    if orthogonal:
        columns, _ = np.linalg.qr(rng.standard_normal((dim, latent)))
        weight = loadings * (columns.T * rng.uniform(1, 2, (latent, 1))) * np.exp(0.5 * logvar)
    put = {"mean.weight": weight, "mean.bias": 0.3 * rng.standard_normal(dim), "logvar": logvar}
    for name, values in put.items():
        model.parameters[f"decoder.{name}"].theta.array[...] = values
    put_mean_field(model)
    return model


def put_mean_field(model: Model) -> None:
    """Set the encoder to the mean-field Gaussian that maximizes the bound."""
    weight, bias, logvar = _parameters(model)
    _, covariance = posterior(model, np.zeros((1, len(bias))))
    slope = (weight * np.exp(-logvar)).T @ covariance
    spread = -np.log(np.diag(np.linalg.inv(covariance)))
    head = model.parameters["encoder.head.weight"].theta.array
    head[...] = np.concatenate([slope, np.zeros_like(slope)], axis=1)
    model.parameters["encoder.head.bias"].theta.array[...] = np.concatenate([-bias @ slope, spread])


def normal_rows(n: int, dim: int = 12, seed: int = 2) -> ResidentRows:
    return ResidentRows(Buffer("data", np.random.default_rng(seed).standard_normal((n, dim))))


def bernoulli_model(dim: int = 6, hidden: int = 5, weights: float = 0.8, seed: int = 1) -> Model:
    """Two latent dimensions and one hidden layer of tanh; weights that make posteriors skew."""
    model = Model(Architecture(dim, 2, (hidden,), precision="float64"), Bernoulli(), NumpyBackend(1))
    model.parameters.theta[...] = weights * np.random.default_rng(seed).standard_normal(model.parameters.size)
    return model


def binary_rows(n: int, dim: int = 6, seed: int = 2) -> ResidentRows:
    return ResidentRows(Buffer("data", (np.random.default_rng(seed).random((n, dim)) < 0.5) * 1.0))
