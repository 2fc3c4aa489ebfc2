"""Importance sampling, AIS and the estimator of KW appendix D against exact log-likelihoods and against each other.

Every comparison is |estimate - exact| over its standard error. Limits are for all comparisons of a test together: the
two-sided normal quantile of 1/1000 over their number, plus what the delta method neglects: E[log mean w] is log p(x)
less half the squared standard error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from aevb_engine.errors import UsageError
from aevb_engine.evaluation import ais, blocks, chains
from aevb_engine.evaluation.ais import AnnealedImportanceSampler, sigmoid_schedule, simulate
from aevb_engine.evaluation.estimate import Estimate
from aevb_engine.evaluation.importance import ImportanceSampler
from aevb_engine.evaluation.marginal import MarginalSampler
from aevb_engine.model.model import Model
from aevb_engine.operation import Buffer
from aevb_engine.training.step import ResidentRows
from tests.evaluation.oracle import (
    bernoulli_by_quadrature,
    bernoulli_model,
    binary_rows,
    linear_model,
    log_likelihood,
    normal_rows,
    posterior,
    put_mean_field,
)

COMPARISONS = 60  # of one estimator in this file, at most
LIMIT = NormalDist().inv_cdf(1 - 0.001 / COMPARISONS / 2)


def worst(found: Estimate, exact: np.ndarray) -> float:
    """The largest distance in standard errors, where the estimate was not refused."""
    error = found.log_likelihood - exact
    size = np.maximum(np.abs(error) - found.standard_error**2, 0) / (found.standard_error + 1e-9)
    return float(np.nanmax(size))


def importance(model: Model, rows: ResidentRows, samples: int = 4000, **more: Any) -> Estimate:
    return ImportanceSampler(model, rows, samples, **more).run()


def annealed(model: Model, rows: Any, **more: Any) -> ais.AisEstimate:
    settings = {"temperatures": 60, "chains": 60, "leapfrog_steps": 5} | more
    return AnnealedImportanceSampler(model, rows, **settings).run()


# Linear-Gaussian --------------------------------------------------------------------------------------------

ROWS = 6


@pytest.mark.parametrize("latent", [1, 2, 5, 10])
def test_importance_sampling_with_orthogonal_loadings(latent: int) -> None:
    """The mean-field encoder is then the posterior: every weight is p(x). A wider one has bounded weights."""
    model, rows = linear_model(latent, orthogonal=True), normal_rows(ROWS)
    exact = log_likelihood(model, rows.data.array)
    np.testing.assert_allclose(importance(model, rows, 10).log_likelihood, exact, atol=1e-9)
    model.parameters["encoder.head.bias"].theta.array[latent:] += 0.3
    found = importance(model, rows)
    assert worst(found, exact) < LIMIT
    assert found.standard_error.max() < 0.1
    assert found.standard_error.min() > 1e-4
    assert not found.suspect.any()


@pytest.mark.parametrize("latent", [1, 2, 5, 10])
def test_ais(latent: int) -> None:
    """No encoder is used: AIS needs none with orthogonal or with correlated loadings."""
    model, rows = linear_model(latent, loadings=2.0), normal_rows(ROWS)
    model.parameters["encoder.head.weight"].theta.array[...] = np.nan
    found = annealed(model, rows)
    assert worst(found, log_likelihood(model, rows.data.array)) < LIMIT
    assert found.standard_error.max() < 0.3
    assert found.acceptance.min() > 0.75
    assert found.acceptance.max() < 0.99


def test_ais_in_single_precision() -> None:
    model, rows = linear_model(4, loadings=2.0, precision="float32"), normal_rows(ROWS)
    single = ResidentRows(Buffer("data", rows.data.array.astype(np.float32)))
    assert worst(annealed(model, single), log_likelihood(model, rows.data.array)) < LIMIT


@pytest.mark.parametrize("latent", [1, 2, 3, 5])
def test_posterior_density(latent: int) -> None:
    model, rows = linear_model(latent, loadings=2.0), normal_rows(ROWS)
    found = MarginalSampler(model, rows, burn_in=150, fit=150, samples=300, leapfrog_steps=6).run()
    assert not found.refused.any(), found.reason
    assert worst(found, log_likelihood(model, rows.data.array)) < LIMIT
    assert found.standard_error.max() < 0.1


def test_all_three_agree_where_all_three_work() -> None:
    model, rows = linear_model(3, orthogonal=True), normal_rows(ROWS, seed=5)
    found = [
        importance(model, rows, 500).log_likelihood,
        annealed(model, rows, chains=200).log_likelihood,
        MarginalSampler(model, rows, burn_in=150, fit=150, samples=300, leapfrog_steps=6).run().log_likelihood,
    ]
    assert np.ptp(found, axis=0).max() < 0.25  # two standard errors of about 0.05, the largest of 18 differences
    assert np.ptp(found, axis=0).min() > 0


def test_khat_flags_a_correlated_posterior() -> None:
    """Two nearly parallel loadings: correlation above 0.9, the mean-field encoder's weights have infinite variance.

    Importance sampling is then off by more than its standard errors say; k-hat tells, and AIS is not concerned.
    """
    model, rows = linear_model(2), normal_rows(ROWS)
    weight = model.parameters["decoder.mean.weight"].theta.array
    weight[1] = weight[0] + 0.1 * weight[1]
    weight *= 8
    put_mean_field(model)
    _, covariance = posterior(model, rows.data.array)
    assert abs(covariance[0, 1]) / np.sqrt(covariance[0, 0] * covariance[1, 1]) > 0.9
    exact = log_likelihood(model, rows.data.array)
    found = importance(model, rows, 10_000)
    assert found.suspect.all()
    assert worst(found, exact) > LIMIT
    assert worst(annealed(model, rows, temperatures=100), exact) < LIMIT


def ratios(estimate: Callable[[Model, ResidentRows], Estimate], model: Model, n: int) -> np.ndarray:
    """Estimates of p(x) over p(x) itself, of independent repeats: one data point, copied n times."""
    row = normal_rows(1).data.array
    rows = ResidentRows(Buffer("data", np.repeat(row, n, axis=0)))
    return np.exp(estimate(model, rows).log_likelihood - log_likelihood(model, row))


def z_of_mean(values: np.ndarray) -> float:
    """How far the mean is from 1, in standard errors."""
    return float((values.mean() - 1) / (values.std() / np.sqrt(len(values))))


@pytest.fixture
def short_pilot(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pilot move a temperature: the step sizes are far from their best, and each repeat has others."""
    monkeypatch.setattr(ais, "PILOT_MOVES", 1)


