"""Where the decoder's heads start: at closed forms of independent columns, for plugins that say nothing, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.errors import BackendError
from aevb_engine.evaluation import apply, baselines
from aevb_engine.model.columns import Columns
from aevb_engine.model.likelihood import Likelihood
from aevb_engine.model.model import Architecture, Model
from aevb_engine.model.standardized import Standardized
from aevb_engine.model.start import columns_read, fitted, head_values, log_prob, start_heads
from aevb_engine.model.units import units_of

RNG = np.random.default_rng(5)
REAL = RNG.normal([0, 6, 305, 5010], [0.1, 1, 30, 1000], (3000, 4))
BITS = (RNG.random((2000, 6)) < [0.5, 0.9, 0.02, 0.3, 0.7, 0.0]).astype(np.uint8)
CODES = np.stack([RNG.choice(3, 2000, p=p) for p in ([0.2, 0.3, 0.5], [0.7, 0.2, 0.1])], axis=1)


def values(likelihood: Likelihood, rows: Any, own: bool = True) -> dict[str, Any]:
    columns = Columns.of(rows)
    found = head_values(likelihood, columns) if own else fitted(likelihood, rows.astype(np.float64))
    return {head.name: v for head, v in found.items()}


def test_columns_of_rows() -> None:
    columns = Columns.of(REAL.astype(np.float32))
    assert columns.count == 3000
    np.testing.assert_allclose(columns.mean, REAL.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(columns.spread, REAL.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(columns.largest, np.abs(REAL).max(axis=0), rtol=1e-6)
    assert Columns.of(np.full((9, 2), 5010.1)).spread.tolist() == [0, 0]
    assert Columns.of(np.full((9, 1), 51, np.uint8), 1 / 255).mean == pytest.approx(0.2)


def test_bernoulli_starts_at_the_logit_of_the_mean() -> None:
    """Half of it, as the head arrives; one row of ones and one of zeros keep an empty pixel finite."""
    p = (BITS.sum(axis=0) + 1) / (len(BITS) + 2)
    np.testing.assert_allclose(2 * values(_bernoulli(), BITS)["logit"], np.log(p / (1 - p)), rtol=1e-12)


@pytest.mark.parametrize(
    "name", ["gaussian linear affine none", "gaussian linear per_dim -7", "gaussian linear affine 0"]
)
def test_gaussian_starts_at_mean_and_variance(name: str, make_likelihood: Any) -> None:
    likelihood = make_likelihood(name)
    heads = head_values(likelihood, Columns.of(REAL))
    np.testing.assert_allclose(next(iter(heads.values())), REAL.mean(axis=0), rtol=1e-9)
    by_hand = baselines.gaussian(REAL, least_variance=0.0).score(REAL).mean()
    found = log_prob(likelihood, heads, REAL).mean()
    if name.endswith(" 0"):  # the floor holds the first column's variance above 1
        assert found < by_hand - 0.3
    else:
        assert found == pytest.approx(by_hand, abs=0.02)


def test_a_sigmoid_mean_starts_inside_of_its_range(make_likelihood: Any) -> None:
    rows = np.column_stack([RNG.random(500), np.ones(500), np.zeros(500)])
    found = values(make_likelihood("gaussian sigmoid affine -7"), rows)
    np.testing.assert_allclose(1 / (1 + np.exp(-2 * found["mean"])), [rows[:, 0].mean(), 0.999, 0.001], rtol=1e-9)
    assert np.isfinite(found["logvar"]).all()


@pytest.mark.parametrize("name", ["laplace", "scalar", "gaussian linear affine none", "gaussian linear per_dim none"])
def test_the_default_is_the_maximum_likelihood_fit_of_real_columns(name: str, make_likelihood: Any) -> None:
    """Against closed forms: median and mean distance of Laplace; mean and variance of Gaussians."""
    found = values(make_likelihood(name), REAL, own=False)
    centre, spread = REAL.mean(axis=0), REAL.std(axis=0)
    if name == "laplace":
        middle = np.median(REAL, axis=0)
        np.testing.assert_allclose((found["location"] - middle) / spread, 0, atol=0.01)
        np.testing.assert_allclose(found["logscale"], np.log(np.abs(REAL - middle).mean(axis=0)), atol=0.01)
        return
    np.testing.assert_allclose((found["mean"] - centre) / spread, 0, atol=0.01)
    wanted = np.log(np.mean(spread**2)) if name == "scalar" else np.log(spread**2)
    np.testing.assert_allclose(found["logvar"], np.broadcast_to(wanted, found["logvar"].shape), atol=0.01)


def test_the_default_finds_the_shares_of_codes(make_likelihood: Any) -> None:
    likelihood = make_likelihood("codes")
    rows = CODES % likelihood.support.levels
    (logits,) = values(likelihood, rows, own=False).values()
    shares = np.exp(2 * logits) / np.exp(2 * logits).sum(axis=-1, keepdims=True)
    for column, share in zip(rows.T, shares, strict=True):
        counts = np.bincount(column, minlength=likelihood.support.levels) / len(column)
        np.testing.assert_allclose(share, counts, atol=2e-3)


def test_the_default_agrees_with_bernoulli_s_own() -> None:
    found, own = (values(_bernoulli(), BITS[:, :5], own=o)["logit"] for o in (False, True))
    np.testing.assert_allclose(found, own, atol=0.03)


def test_what_cannot_be_fitted_starts_at_zero(make_likelihood: Any) -> None:
    likelihood = make_likelihood("laplace")
    likelihood.log_prob = lambda *a, logp, **k: logp.fill(np.nan)
    assert all((v == 0).all() for v in values(likelihood, REAL, own=False).values())


@pytest.mark.parametrize(("given", "words"), [(np.zeros(3), "shape"), (np.full(4, np.inf), "not finite")])
def test_a_plugin_s_start_is_checked(given: Any, words: str, make_likelihood: Any) -> None:
    likelihood = make_likelihood("laplace")
    likelihood.start = lambda columns: {"location": given}
    with pytest.raises(BackendError, match=f"Laplace: start: head location .*{words}"):
        values(likelihood, REAL)


@pytest.mark.parametrize(
    "name", ["bernoulli", "gaussian linear affine -7", "gaussian sigmoid per_dim -7", "codes", "scalar"]
)
def test_the_model_starts_as_independent_columns(name: str, make_likelihood: Any) -> None:
    """At z = 0 the decoder says what independent columns say: through scaled heads and all sources."""
    likelihood = make_likelihood(name)
    rows = {"bernoulli": BITS, "codes": CODES % max(1, likelihood.support.levels)}.get(name, RNG.random((500, 3)))
    model = Model(Architecture(rows.shape[1], 2, (5,), "tanh", "float64"), likelihood, NumpyBackend(1))
    model.parameters.theta[...] = 0
    columns = columns_read(likelihood, rows, 1.0)
    start_heads(model, columns)
    wanted = np.empty((1, 1, rows.shape[1]))
    heads = head_values(likelihood, columns)
    likelihood.mean(np, *(v.reshape(1, 1, *v.shape) for v in heads.values()), mean=wanted)
    np.testing.assert_allclose(apply.decode(model, np.zeros((1, 2))), wanted[0], rtol=1e-9)


def test_columns_are_those_that_the_model_reads(make_likelihood: Any) -> None:
    """In units of their own they have mean 0 and spread 1; the count is that of all rows."""
    likelihood = Standardized(make_likelihood("laplace"), units_of(Columns.of(REAL), alike=False))
    columns = columns_read(likelihood, np.tile(REAL, (5, 1)), 1.0)
    assert columns.count == 15_000
    np.testing.assert_allclose(columns.mean, 0, atol=0.05)
    np.testing.assert_allclose(columns.spread, 1, atol=0.05)


def _bernoulli() -> Likelihood:
    from aevb_plugins.decoders.bernoulli import Bernoulli

    return Bernoulli()
