"""Copies of a model: pickled, copied, sent to another process; each goes on as the model itself would."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.errors import BackendError
from aevb_plugins.decoders.gaussian import Gaussian

X = (np.random.default_rng(0).random((60, 20)) < 0.3).astype(np.uint8)
TABLE = [0, 6, 305, 5010] + [0.1, 1, 30, 1000] * np.random.default_rng(1).standard_normal((60, 4))


class Own(Gaussian):
    """A decoder of the user's own, with an array inside."""

    def __init__(self) -> None:
        super().__init__(mean="linear")
        self.table = np.arange(3)


class Sub(aevb.VAE):
    """A class of the user's own."""

    label = "none"


def made(kind: Callable[..., aevb.VAE] = aevb.VAE, **more: Any) -> aevb.VAE:
    given = {"hidden": 5, "batch_size": 20, "backend": "cpu", "threads": 1, "seed": 1}
    return kind(**{**given, **more})


def theta(model: aevb.VAE) -> bytes:
    return bytes(model.model.parameters.theta.tobytes())


def pickled(model: aevb.VAE) -> aevb.VAE:
    found: aevb.VAE = pickle.loads(pickle.dumps(model))
    return found


HOW = {"pickled": pickled, "copied": copy.copy, "both": lambda m: pickled(copy.deepcopy(m))}
OPTIONS: dict[str, dict[str, Any]] = {
    "adam": {},
    "momentum": {"optimizer": "momentum", "objective": "iwae", "samples": 2},
    "adagrad": {"optimizer": "adagrad", "objective": "wake-sleep"},
    "rmsprop": {"optimizer": "rmsprop", "objective": "autoencoder"},
    "chains": {"objective": "mcem", "objective_options": {"leapfrogs": 2, "updates": 3}},
    "two threads": {"threads": 2},
    "decoder object": {"decoder": Own()},
    "subclass": {"kind": Sub},
    "float64": {"precision": "float64"},
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", OPTIONS)
def test_a_copy_goes_on_to_the_same_bits(name: str, how: str) -> None:
    """Parameters, optimizer, chains, history and draws; and neither trains the other."""
    model = made(**OPTIONS[name]).fit(X, steps=33)
    model.sample(3)
    other, before = HOW[how](model), theta(model)
    assert type(other) is type(model)
    assert theta(other) == before
    history = [dict(row) for row in model.history]
    other.fit(X, steps=40)
    assert theta(model) == before
    assert repr(model.history) == repr(history)
    model.fit(X, steps=40)
    assert theta(other) == theta(model) != before
    assert repr(other.history) == repr(model.history)
    np.testing.assert_array_equal(other.sample(4), model.sample(4))


@pytest.mark.parametrize("how", HOW)
def test_a_copy_has_what_was_held_out(how: str) -> None:
    model = made(decoder="gaussian").fit(TABLE, steps=60, validation=0.2, eval_every=10)
    other = HOW[how](model)
    assert (other.best_step, other.evaluations, other.remarks) == (model.best_step, model.evaluations, model.remarks)
    assert other.units is not None
    assert model.units is not None
    np.testing.assert_array_equal(other.units.shift, model.units.shift)
    for each in (model, other):
        each.fit(TABLE, steps=40, validation=0.2, eval_every=10)
    assert (other.best_step, other.evaluations) == (model.best_step, model.evaluations)
    assert theta(other) == theta(model)


@pytest.mark.parametrize("how", HOW)
def test_a_model_without_data_and_one_that_was_loaded(how: str, tmp_path: Any) -> None:
    fresh = HOW[how](made(decoder=Own()))
    assert theta(fresh.fit(X, steps=5)) == theta(made(decoder=Own()).fit(X, steps=5))
    HOW[how](made().fit(X, steps=20)).save(tmp_path / "m.h5")
    loaded = aevb.load(tmp_path / "m.h5")
    other = HOW[how](loaded)
    assert theta(other.fit(X, steps=20)) == theta(loaded.fit(X, steps=20))


def test_weights_that_were_set_are_copied() -> None:
    model = made().fit(X, steps=20)
    model.set_weights({name: np.zeros_like(w) for name, w in model.weights.items()})
    assert theta(pickled(model)) == theta(model)


def test_a_copy_within_a_fit() -> None:
    copies: list[aevb.VAE] = []
    model = made(lr_schedule="constant")
    model.fit(X, steps=100, callback=lambda row: copies.append(pickled(model)))
    assert [int(c.history[-1]["step"]) for c in copies] == [50, 100]
    assert theta(copies[0].fit(X, steps=50)) == theta(model)


def test_what_a_user_adds_is_kept() -> None:
    model = made(Sub)
    model.label = "mine"  # type: ignore[attr-defined]
    assert pickled(model).label == "mine"  # type: ignore[attr-defined]


def test_a_backend_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(made().fit(X, steps=1))

    def choose(*given: Any) -> Any:
        raise BackendError("backend gpu: no driver")

    monkeypatch.setattr("aevb_engine.vae.choose", choose)
    with pytest.raises(BackendError, match="no driver"):
        pickle.loads(data)


def in_a_worker(model: aevb.VAE) -> tuple[bytes, float, aevb.VAE]:
    """What a process makes of a model that it is sent."""
    model.fit(X, steps=60)
    return theta(model), model.bound(X), model


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_a_model_is_sent_to_a_worker_and_back(start: str) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    model = made(threads=2).fit(X, steps=60)
    with multiprocessing.get_context(start).Pool(1) as pool:
        bits, bound, other = pool.apply(in_a_worker, (model,))
    model.fit(X, steps=60)
    assert bits == theta(model) == theta(other)
    assert bound == model.bound(X) == other.bound(X)