SHORT = {"chains": 4, "temperatures": 6, "leapfrog_steps": 2}


def test_importance_weights_average_to_p_of_x() -> None:
    """E[w / p(x)] = 1: 4,000 repeats of 4 weights."""
    model = linear_model(2, loadings=1.5, orthogonal=True)
    model.parameters["encoder.head.bias"].theta.array[2:] += 0.4
    found = ratios(lambda m, rows: importance(m, rows, 4), model, 4000)
    assert abs(z_of_mean(found)) < 3.5
    assert found.std() > 0.05


@pytest.mark.usefixtures("short_pilot")
def test_annealed_weights_average_to_p_of_x() -> None:
    """E[w / p(x)] = 1 however short the run and whatever the pilot found: 4,000 repeats of 4 weights."""
    found = ratios(lambda m, rows: annealed(m, rows, **SHORT), linear_model(2, loadings=1.5), 4000)
    assert abs(z_of_mean(found)) < 3.5
    assert found.std() > 0.05


class MovedTooEarly(AnnealedImportanceSampler):
    """log w grows after the move to a temperature instead of before it."""

    def _anneal(self, chains: Any, lo: int, n: int, sizes: Any, at: Any) -> Any:
        chains.put(lo)
        chains.from_prior()
        logw = np.zeros_like(chains.logp())
        for t in range(1, len(self.betas)):
            chains.move(self.betas[t], sizes[min(t, len(sizes) - 1)])
            logw += (self.betas[t] - self.betas[t - 1]) * chains.logp()
        return ais._estimate(logw[:n], [], n, 1)


