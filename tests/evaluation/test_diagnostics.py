"""k-hat against generalized Pareto samples of known shape, R-hat and effective draws against chains of known kind."""

from __future__ import annotations

import numpy as np
import pytest

from aevb_engine.evaluation import diagnostics
from aevb_engine.evaluation.diagnostics import (
    effective_draws,
    effective_weights,
    generalized_pareto_shape,
    log_mean_exp,
    log_mean_exp_error,
    pareto_khat,
    split_rhat,
    tail_khat,
    tail_size,
)
from aevb_engine.evaluation.estimate import Estimate, RunningWeights, standard_error

RNG = np.random.default_rng


def pareto(k: float, rows: int, count: int, seed: int = 0) -> np.ndarray:
    """Generalized Pareto samples with scale 1, by the inverse distribution function."""
    u = RNG(seed).random((rows, count))
    return (u**-k - 1) / k if k else -np.log(u)


# k-hat ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [-0.3, 0.0, 0.3, 0.5, 0.7, 1.0, 1.5])
def test_shape_of_exact_samples(k: float) -> None:
    """Mean over 200 sets of 1,000: the deviation is about (1 + k) / sqrt(1000), the bias of order 1/1000."""
    found = generalized_pareto_shape(np.sort(pareto(k, 200, 1000), axis=1))
    assert found.mean() == pytest.approx(k, abs=0.01)
    assert found.std() == pytest.approx((1 + k) / np.sqrt(1000), rel=0.25 if k > -0.2 else 0.5)


@pytest.mark.parametrize("k", [0.3, 0.5, 1.0, 1.5])
def test_khat_of_weights_with_a_pareto_tail(k: float) -> None:
    """A generalized Pareto keeps its shape above any threshold; 10,000 weights leave a tail of 300."""
    logw = np.log(pareto(k, 60, 10_000)) + RNG(1).normal(0, 300, (60, 1))  # any unit
    found = pareto_khat(logw)
    shrunk = (300 * k + 5) / 310  # the prior
    assert found.mean() == pytest.approx(shrunk, abs=4.5 * (1 + k) / np.sqrt(300 * 60) + 0.01)
    assert ((found > 0.7) == (k > 0.7)).mean() > 0.95


def test_bounded_and_normal_weights_have_no_heavy_tail() -> None:
    assert pareto_khat(np.log(RNG(0).random((20, 5000)))).max() < 0.2
    assert pareto_khat(RNG(0).normal(0, 0.5, (20, 5000))).max() < 0.5


def test_rows_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    logw = np.log(pareto(0.6, 40, 500))
    whole = pareto_khat(logw)
    monkeypatch.setattr(diagnostics, "FIT_AT_ONCE", 1)
    np.testing.assert_allclose(pareto_khat(logw), whole, rtol=1e-12)
    np.testing.assert_allclose(pareto_khat(logw[7:8]), whole[7:8], rtol=1e-12)


def test_khat_at_the_edges() -> None:
    assert np.isnan(pareto_khat(np.zeros((2, 20)))).all()  # a tail of four
    assert pareto_khat(np.zeros((2, 21))).tolist() == [0, 0]  # equal weights
    lone = np.full((1, 100), -1e4)
    lone[0, 3] = 0
    assert pareto_khat(lone).tolist() == [np.inf]  # all the rest vanish
    assert np.isnan(pareto_khat(np.where(np.arange(100) == 5, np.nan, 0.0)[None])).all()
    some = np.where(np.arange(400) % 2, -np.inf, RNG(0).standard_normal((1, 400)))  # weights of zero
    assert np.isfinite(pareto_khat(some)).all()


