"""The estimator of KW appendix D: its density, and what it refuses. Its agreement with exact answers is elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from aevb_engine.errors import UsageError
from aevb_engine.evaluation import blocks, chains
from aevb_engine.evaluation.marginal import (
    MASS,
    MarginalSampler,
    _estimate,
    chi_square_cdf,
    chi_square_quantile,
    truncated_gaussian,
)
from tests.evaluation.oracle import linear_model, log_likelihood, normal_rows


@pytest.mark.parametrize(("dimensions", "x", "p"), [(1, 3.841459, 0.95), (2, 5.991465, 0.95), (3, 7.814728, 0.95)])
def test_chi_square_table(dimensions: int, x: float, p: float) -> None:
    """Values of any table."""
    assert chi_square_cdf(x, dimensions) == pytest.approx(p, abs=1e-6)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 5])
def test_chi_square_by_simulation(dimensions: int) -> None:
    squares = (np.random.default_rng(0).standard_normal((200_000, dimensions)) ** 2).sum(1)
    for p in (0.2, 0.8):
        found = (squares < chi_square_quantile(p, dimensions)).mean()
        assert found == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / 200_000))


def test_the_fitted_density_is_one_in_all() -> None:
    """Integrated on a grid around correlated samples of two dimensions: the sampling error of the fit is not in it."""
    rng = np.random.default_rng(1)
    samples = rng.standard_normal((3, 500, 2)) @ np.array([[1.0, 0.8], [0, 0.5]]) + [1, -2]
    axis = np.linspace(-6, 6, 601)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(1, -1, 2) + samples.mean(1, keepdims=True)
    logq = truncated_gaussian(samples, grid)
    total = np.exp(logq).sum(1) * (axis[1] - axis[0]) ** 2
    np.testing.assert_allclose(total, 1, atol=0.01)  # the edge of the ellipsoid, on a grid of 0.02
    assert np.isneginf(logq).any(1).all()


def draws(seed: int = 0, n: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Independent samples of N(0, I / 2) as a posterior of two dimensions, with log p(x) = -7 exactly."""
    z = np.random.default_rng(seed).standard_normal((n, 8, 700, 2)) * np.sqrt(0.5)
    log_posterior = -((z**2).sum(-1)) - np.log(np.pi)
    log_prior = -0.5 * (z**2).sum(-1) - np.log(2 * np.pi)
    return z, log_posterior - log_prior - 7


GOOD = np.full(4, 0.9)


def test_independent_samples_give_the_answer_and_its_error() -> None:
    found = [_estimate(*draws(seed), 200, GOOD) for seed in range(25)]
    assert not any(f.refused.any() for f in found)
    values = np.array([f.log_likelihood for f in found])
    errors = np.array([f.standard_error for f in found])
    # The ratio is 1 / 0.8 or 0: relative variance 1/4 over 4,000 draws.
    np.testing.assert_allclose(errors.mean(), np.sqrt((1 / MASS - 1) / 4000), rtol=0.1)
    assert values.mean() == pytest.approx(-7, abs=5 * errors.mean() / 10)
    assert values.std() == pytest.approx(errors.mean(), rel=0.3)


def test_the_whole_gaussian_would_not_do() -> None:
    """The reason for the truncation: a posterior with lighter tails than its Gaussian, 2 (1 - r^2) / pi on a disc.

    Outside the disc the posterior is zero and q is not: q has mass where no draw ever comes, and the estimate is off
    by what q holds there. The ellipsoid of 80 % stays inside.
    """
    rng = np.random.default_rng(2)
    angle, radius = 2 * np.pi * rng.random((2, 8, 700)), np.sqrt(1 - np.sqrt(rng.random((2, 8, 700))))
    z = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    joint = np.log(2 / np.pi * (1 - radius**2)) - 3
    logp = joint + 0.5 * (z**2).sum(-1) + np.log(2 * np.pi)
    found = _estimate(z, logp, 200, GOOD[:2])
    assert np.abs(found.log_likelihood + 3).max() < 5 * found.standard_error.max()
    whole = np.cov(z[0].reshape(-1, 2).T)
    assert np.exp(-0.5 / whole[0, 0]) > 3 * found.standard_error.max()  # the bias of the whole Gaussian


def test_what_is_refused() -> None:
    def reason(z: np.ndarray, logp: np.ndarray, acceptance: np.ndarray = GOOD) -> str:
        found = _estimate(z, logp, 200, acceptance)
        assert found.refused.all()
        assert np.isnan(found.log_likelihood).all()
        assert np.isnan(found.standard_error).all()
        return str(found.reason[0])

    z, logp = draws()
    assert "acceptance" in reason(z, logp, np.full(4, 0.3))
    apart = z + np.arange(8)[:, None, None]
    assert "R-hat" in reason(apart, logp)
    slow = np.repeat(z[:, :, :7], 100, axis=2)
    assert reason(slow, np.repeat(logp[:, :, :7], 100, axis=2)) != ""
    assert "singular" in reason(z * [1, 0], logp)
    heavy = logp - 3 * np.abs(np.random.default_rng(1).standard_cauchy(logp.shape))
    assert reason(z, heavy) != ""
    one = _estimate(np.concatenate([z[:1], apart[:1]]), np.concatenate([logp[:1]] * 2), 200, GOOD[:2])
    assert one.refused.tolist() == [False, True]
    told = one.summary()
    assert told["log_likelihood"] == one.log_likelihood[0]
    assert told["refused"] == 1
    nothing = _estimate(apart, logp, 200, GOOD).summary()
    assert np.isnan(nothing["log_likelihood"])
    assert nothing["refused"] == 4


def test_many_latent_dimensions_are_refused() -> None:
    with pytest.raises(UsageError, match="6 latent dimensions") as caught:
        MarginalSampler(linear_model(6), normal_rows(2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", [{"chains": 1}, {"burn_in": 0}, {"fit": 3}, {"samples": 1}])
def test_impossible_options(option: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        MarginalSampler(linear_model(2), normal_rows(2), **option)


def test_chunks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = linear_model(2, threads=2), normal_rows(5)
    short = {"burn_in": 40, "fit": 40, "samples": 60, "leapfrog_steps": 3, "seed": 4}
    whole = MarginalSampler(model, rows, **short).run()
    monkeypatch.setattr(chains, "ROWS_AT_ONCE", 16)
    monkeypatch.setattr(blocks, "ROWS", 8)
    seen: list[tuple[int, int]] = []
    sampler = MarginalSampler(model, rows, threads=2, **short)
    assert sampler.batch == 2
    again = sampler.run(lambda done, of: seen.append((done, of)))
    model.backend.close()
    for name in ("effective_samples", "khat", "acceptance", "rhat"):
        np.testing.assert_allclose(getattr(again, name), getattr(whole, name), rtol=1e-8)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    assert seen[-1] == (5, 5)


def test_chains_that_have_not_met() -> None:
    """Too few moves to come together from the prior: refused, not wrong."""
    model, rows = linear_model(3, loadings=6.0), normal_rows(3)
    sampler = MarginalSampler(model, rows, burn_in=20, fit=30, samples=60, leapfrog_steps=1)
    found = sampler.run()
    assert found.refused.all()
    assert np.isfinite(log_likelihood(model, rows.data.array)).all()