class WithoutFirstIncrement(AnnealedImportanceSampler):
    """The prior's own samples are left out of log w."""

    def _anneal(self, chains: Any, lo: int, n: int, sizes: Any, at: Any) -> Any:
        found = super()._anneal(chains, lo, n, sizes, at)
        chains.put(lo)
        chains.from_prior()
        shift = (self.betas[1] * chains.logp()).mean(1)[:n]
        return replace(found, log_likelihood=found.log_likelihood - shift)


@pytest.mark.usefixtures("short_pilot")
@pytest.mark.parametrize("planted", [MovedTooEarly, WithoutFirstIncrement])
def test_a_wrong_weight_is_caught(planted: type[AnnealedImportanceSampler]) -> None:
    found = ratios(lambda m, rows: planted(m, rows, **SHORT).run(), linear_model(2, loadings=1.5), 4000)
    assert abs(z_of_mean(found)) > 7


# Both sides of simulated data -------------------------------------------------------------------------------


def bracket(temperatures: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Forward and reverse AIS of 150 simulated data points, less the exact log-likelihood, and their errors."""
    model = linear_model(4, loadings=2.0)
    data = simulate(model, 150, seed=3)
    exact = log_likelihood(model, data.x)
    sampler = AnnealedImportanceSampler(model, data, temperatures=temperatures, chains=4, leapfrog_steps=6)
    forward, reverse = sampler.run(), sampler.reverse()
    return (
        forward.log_likelihood - exact,
        reverse.log_likelihood - exact,
        forward.acceptance,
        reverse.acceptance,
    )


def test_the_bracket_closes() -> None:
    """Forward below and reverse above the exact value on average, by less the more temperatures there are."""
    gaps = []
    for temperatures in (5, 20, 80):
        below, above, accepted, accepted_back = bracket(temperatures)
        for side in (-below, above):
            assert side.mean() > -4 * side.std() / np.sqrt(len(side))
        gaps.append(above.mean() - below.mean())
        assert accepted.mean() == pytest.approx(accepted_back.mean(), abs=0.06)
    assert gaps[0] > 0.3
    assert gaps[1] < gaps[0] / 2
    assert gaps[2] < gaps[1] / 2
    assert abs(gaps[2]) < 0.2


@pytest.mark.usefixtures("short_pilot")
def test_reverse_weights_average_to_one_over_p_of_x() -> None:
    """E[p(x) / w] = 1 over exact posterior samples: x simulated anew each time, from short runs."""
    model = linear_model(2, loadings=1.0)
    data = simulate(model, 4000, seed=3)
    sampler = AnnealedImportanceSampler(model, data, temperatures=6, chains=2, leapfrog_steps=2)
    found = np.exp(log_likelihood(model, data.x) - sampler.reverse().log_likelihood)
    assert abs(z_of_mean(found)) < 3.5
    assert found.std() > 0.05


def test_reverse_needs_simulated_data_of_this_model() -> None:
    model = linear_model(2)
    with pytest.raises(UsageError, match="simulate"):
        AnnealedImportanceSampler(model, normal_rows(2)).reverse()
    data = simulate(model, 3)
    model.parameters.theta[0] += 0.1
    with pytest.raises(UsageError, match="simulate"):
        AnnealedImportanceSampler(model, data).reverse()


def test_simulated_data_follow_the_model() -> None:
    """x and z as the model has them: x - z W - b has the noise's variances, and z is standard normal."""
    model = linear_model(2, loadings=2.0)
    data = simulate(model, 4000, seed=9)
    named = {n: p.theta.array for n, p in model.parameters.named.items()}
    residual = (data.x - data.z @ named["decoder.mean.weight"] - named["decoder.mean.bias"]) / np.exp(
        0.5 * named["decoder.logvar"]
    )
    for values in (residual, data.z):
        assert np.abs(values.mean(0)).max() * np.sqrt(4000) < 4.2
        assert np.abs((values**2).mean(0) - 1).max() * np.sqrt(4000 / 2) < 4.2


# Bernoulli by quadrature ------------------------------------------------------------------------------------


def test_bernoulli_all_three_agree_with_quadrature() -> None:
    model, rows = bernoulli_model(), binary_rows(ROWS)
    exact = bernoulli_by_quadrature(model, rows.data.array)
    for name in ("weight", "bias"):  # the prior as proposal: bounded weights
        model.parameters[f"encoder.head.{name}"].theta.array[...] = 0
    sampled = importance(model, rows, 10_000)
    ladder = annealed(model, rows, temperatures=40, chains=100)
    density = MarginalSampler(model, rows, burn_in=150, fit=150, samples=400, leapfrog_steps=6).run()
    assert density.refused.sum() <= 1, density.reason
    for found in (sampled, ladder, density):
        assert worst(found, exact) < LIMIT
        assert np.nanmax(found.standard_error) < 0.2
    assert np.ptp(exact) > 0.5


# Chunks, threads, options -----------------------------------------------------------------------------------


def test_chunks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = linear_model(3, threads=2), simulate(linear_model(3), 5)
    short = {"temperatures": 7, "chains": 3, "leapfrog_steps": 2, "seed": 8}
    whole = AnnealedImportanceSampler(model, data, **short)
    expected = [whole.run(), whole.reverse()]
    monkeypatch.setattr(chains, "ROWS_AT_ONCE", 8)
    monkeypatch.setattr(blocks, "ROWS", 4)
    for threads in (1, 2):
        seen: list[tuple[int, int]] = []
        cut = AnnealedImportanceSampler(model, data, threads=threads, **short)
        assert cut.batch == 2
        again = [cut.run(lambda done, of: seen.append((done, of))), cut.reverse()]  # noqa: B023
        for a, b in zip(again, expected, strict=True):
            np.testing.assert_allclose(a.log_likelihood, b.log_likelihood, rtol=1e-9)
            np.testing.assert_allclose(a.acceptance, b.acceptance, rtol=1e-9)
        assert [d for d, _ in seen] == sorted(d for d, _ in seen)
        assert seen[-1] == (5, 5)
    model.backend.close()
    other = AnnealedImportanceSampler(model, data, **(short | {"seed": 9})).run()
    assert np.abs(other.log_likelihood - expected[0].log_likelihood).min() > 1e-9


def test_memory_does_not_depend_on_rows_or_temperatures() -> None:
    model = linear_model(2)
    sizes = {
        AnnealedImportanceSampler(model, normal_rows(n), temperatures=t)._forward.ws.nbytes
        for n, t in ((300, 10), (3000, 1000))
    }
    assert len(sizes) == 1


def test_schedule() -> None:
    betas = sigmoid_schedule(100)
    assert betas[0] == 0
    assert betas[-1] == 1
    assert (np.diff(betas) > 0).all()
    np.testing.assert_allclose(betas + betas[::-1], 1)
    assert np.diff(betas)[50] / np.diff(betas)[0] == pytest.approx(12.4, rel=0.1)  # s'(0) / s'(-4) about 14, by steps
    assert sigmoid_schedule(1).tolist() == [0, 1]
    one = annealed(linear_model(1), normal_rows(2), temperatures=1)  # plain importance sampling from the prior
    assert np.isnan(one.acceptance).all()
    assert np.isfinite(one.log_likelihood).all()


@pytest.mark.parametrize("option", [{"temperatures": 0}, {"chains": 0}])
def test_impossible_options(option: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        AnnealedImportanceSampler(linear_model(1), normal_rows(2), **option)