@pytest.mark.parametrize("count", [21, 100, 500, 5000])
@pytest.mark.parametrize(
    ("at", "spread"), [(-35, 1e-6), (-35, 1e-5), (-35, 3e-5), (-100, 3e-5), (1000, 1e-4), (0, 1e-7)]
)
def test_weights_that_are_equal_to_rounding_are_the_best_case(at: float, spread: float, count: int) -> None:
    """Log-weights of single precision: a few steps of it apart, most of them at the same place."""
    logw = (at + spread * RNG(0).standard_normal((200, count))).astype(np.float32).astype(np.float64)
    assert (pareto_khat(logw) == 0).all()
    running = RunningWeights(200, count)
    running.add(logw)
    found = running.estimate()
    assert not found.suspect.any()
    assert (found.effective_samples <= count).all()
    assert (effective_weights(logw) <= count).all()
    np.testing.assert_allclose(found.effective_samples, count, rtol=1e-6)
    assert (found.standard_error < 1e-4).all()


def test_rounding_hides_no_heavy_tail() -> None:
    """Next to weights of 1: a tail of shape 1.5 a millionth as wide reaches beyond rounding, and is found."""
    logw = np.log1p(1e-6 * pareto(1.5, 20, 5000)) - 35
    assert pareto_khat(logw).min() > 0.7
    assert pareto_khat(logw.astype(np.float32)).min() > 0.7


def test_ties_at_the_threshold() -> None:
    """Many equal weights and a few larger ones: no tail where these are hardly larger, a heavy one where they are."""
    logw = np.zeros((3, 400))
    logw[0, :10], logw[1, :10], logw[2, 0] = 1e-3, 0.9, 30
    assert pareto_khat(logw - 35).tolist() == [0, 0, np.inf]


def test_tail_sizes() -> None:
    """min(K / 5, 3 sqrt K): 5 of 21, 20 of 100, 45 of 225, 213 of 5,000."""
    assert [tail_size(k) for k in (21, 100, 225, 5000)] == [5, 20, 45, 213]


# Weights ----------------------------------------------------------------------------------------------------


def test_log_mean_exp_and_its_error() -> None:
    """4,000 repeats of 200 log-normal weights: the standard deviation of the estimates is the mean standard error."""
    logw = RNG(0).normal(-700, 0.4, (4000, 200))
    values = log_mean_exp(logw)
    assert values.mean() == pytest.approx(-700 + 0.08, abs=0.003)
    errors = log_mean_exp_error(effective_weights(logw), 200)
    assert errors.mean() == pytest.approx(values.std(), rel=0.05)  # 4,000 values: 1.1 % and the delta method's own
    by_hand = np.exp(logw + 700).std(1, ddof=1) / np.exp(logw + 700).mean(1) / np.sqrt(200)
    np.testing.assert_allclose(errors, by_hand, rtol=1e-10)
    assert np.isnan(log_mean_exp_error(np.ones(3), 1)).all()
    assert log_mean_exp(np.full((1, 3), -np.inf)).tolist() == [-np.inf]


def test_running_weights_in_any_chunks() -> None:
    """The same as all at once, k-hat and error included, while no more than the tail is kept."""
    logw = np.log(pareto(0.6, 9, 3000)) * 1.5
    logw[:, ::7] = -np.inf
    for cuts in ([3000], [1, 10, 989, 2000], [700] * 4 + [200]):
        running = RunningWeights(9, 3000)
        at = 0
        for cut in cuts:
            running.add(logw[:, at : at + cut])
            at += cut
        assert running.tail.shape == (9, tail_size(3000) + 1)
        found = running.estimate()
        np.testing.assert_allclose(found.log_likelihood, log_mean_exp(logw), rtol=1e-12)
        np.testing.assert_allclose(found.effective_samples, effective_weights(logw), rtol=1e-10)
        np.testing.assert_allclose(found.khat, pareto_khat(logw), rtol=1e-10)
        np.testing.assert_allclose(found.standard_error, log_mean_exp_error(effective_weights(logw), 3000), rtol=1e-10)


def test_running_weights_of_zero() -> None:
    running = RunningWeights(1, 3)
    running.add(np.array([[-np.inf, -np.inf]]))
    assert running.log_mean().tolist() == [-np.inf]
    running.add(np.array([[0.0]]))
    np.testing.assert_allclose(running.log_mean(), -np.log(3))
    without_tail = RunningWeights(1)
    without_tail.add(np.zeros((1, 50)))
    assert np.isnan(without_tail.estimate().khat).all()


