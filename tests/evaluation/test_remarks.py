"""What is said of a training that came to little: collapsed, below what needs no z, climbing, overfitted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.evaluation.baselines import gaussian, ppca
from aevb_engine.evaluation.bound import Evaluator
from aevb_engine.evaluation.remarks import Judged, remarks
from aevb_engine.model.columns import Columns
from aevb_engine.model.model import Architecture, Model
from aevb_engine.model.standardized import Standardized
from aevb_engine.model.start import columns_read, start_heads
from aevb_engine.model.units import units_of
from aevb_engine.training.step import resident

RNG = np.random.default_rng(11)
FACTOR = RNG.normal(size=(600, 1))
ROWS = FACTOR * [2.0, -1.0, 0.5] + 0.5 * RNG.normal(size=(600, 3))
TRAIN, TEST = ROWS[:400], ROWS[400:]
REST = np.column_stack([np.arange(1.0, 21), np.full(20, -3.0)])  # a course that has come to rest


def at_the_start(make_likelihood: Any, units: bool = False, latent: int = 2) -> Model:
    """A linear model whose z says nothing: zero weights, heads at the data, q(z | x) the prior."""
    likelihood = make_likelihood("gaussian linear per_dim none")
    if units:
        likelihood = Standardized(likelihood, units_of(Columns.of(TRAIN), alike=False))
    model = Model(Architecture(3, latent, (), "tanh", "float64"), likelihood, NumpyBackend(1))
    model.parameters.theta[...] = 0
    start_heads(model, columns_read(likelihood, TRAIN, 1.0))
    return model


def judged(model: Model, **given: Any) -> Judged:
    bounds = Evaluator(model, resident(model, TEST)).run()[:, 0]
    return Judged(model, TEST, bounds, "test", TRAIN, float(bounds.mean()), 1000, REST, **given)


@pytest.mark.parametrize("units", [False, True])
def test_a_collapsed_model(units: bool, make_likelihood: Any) -> None:
    """It is the one of independent columns, below PCA; the numbers are those of the closed forms."""
    it = judged(at_the_start(make_likelihood, units))
    found = remarks(it)
    assert found.active == 0
    assert found.independent == pytest.approx(gaussian(TRAIN).score(TEST).mean(), abs=1e-6)
    assert found.independent == pytest.approx(it.bounds.mean(), abs=1e-6)
    columns = Columns.of(TRAIN)
    scaled = [(rows - columns.mean) / columns.spread if units else rows for rows in (TRAIN, TEST)]
    shift = np.log(columns.spread).sum() if units else 0.0
    assert found.linear == pytest.approx(ppca(scaled[0], 2).score(scaled[1]).mean() - shift, abs=1e-9)
    assert found.linear > found.independent + 1
    assert replace(found, lines=[]) == remarks(replace(it, steps=199))
    assert [line.split(":")[0] for line in found.lines] == [
        "none of the 2 latent units is active",
        f"the test bound {it.bounds.mean():,.2f} is below {found.linear:,.2f} of probabilistic PCA, a linear model; "
        "train longer, or with another --lr",
    ]


def test_a_good_model_needs_no_words(make_likelihood: Any) -> None:
    """Factor analysis by hand: the exact loadings and posterior of one factor; a second unit is idle."""
    for latent in (1, 2):
        model = at_the_start(make_likelihood, latent=latent)
        loading, noise = np.array([2.0, -1.0, 0.5]), 0.25
        precision = 1 + loading @ loading / noise
        named = model.parameters.named
        named["decoder.mean.weight"].theta.array[0] = loading
        named["decoder.logvar"].theta.array[...] = np.log(noise)
        named["encoder.head.weight"].theta.array[:, 0] = loading / noise / precision
        named["encoder.head.bias"].theta.array[latent] = -np.log(precision)
        named["encoder.head.bias"].theta.array[0] = -(TRAIN.mean(axis=0) @ (loading / noise / precision))
        it = judged(model)
        found = remarks(it)
        assert found.active == 1
        idle = ["1 of 2 latent units are inactive: as good with --latent-dim 1"]
        lines = [line for line in found.lines if "PCA" not in line]  # within the noise of a one-sample bound
        assert lines == (idle if latent == 2 else [])
        worse = replace(it, bounds=it.bounds - 5, train_bound=it.train_bound - 5)
        assert any("of independent columns, a model without z" in line for line in remarks(worse).lines)
        paper = remarks(replace(worse, paper_start=True)).lines
        assert any("or start with --initial glorot" in line for line in paper)


def test_overfitting_and_climbing(make_likelihood: Any) -> None:
    it = judged(at_the_start(make_likelihood))
    gap = replace(it, train_bound=it.train_bound + 8)
    assert any("nats below that of the training rows: the model overfits" in line for line in remarks(gap).lines)
    chosen = remarks(replace(gap, best_step=300)).lines
    assert any("overfits; step 300, the best for the validation rows, is what counts" in line for line in chosen)
    assert not any("--validation" in line for line in chosen)
    gained = replace(it, bounds=it.bounds + 4, train_bound=it.train_bound + 4)
    steps = np.arange(1.0, 21)

    def says(course: np.ndarray, steady: float = 1.0) -> bool:
        lines = remarks(replace(gained, course=np.column_stack([steps, course]), steady=steady)).lines
        return any("still climbed" in line for line in lines)

    assert says(np.log(steps))
    assert not says(np.minimum(steps, 8.0))
    assert says(np.minimum(steps, 8.0), steady=0.5)  # by the steps before the rate falls
    assert not says(np.where(steps > 15, 1.0, 0.0), steady=0.5)  # a rise with the falling rate is none
    assert not says(-steps)
    assert not says(0.01 * steps)


def test_rows_are_limited_and_a_mass_has_no_pca(make_likelihood: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from aevb_engine.evaluation import remarks as module

    monkeypatch.setattr(module, "MOST_ROWS", 50)
    likelihood = make_likelihood("bernoulli")
    model = Model(Architecture(3, 2, (), "tanh", "float64"), likelihood, NumpyBackend(1))
    model.parameters.theta[...] = 0
    bits = (ROWS > 0).astype(np.uint8)
    start_heads(model, columns_read(likelihood, bits, 1.0))
    bounds = Evaluator(model, resident(model, bits)).run()[:, 0]
    found = remarks(Judged(model, bits, bounds, "test", bits, float(bounds.mean()), 1000, REST))
    assert found.linear is None
    assert found.independent == pytest.approx(bounds[::12].mean(), abs=1e-6)
