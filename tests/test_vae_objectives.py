"""The public model under objectives without a bound or an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.errors import ResultWarning, UsageError


def rows(count: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (count, 6)).astype(np.float32)


def made(objective: str, **more: Any) -> Any:
    return aevb.VAE(hidden=5, objective=objective, batch_size=20, backend="cpu", threads=1, seed=1, **more)


def test_what_needs_an_encoder_is_refused_without_one() -> None:
    model = made("mcem").fit(rows(), epochs=2)
    assert model.history[-1]["step"] == 2 * 5 * 3  # five updates on each batch
    assert np.isfinite(model.history[-1]["reconstruction"])
    assert model.sample(4).shape == (4, 6)
    for what in ("bound", "encode", "reconstruct", "log_likelihood"):
        with pytest.raises(UsageError, match=f"{what} needs an encoder; the objective mcem trains none"):
            getattr(model, what)(rows())


def test_an_autoencoder_encodes_and_has_no_posterior() -> None:
    model = made("autoencoder").fit(rows(), steps=3)
    assert model.encode(rows())[0].shape == (60, 2)
    assert model.reconstruct(rows()).shape == (60, 6)
    with pytest.raises(UsageError, match="the objective autoencoder trains none"):
        model.bound(rows())
    with pytest.raises(UsageError, match='trains none; use method="ais"'):
        model.log_likelihood(rows())
    assert np.isfinite(model.log_likelihood(rows()[:2], method="ais", samples=2)).all()


def test_only_bounds_are_asked_for() -> None:
    model = made("wake-sleep").fit(rows(), steps=5)
    assert model.bound(rows()) < 0
    with pytest.raises(UsageError, match="the objective wake-sleep is not a bound"):
        model.bound(rows(), objective="wake-sleep")
    with pytest.raises(UsageError, match="no option"):
        made("wake-sleep", objective_options={"beta": 1})


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_loaded_model_goes_on_as_if_it_had_never_been_away(optimizer: str, tmp_path: Path) -> None:
    """With the optimizer's state and the number of steps, also saved again before it is trained."""
    x = (np.random.default_rng(0).random((60, 20)) < 0.3).astype(np.uint8)

    def parameters(model: aevb.VAE) -> bytes:
        return bytes(model.model.parameters.theta.tobytes())

    model = aevb.VAE(hidden=5, latent_dim=2, batch_size=20, optimizer=optimizer, seed=1, threads=1).fit(x, steps=7)
    model.save(tmp_path / "m.h5")
    aevb.load(tmp_path / "m.h5").save(tmp_path / "again.h5")
    model.fit(x, steps=5)
    for name in ("m.h5", "again.h5"):
        loaded = aevb.load(tmp_path / name).fit(x, steps=5)
        assert parameters(loaded) == parameters(model)
        assert loaded.history[-1]["step"] == 12
    untrained = aevb.load(tmp_path / "m.h5")
    untrained.save(tmp_path / "m.h5")
    assert aevb.load(tmp_path / "m.h5").bound(x) == untrained.bound(x)


def test_chains_go_on_with_the_same_data_and_start_anew_with_others(tmp_path: Path) -> None:
    model = made("mcem").fit(rows(), steps=7)
    kept = model._trainer.arrays()["objective/chains"]
    model.fit(rows(), steps=1)
    again = model._trainer.arrays()["objective/chains"]
    assert (again == kept).all(axis=1).sum() == 60  # step 8 is still on the second batch: no visit
    model.fit(rows(40), steps=1)
    assert model._trainer.step == 9
    assert model._trainer.arrays()["objective/chains"].shape == (40, 2)
    model.save(tmp_path / "m.h5")
    loaded = aevb.load(tmp_path / "m.h5")
    np.testing.assert_array_equal(loaded.sample(3), model.sample(3))


def test_what_an_objective_says_of_itself_is_said() -> None:
    """As ``run`` says it: that of mcem holds however short the fit."""
    x = np.random.default_rng(0).integers(0, 2, (40, 5))
    model = aevb.VAE(hidden=4, objective="mcem", batch_size=10)
    with pytest.warns(ResultWarning, match="the objective mcem is not a bound"):
        model.fit(x, steps=10)
    assert len(model.remarks) == 2
    assert "Monte Carlo EM on minibatches (10 of 40 data points) is an extension" in model.remarks[1]
    assert aevb.VAE(hidden=4, batch_size=10).fit(x, steps=10).remarks == []