def test_summary_of_an_estimate() -> None:
    """Monte Carlo errors of data points are independent: sqrt(sum of squares) / N."""
    e = Estimate(np.array([-1.0, -3.0]), np.array([0.3, 0.4]), np.array([9.0, 9.0]), np.array([0.2, 0.9]))
    found = e.summary()
    assert found["log_likelihood"] == -2
    assert found["monte_carlo_se"] == pytest.approx(0.25)
    assert found["sampling_se"] == pytest.approx(1)
    assert (found["suspect"], found["largest_khat"]) == (1, 0.9)
    assert tail_khat(np.zeros((1, 3))).shape == (1,)
    assert standard_error(np.full(7, 0.1)) == 0
    assert np.isnan(standard_error(np.array([0.1])))
    assert np.isnan(standard_error(np.array([0.1, np.inf])))
    joined = Estimate.joined([e, e])
    assert joined.khat.tolist() == [0.2, 0.9, 0.2, 0.9]


# Chains -----------------------------------------------------------------------------------------------------


def test_rhat() -> None:
    """1 for independent draws; above 1.1 for shifted, drifting and unequal chains."""
    iid = RNG(0).standard_normal((50, 4, 400))
    assert np.abs(split_rhat(iid) - 1).max() < 0.02
    assert split_rhat(iid + np.arange(4)[:, None] / 2).min() > 1.1
    assert split_rhat(iid + np.linspace(0, 2, 400)).min() > 1.1  # the halves of each chain differ
    np.testing.assert_allclose(split_rhat(iid), split_rhat(5 - 3 * iid), rtol=1e-10)
    stuck = np.repeat(np.arange(4.0)[:, None], 50, axis=1)
    assert split_rhat(stuck) == np.inf
    assert np.isnan(split_rhat(np.ones((4, 50))))
    for place in (0.1, 35.7, 1e5 / 3):  # whose rounded mean is another number
        assert split_rhat(stuck * place) == np.inf
        assert np.isnan(split_rhat(np.full((4, 53), place)))
        assert np.isnan(effective_draws(np.full((4, 53), place)))
    assert np.isnan(split_rhat(np.ones((4, 3))))
    assert split_rhat(np.concatenate([iid[..., :5], iid[..., 6:]], -1)).shape == (50,)


def test_rhat_by_hand() -> None:
    chains = RNG(3).standard_normal((2, 6)) + np.array([[0.0], [1.0]])
    halves = np.array([chains[0, :3], chains[0, 3:], chains[1, :3], chains[1, 3:]])
    w = np.mean([np.var(h, ddof=1) for h in halves])
    b = 3 * np.var([np.mean(h) for h in halves], ddof=1)
    assert split_rhat(chains) == pytest.approx(np.sqrt((2 / 3 * w + b / 3) / w))


@pytest.mark.parametrize("rho", [-0.3, 0.0, 0.5, 0.9])
def test_effective_draws_of_autoregression(rho: float) -> None:
    """x_t = rho x_(t-1) + noise has N (1 - rho) / (1 + rho) effective draws; means of 40 sets within 10 %."""
    rng = RNG(1)
    x = np.zeros((40, 4, 1000))
    x[..., 0] = rng.standard_normal((40, 4)) / np.sqrt(1 - rho**2)
    for t in range(1, 1000):
        x[..., t] = rho * x[..., t - 1] + rng.standard_normal((40, 4))
    exact = 4000 * (1 - rho) / (1 + rho)
    assert effective_draws(x).mean() == pytest.approx(exact, rel=0.1)
    # And it is the variance of the mean that they tell.
    assert x.mean((1, 2)).var() / (1 / (1 - rho**2) / exact) == pytest.approx(1, abs=5 * np.sqrt(2 / 40))


def test_effective_draws_at_the_edges() -> None:
    shifted = RNG(0).standard_normal((4, 200)) + 10 * np.arange(4)[:, None]
    assert effective_draws(shifted) < 10
    assert np.isnan(effective_draws(np.ones((4, 200))))
    assert np.isnan(effective_draws(np.ones((4, 6))))
