"""Exact answers of the linear-Gaussian model, and quadrature of one with two latent dimensions."""

from __future__ import annotations

import numpy as np

from aevb_engine.model.model import Model


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
