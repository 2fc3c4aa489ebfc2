"""Draws that go on, spreads, bounds by row, and the parameters by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.errors import DataError, UsageError

X = (np.random.default_rng(0).random((60, 20)) < 0.3).astype(np.uint8)
REAL = np.random.default_rng(1).standard_normal((60, 20)).astype(np.float32)
Z = np.random.default_rng(2).standard_normal((7, 2)).astype(np.float32)


def made(**more: Any) -> aevb.VAE:
    given = {"hidden": 30, "batch_size": 20, "backend": "cpu", "threads": 1, "seed": 1, "initial": "glorot"}
    return aevb.VAE(**{**given, **more})


def fitted(**more: Any) -> aevb.VAE:
    return made(**more).fit(REAL if more.get("decoder") else X, steps=20)


# Draws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", [{}, {"decoder": "gaussian"}])
@pytest.mark.parametrize("parts", [(10, 10), (1, 19), (130, 1, 570)])
def test_samples_go_on(decoder: dict[str, str], parts: tuple[int, ...]) -> None:
    """To the bit, wherever the calls begin and end."""
    model = fitted(**decoder)
    many = fitted(**decoder).sample(sum(parts))
    np.testing.assert_array_equal(np.concatenate([model.sample(n) for n in parts]), many)
    assert len(np.unique(many, axis=0)) > 0.9 * len(many)


def test_seeds_of_samples() -> None:
    model = fitted(decoder="gaussian")
    first = model.sample(5)
    np.testing.assert_array_equal(model.sample(5, seed=1), first)  # the model's own seed
    np.testing.assert_array_equal(model.sample(5, seed=1), first)
    assert (model.sample(5) != first).all()
    assert (model.sample(5, seed=2) != first).all()
    other = fitted(decoder="gaussian", seed=2)
    other.set_weights(model.weights)
    assert (other.sample(5) != first).all()


def test_draws_at_given_z() -> None:
    model = fitted(decoder="gaussian")
    first, second = model.draw(Z), model.draw(Z)
    assert (first != second).all()
    np.testing.assert_array_equal(np.concatenate([first, second]), fitted(decoder="gaussian").draw(np.tile(Z, (2, 1))))
    np.testing.assert_array_equal(model.draw(Z, seed=1), first)
    assert (model.draw(Z, seed=4) != first).all()
    before = fitted(decoder="gaussian").sample(7)
    np.testing.assert_array_equal(model.sample(7), before)  # a stream of their own


@pytest.mark.parametrize("decoder", [{}, {"decoder": "gaussian"}])
def test_draws_have_the_mean_and_the_spread(decoder: dict[str, str]) -> None:
    model = fitted(**decoder)
    draws = model.draw(np.repeat(Z[:1], 4000, axis=0))
    mean, spread = model.decode(Z[:1])[0], model.spread(Z[:1])[0]
    assert (np.abs(draws.mean(0) - mean) < 5 * spread / np.sqrt(4000)).all()
    np.testing.assert_allclose(draws.std(0), spread, rtol=0.15, atol=1e-3)


def test_spread_in_closed_form() -> None:
    model = fitted()
    p = model.decode(Z)
    np.testing.assert_allclose(model.spread(Z), np.sqrt(p * (1 - p)), rtol=1e-5)
    np.testing.assert_allclose(model.spread(np.tile(Z, (200, 1)))[:7], model.spread(Z), rtol=1e-5)  # in chunks


def test_a_decoder_without_a_spread(make_likelihood: Any) -> None:
    model = made(decoder=make_likelihood("scalar")).fit(REAL, steps=2)
    with pytest.raises(UsageError, match=r"the decoder ScalarGaussian offers none; take it of draw\(z\), many times"):
        model.spread(Z)
    assert model.draw(Z).shape == (7, 20)


@pytest.mark.parametrize("z", [np.zeros((3, 3)), np.zeros(2), np.zeros((2, 1, 2)), np.zeros((0, 2)), [["a", "b"]]])
def test_what_is_no_z(z: Any) -> None:
    model = fitted()
    for use in (model.decode, model.draw, model.spread):
        with pytest.raises(DataError, match="z"):
            use(z)


# Bounds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"objective": "iwae", "samples": 5}])
def test_bounds_of_rows(options: dict[str, Any]) -> None:
    model = fitted()
    bounds = model.bounds(X, **options)
    assert bounds.shape == (60,)
    np.testing.assert_allclose(bounds.mean(), model.bound(X, **options), rtol=1e-12)
    np.testing.assert_allclose(model.bounds(X[:7], **options), bounds[:7], rtol=1e-4)


# Parameters -------------------------------------------------------------------------------------------------


def test_weights_are_copies() -> None:
    model = fitted()
    weights, before = model.weights, model.bound(X)
    assert list(weights) == list(model.model.parameters.named)
    assert weights["encoder.1.weight"].shape == (20, 30)
    for array in weights.values():
        array[...] = 0
    assert model.bound(X) == before
    model.set_weights(weights)
    assert model.bound(X) == pytest.approx(20 * np.log(0.5), rel=1e-5)  # p = 1/2, and q the prior


def test_set_weights_of_another_model_make_it_the_same(tmp_path: Path) -> None:
    one, other = fitted(), fitted(seed=4)
    other.set_weights({n: w.astype(np.float64).tolist() for n, w in one.weights.items()})
    np.testing.assert_array_equal(one.model.parameters.theta, other.model.parameters.theta)
    other.save(tmp_path / "m.h5")
    np.testing.assert_array_equal(aevb.load(tmp_path / "m.h5").model.parameters.theta, one.model.parameters.theta)


def test_training_goes_on_from_weights_that_were_set() -> None:
    one, other = fitted(), fitted()
    other.set_weights(one.weights)
    one.fit(X, steps=20)
    other.fit(X, steps=20)
    np.testing.assert_array_equal(one.model.parameters.theta, other.model.parameters.theta)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder.1.wieght": 0}, "unknown parameter 'encoder.1.wieght': did you mean 'encoder.1.weight'"),
        ({"encoder.1.weight": np.zeros((30, 20))}, r"'encoder.1.weight' has shape \(30, 20\); \(20, 30\) is needed"),
        ({"encoder.1.bias": np.full(30, np.nan)}, "'encoder.1.bias' holds NaN"),
        ({"encoder.1.bias": np.full(30, 1e300)}, "'encoder.1.bias' holds NaN, infinite or too large"),
        ({"encoder.1.bias": ["a"] * 30}, "'encoder.1.bias' is no array of floats"),
        ({"encoder.1.bias": np.zeros(30, complex)}, "'encoder.1.bias' is no array of floats"),
        ({"encoder.1.bias": [[1], [1, 2]]}, "'encoder.1.bias' is no array of floats"),
        ({3: 0}, "unknown parameter '3'"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(change: dict[Any, Any], words: str) -> None:
    model = fitted()
    before = bytes(model.model.parameters.theta.tobytes())
    zeros = {n: np.zeros_like(w) for n, w in model.weights.items()}
    with pytest.raises(DataError, match=words):
        model.set_weights({**zeros, **change})
    with pytest.raises(DataError, match=r"'encoder\.1\.bias' is missing: give all"):
        model.set_weights({n: w for n, w in zeros.items() if n != "encoder.1.bias"})
    with pytest.raises(DataError, match="weights of type list"):
        model.set_weights([])  # type: ignore[arg-type]
    assert model.model.parameters.theta.tobytes() == before


def test_nothing_before_the_first_fit() -> None:
    model = made()
    acts: list[Any] = [
        lambda: model.weights,
        lambda: model.set_weights({}),
        lambda: model.sample(1),
        lambda: model.draw(Z),
        lambda: model.spread(Z),
        lambda: model.bounds(X),
    ]
    for act in acts:
        with pytest.raises(UsageError, match="the model has no data yet: call fit, or load one"):
            act()
    assert model.best_step is None
    np.testing.assert_array_equal(model.fit(X, steps=20).sample(3), fitted().sample(3))  # no draw was lost
