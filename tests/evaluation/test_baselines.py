"""Baselines against exact answers: counts, dense normal densities, and the maximum of the likelihood."""

from __future__ import annotations

import numpy as np
import pytest

from aevb_engine.evaluation import baselines
from aevb_engine.evaluation.baselines import LOG_2PI, bernoulli, gaussian, ppca

DIM, LATENT = 6, 2


def real_rows(n: int = 400, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((LATENT, DIM))
    return rng.standard_normal((n, LATENT)) @ mixing + 0.4 * rng.standard_normal((n, DIM)) + 3


def dense_log_density(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """log N(x; mean, covariance) (N,) by a dense solve."""
    centred = x - mean
    mahalanobis = (centred * np.linalg.solve(covariance, centred.T).T).sum(axis=1)
    return -0.5 * (mahalanobis + np.linalg.slogdet(covariance)[1] + x.shape[1] * LOG_2PI)


def test_bernoulli_by_counting() -> None:
    """Three rows by hand: p = (n + 1) / 5; a column never one in training has a finite log-likelihood."""
    train = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1]], np.uint8)
    p = np.array([3 / 5, 1 / 5, 3 / 5])
    test = np.array([[1, 1, 0], [0, 0, 0]], np.uint8)
    expected = np.log(np.where(test == 1, p, 1 - p)).sum(axis=1)
    np.testing.assert_allclose(bernoulli(train).score(test), expected, rtol=1e-14)


def test_bernoulli_masses_sum_to_one() -> None:
    train = (np.random.default_rng(1).random((9, 4)) < 0.3).astype(np.uint8)
    every = (np.arange(16)[:, None] >> np.arange(4)) & 1
    assert np.exp(bernoulli(train).score(every)).sum() == pytest.approx(1, abs=1e-14)


def test_bernoulli_of_intensities_is_the_expectation_over_draws() -> None:
    intensities = np.array([[0, 51], [255, 255]], np.uint8)
    found = bernoulli(intensities, scale=1 / 255).score(np.array([[1.0, 1.0]]))
    np.testing.assert_allclose(found, np.log(2 / 4) + np.log(2.2 / 4), rtol=1e-14)


def test_gaussian_is_the_dense_density_with_a_diagonal() -> None:
    train, test = real_rows(), real_rows(50, 1)
    expected = dense_log_density(test, train.mean(axis=0), np.diag(train.var(axis=0)))
    np.testing.assert_allclose(gaussian(train).score(test), expected, rtol=1e-12)


def test_a_constant_column_is_held() -> None:
    train = real_rows()
    train[:, 2] = 7
    least = 1e-6 * train.var(axis=0).mean()
    at = gaussian(train).score(train[:1])
    rest = np.delete(train, 2, axis=1)
    np.testing.assert_allclose(at, gaussian(rest, least_variance=0.0).score(rest[:1]) - 0.5 * np.log(2 * np.pi * least))
    assert np.isfinite(gaussian(np.ones((5, 3))).score(np.ones((2, 3)))).all()
    assert np.isfinite(ppca(np.ones((5, 3)), 1).score(np.ones((2, 3)))).all()


def parameters(train: np.ndarray, latent: int) -> tuple[np.ndarray, float]:
    """W (D, q) and sigma^2 as Tipping & Bishop write them, from a singular value decomposition of the rows."""
    _, singular, right = np.linalg.svd(train - train.mean(axis=0), full_matrices=False)
    values = singular**2 / len(train)
    noise = values[latent:].mean()
    return right[:latent].T * np.sqrt(values[:latent] - noise), float(noise)


@pytest.mark.parametrize("latent", [1, 2, 5])
def test_ppca_is_the_dense_normal_density(latent: int) -> None:
    train, test = real_rows(), real_rows(50, 1)
    weight, noise = parameters(train, latent)
    covariance = weight @ weight.T + noise * np.eye(DIM)
    expected = dense_log_density(test, train.mean(axis=0), covariance)
    np.testing.assert_allclose(ppca(train, latent).score(test), expected, rtol=1e-11)


def test_ppca_is_a_maximum_of_the_likelihood() -> None:
    """Central differences of the mean training log-likelihood by (m, W, log sigma^2) vanish; one off it they do not."""
    train = real_rows()
    weight, noise = parameters(train, LATENT)
    best = np.concatenate([train.mean(axis=0), weight.ravel(), [np.log(noise)]])

    def likelihood(theta: np.ndarray) -> float:
        mean, w, log_noise = theta[:DIM], theta[DIM:-1].reshape(DIM, LATENT), theta[-1]
        return float(dense_log_density(train, mean, w @ w.T + np.exp(log_noise) * np.eye(DIM)).mean())

    def slope(theta: np.ndarray, i: int) -> float:
        step = np.zeros_like(theta)
        step[i] = 1e-5
        return (likelihood(theta + step) - likelihood(theta - step)) / 2e-5

    assert ppca(train, LATENT).score(train).mean() == pytest.approx(likelihood(best), rel=1e-12)
    assert max(abs(slope(best, i)) for i in range(len(best))) < 1e-7  # rounding of the difference is 1e-10
    other = best.copy()
    other[-1] += 0.01  # sigma^2 one per cent off
    assert abs(slope(other, len(best) - 1)) > 1e-3
    rng = np.random.default_rng(5)
    assert all(likelihood(best + 0.01 * rng.standard_normal(len(best))) < likelihood(best) for _ in range(50))


def test_ppca_lies_between_its_neighbours_on_the_training_rows() -> None:
    """More latent dimensions fit the training rows better; D - 1 is the full covariance's only with equal tails."""
    train = real_rows()
    scores = [ppca(train, q).score(train).mean() for q in range(1, DIM)]
    assert (np.diff(scores) >= -1e-12).all()
    full = dense_log_density(train, train.mean(axis=0), np.cov(train.T, ddof=0)).mean()
    assert scores[-1] == pytest.approx(full)  # one discarded eigenvalue: its own mean
    assert ppca(train, 50).score(train).mean() == pytest.approx(full)


def test_chunks_and_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A density of scaled rows differs by D log scale; chunks change nothing."""
    rows = np.random.default_rng(2).integers(0, 256, (90, DIM)).astype(np.uint8)
    for make in (gaussian, lambda r, scale: ppca(r, LATENT, scale=scale)):
        raw, unit = (make(rows, scale=s).score(rows, s) for s in (1.0, 1 / 255))
        np.testing.assert_allclose(unit - raw, DIM * np.log(255), rtol=1e-9)
        monkeypatch.setattr(baselines, "CHUNK", 7)
        np.testing.assert_allclose(make(rows, scale=1.0).score(rows), raw, rtol=1e-9)
        monkeypatch.undo()


def test_what_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="5000 columns"):
        ppca(np.zeros((2, 5000)), 2)
    with pytest.raises(ValueError, match="latent"):
        ppca(np.zeros((3, 1)), 1)
