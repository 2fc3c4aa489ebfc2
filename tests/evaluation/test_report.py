"""The report: its numbers against separate computations, what is null, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.errors import UsageError
from aevb_engine.evaluation.baselines import bernoulli
from aevb_engine.evaluation.bound import Evaluator
from aevb_engine.evaluation.report import bits_per_dimension, evaluate
from aevb_engine.evaluation.subject import Plan, Subject
from aevb_engine.model.model import Architecture, Model
from aevb_engine.operation import Buffer
from aevb_engine.training.step import ResidentRows

ROWS, DIM, LATENT = 30, 6, 2


def subject(make_likelihood: Any, kind: str = "bernoulli", **changes: Any) -> Subject:
    rng = np.random.default_rng(1)
    model = Model(Architecture(DIM, LATENT, (5,), precision="float64"), make_likelihood(kind), NumpyBackend(2))
    model.parameters.theta[...] = 0.3 * rng.standard_normal(model.parameters.size)
    if kind == "bernoulli":
        rows = (rng.random((2 * ROWS, DIM)) < 0.4).astype(np.uint8)
    else:
        rows = rng.integers(0, 256, (2 * ROWS, DIM)).astype(np.uint8)
    return Subject(**{"model": model, "rows": rows[:ROWS], "train": rows[ROWS:], **changes})


def test_numbers_are_those_of_the_parts(make_likelihood: Any) -> None:
    it = subject(make_likelihood)
    found = evaluate(it, Plan(samples={"is": 50}, seed=3, threads=2))
    json.dumps(found, allow_nan=False)
    per_row = Evaluator(it.model, ResidentRows(Buffer("data", it.rows)), seed=3).run()
    assert found["bound"]["value"] == pytest.approx(per_row[:, 0].mean(), rel=1e-12)
    assert found["bound"]["se"] == pytest.approx(per_row[:, 0].std(ddof=1) / np.sqrt(ROWS), rel=1e-12)
    assert found["bound"]["value"] == pytest.approx(found["bound"]["reconstruction"] - found["bound"]["kl"])
    assert found["latent"]["active"] == sum(v > 0.01 for v in found["latent"]["variance"])
    assert sum(found["latent"]["kl"]) == pytest.approx(found["bound"]["kl"])
    (estimate,) = found["estimates"]
    assert (estimate["method"], estimate["samples"], estimate["rows"], estimate["side"]) == ("is", 50, ROWS, "lower")
    assert estimate["value"] - found["bound"]["value"] == pytest.approx(estimate["above_bound"])
    assert 1 <= estimate["effective_samples_min"] <= estimate["effective_samples_median"] <= 50
    (baseline,) = found["baselines"]
    assert baseline["value"] == pytest.approx(bernoulli(it.train).score(it.rows).mean())
    assert baseline["bound_above"] == pytest.approx(found["bound"]["value"] - baseline["value"])


def test_monte_carlo_error_is_the_spread_between_seeds(make_likelihood: Any) -> None:
    """Over 40 seeds: the standard deviation of the mean, which 40 runs tell to 11 %."""
    it = subject(make_likelihood)
    runs = [evaluate(it, Plan(samples={"is": 100}, seed=s, baselines=False))["estimates"][0] for s in range(40)]
    spread = np.std([r["value"] for r in runs], ddof=1)
    assert np.mean([r["mc_se"] for r in runs]) == pytest.approx(spread, rel=0.35)


def test_rows_are_the_first_of_the_split_and_the_same_whatever_their_number(make_likelihood: Any) -> None:
    it = subject(make_likelihood)
    few, whole = (evaluate(it, Plan(samples={"is": 20}, rows=n)) for n in (7, ROWS))
    assert few["estimates"][0]["rows"] == 7
    assert few["bound"] == whole["bound"]  # the bound is of the whole split in both
    per_row = Evaluator(it.model, ResidentRows(Buffer("data", it.rows))).run()[:7, 0]
    of_seven = few["estimates"][0]
    assert of_seven["value"] - of_seven["above_bound"] == pytest.approx(per_row.mean())


def test_bits_per_dimension() -> None:
    """A fair coin a column is one bit; a density has none."""
    assert bits_per_dimension(-6 * np.log(2), 6, "mass") == pytest.approx(1)
    assert bits_per_dimension(-6 * np.log(2), 6, "density") is None


def test_densities(make_likelihood: Any) -> None:
    """Whole numbers under a density: no bits, both baselines, and notes that say what does not compare."""
    it = subject(make_likelihood, "gaussian linear affine none", scale=1 / 255, train_scale=1 / 255,
                 other_scale=("raw", -DIM * np.log(255)))  # fmt: skip
    found = evaluate(it, Plan(samples={"is": 5}))
    assert found["lattice"]
    assert [b["name"] for b in found["baselines"]] == ["independent Gaussian", "probabilistic PCA"]
    assert all(n["bits_per_dim"] is None for n in (found["bound"], *found["estimates"], *found["baselines"]))
    assert any("whole numbers" in n for n in found["notes"])
    assert any("raw scale" in n for n in found["notes"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"binarize": "threshold"}, "thresholded"),
        ({"binarize": "static"}, "fixed draw"),
        ({"binarize": "dynamic"}, "anew"),
        ({"objective": "beta", "beta": 4.0}, "beta = 4"),
    ],
)
def test_what_does_not_compare_is_said(changes: dict[str, Any], words: str, make_likelihood: Any) -> None:
    plan = Plan(methods=(), baselines=False)
    assert any(words in n for n in evaluate(subject(make_likelihood, **changes), plan)["notes"])
    assert evaluate(subject(make_likelihood), plan)["notes"] == []


def test_without_an_encoder_what_needs_one_is_null(make_likelihood: Any) -> None:
    it = subject(make_likelihood, encoder=False, objective="mcem")
    found = evaluate(it, Plan(methods=()))
    assert found["bound"] is None
    assert found["latent"] is None
    assert found["baselines"][0]["bound_above"] is None
    with pytest.raises(UsageError, match="mcem trains no q"):
        evaluate(it, Plan(methods=("is",)))


def test_the_truth_is_beside_the_bound(make_likelihood: Any) -> None:
    it = subject(make_likelihood, true_log_prob=lambda x: np.full(len(x), -DIM * np.log(2)))
    found = evaluate(it, Plan(methods=()))
    assert found["truth"]["value"] == pytest.approx(-DIM * np.log(2))
    assert found["truth"]["bound_above"] == pytest.approx(found["bound"]["value"] + DIM * np.log(2))


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(methods=("iss",)), "did you mean 'is'?"),
        (Plan(samples={"is": 0}), "--samples 0"),
        (Plan(rows=0), "--rows 0"),
        (Plan(rows=ROWS + 1), f"has {ROWS} rows"),
        (Plan(samples={"ais": 5}), "add --method ais"),
        (Plan(temperatures=5), "--temperatures 5: add --method ais or --bracket"),
        (Plan(methods=("ais",), temperatures=0), "--temperatures 0"),
    ],
)
def test_refused(plan: Plan, words: str, make_likelihood: Any) -> None:
    with pytest.raises(UsageError, match=words.replace("?", r"\?")):
        evaluate(subject(make_likelihood), plan)


def test_one_row_has_no_error(make_likelihood: Any) -> None:
    it = subject(make_likelihood)
    one = Subject(it.model, it.rows[:1], it.train)
    found = evaluate(one, Plan(samples={"is": 1}))
    assert found["bound"]["se"] is None
    assert found["estimates"][0]["se"] is None
    assert found["estimates"][0]["mc_se"] is None
    json.dumps(found, allow_nan=False)


def linear(make_likelihood: Any, scale: float = 0.5) -> tuple[Subject, np.ndarray]:
    """A linear-Gaussian model of one latent dimension with the encoder at the prior, and its exact log p(x)."""
    rng = np.random.default_rng(2)
    likelihood = make_likelihood("gaussian linear per_dim none")
    model = Model(Architecture(DIM, 1, (), precision="float64"), likelihood, NumpyBackend(1))
    p = {name: parameter.theta.array for name, parameter in model.parameters.named.items()}
    model.parameters.theta[...] = 0
    p["decoder.mean.weight"][...] = scale * rng.standard_normal((1, DIM))
    rows = rng.standard_normal((6, DIM))
    covariance = p["decoder.mean.weight"].T @ p["decoder.mean.weight"] + np.eye(DIM)
    mahalanobis = (rows * np.linalg.solve(covariance, rows.T).T).sum(1)
    exact = -0.5 * (mahalanobis + np.linalg.slogdet(2 * np.pi * covariance)[1])
    return Subject(model, rows, rows), exact


def test_three_methods_agree_with_the_closed_form(make_likelihood: Any) -> None:
    """Each within five of its own standard errors of log p(x); and a bracket that holds it for simulated data."""
    it, exact = linear(make_likelihood)
    samples = {"is": 4000, "ais": 64, "hmc": 200}
    found = evaluate(it, Plan(("is", "ais", "hmc"), samples=samples, rows=6, bracket=True, seed=1))
    json.dumps(found, allow_nan=False)
    for each in found["estimates"]:
        assert abs(each["value"] - exact.mean()) < 5 * each["mc_se"], each["method"]
        assert each["mc_se"] < 0.05
        assert (each["rows"], each["refused"]) == (6, 0)
    assert [each["side"] for each in found["estimates"]] == ["lower", "lower", "upper"]
    assert [each["acceptance"] is None for each in found["estimates"]] == [True, False, False]
    assert found["estimates"][2]["r_hat_max"] < 1.05
    assert [pair["methods"] for pair in found["pairs"]] == [["is", "ais"], ["is", "hmc"], ["ais", "hmc"]]
    bracket = found["bracket"]
    assert abs(bracket["gap"]) < 0.2
    assert bracket["gap"] == pytest.approx(bracket["reverse"] - bracket["forward"])


def test_more_temperatures_bring_annealing_nearer(make_likelihood: Any) -> None:
    """Where the posterior is far narrower than the prior: the estimate and both sides of the bracket."""
    it, exact = linear(make_likelihood, scale=6)
    apart, gaps = [], []
    for temperatures in (1, 4, 100):
        plan = Plan(("ais",), samples={"ais": 8}, temperatures=temperatures, bracket=True, baselines=False, seed=1)
        found = evaluate(it, plan)
        json.dumps(found, allow_nan=False)
        assert found["estimates"][0]["temperatures"] == found["bracket"]["temperatures"] == temperatures
        apart.append(exact.mean() - found["estimates"][0]["value"])
        gaps.append(found["bracket"]["gap"])
    assert apart[0] > 3 * abs(apart[1]) > 3 * abs(apart[2])
    assert gaps[0] > 2 * gaps[1] > 4 * abs(gaps[2])


def test_a_row_without_a_finite_estimate_has_a_reason(make_likelihood: Any) -> None:
    it, _ = linear(make_likelihood)
    rows = it.rows.copy()
    rows[2] = 1e200
    found = evaluate(Subject(it.model, rows, it.train), Plan(samples={"is": 20}, baselines=False))
    (each,) = found["estimates"]
    assert (each["rows"], each["refused"], each["refused_for"]) == (5, 1, {"no finite estimate": 1})
    assert "is: refused 1 of 6: 1 rows, no finite estimate" in found["notes"]


def test_refused_rows_are_left_out_and_counted(make_likelihood: Any) -> None:
    """Thirteen draws a chain are too few for the estimator of appendix D."""
    it, _ = linear(make_likelihood)
    found = evaluate(it, Plan(("hmc",), samples={"hmc": 13}))
    (each,) = found["estimates"]
    assert (each["rows"], each["refused"], each["value"], each["mc_se"]) == (0, 6, None, None)
    assert any("refused 6 of 6" in note for note in found["notes"])
    json.dumps(found, allow_nan=False)


def test_the_default_without_an_encoder_is_annealing(make_likelihood: Any) -> None:
    it, _ = linear(make_likelihood)
    found = evaluate(Subject(it.model, it.rows, it.train, encoder=False), Plan(samples={"ais": 4}, rows=2))
    assert [each["method"] for each in found["estimates"]] == ["ais"]
    assert found["estimates"][0]["above_bound"] is None


@pytest.mark.parametrize("method", ["is", "ais", "hmc"])
def test_the_public_model_has_the_same_methods(method: str) -> None:
    x = (np.random.default_rng(0).random((4, DIM)) < 0.5).astype(np.uint8)
    model = aevb.VAE(hidden=4, latent_dim=1, seed=2, backend="cpu", threads=1, batch_size=4, initial="normal")
    model.fit(x, steps=2)
    samples = {"is": 500, "ais": 16, "hmc": 200}[method]
    found = model.log_likelihood(x, method=method, samples=samples)
    assert found.shape == (4,)
    np.testing.assert_allclose(found, -DIM * np.log(2), atol=0.2)  # two steps from the initial parameters near zero
    for bad, words in (
        ({"method": "iss"}, "unknown method"),
        ({"samples": 0}, "samples=0"),
        ({"method": "is", "temperatures": 9}, "temperatures=9: 'is' has none; ais has"),
        ({"method": "ais", "temperatures": 0}, "temperatures=0"),
    ):
        with pytest.raises(UsageError, match=words):
            model.log_likelihood(x, **bad)
