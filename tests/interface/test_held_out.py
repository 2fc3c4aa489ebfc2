"""Rows held out of a fit: the same as those of a run, the best state, and early ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.data.dataset import Dataset
from aevb_engine.errors import DataError, UsageError
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.session import prepare
from aevb_engine.training.order import split

RNG = np.random.default_rng(0)
X = (RNG.random((60, 20)) < 0.3).astype(np.uint8)
OTHER = (np.random.default_rng(1).random((40, 20)) < 0.3).astype(np.uint8)
OVERFIT: dict[str, Any] = {"hidden": 30, "lr": 0.05, "initial": "glorot"}  # its best step comes early


def made(**more: Any) -> aevb.VAE:
    return aevb.VAE(
        **{"hidden": 5, "batch_size": 20, "backend": "cpu", "threads": 1, "seed": 1, "lr_schedule": "constant", **more}
    )


def theta(model: aevb.VAE) -> bytes:
    return bytes(model.model.parameters.theta.tobytes())


def state(model: aevb.VAE) -> dict[str, bytes]:
    assert model._trainer is not None
    return {"step": str(model._trainer.step).encode(), **{k: v.tobytes() for k, v in model._trainer.arrays().items()}}


def test_a_fraction_is_held_out_as_a_run_does() -> None:
    """The same rows, the same bounds at the same steps: those of the command line's configuration."""
    options: dict[str, Any] = {"hidden": (5,), "seed": 3, "batch_size": 50, "backend": "cpu", "threads": 1, "steps": 40}
    session = prepare(RunConfig("simulated-binary", validation=0.2, eval_every=10, **options))
    model = made(**{**options, "validation": 0.2, "eval_every": 10, "lr_schedule": None}).fit("simulated-binary")
    assert session.held_out is not None
    expected = []
    for _ in range(4):
        session.trainer.advance(10)
        expected.append(session.held_out.run()[:, 0].mean())
    session.backend.close()
    assert [row["bound"] for row in model.evaluations] == expected
    assert [row["step"] for row in model.evaluations] == [10, 20, 30, 40]
    assert set(model.evaluations[0]) == {"step", "bound", "reconstruction", "kl"}


def test_held_out_rows_are_not_trained_on() -> None:
    kept, held = split(60, 0.25, 1, False)
    model = made().fit(X, steps=30, validation=0.25)
    np.testing.assert_allclose(model.evaluations[-1]["bound"], model.bound(X[held]), rtol=1e-6)
    changed = X.copy()
    changed[held] = 1 - changed[held]
    again = made().fit(changed, steps=30, validation=0.25, callback=lambda row: None)
    assert [r for r in model.history if r["step"] <= 30] == again.history
    assert again.evaluations != model.evaluations
    assert len(kept) + len(held) == 60


def test_contiguous_rows_are_held_out_as_a_block() -> None:
    model = made().fit(Dataset("frames", X, contiguous=True), steps=30, validation=0.25)
    np.testing.assert_allclose(model.evaluations[-1]["bound"], model.bound(X[45:]), rtol=1e-6)


def test_rows_of_ones_own() -> None:
    model = made().fit(X, steps=30, validation=OTHER, eval_every=30)
    assert [row["step"] for row in model.evaluations] == [30]
    np.testing.assert_allclose(model.evaluations[0]["bound"], model.bound(OTHER), rtol=1e-6)
    for bad, words in [(OTHER[:, :7], "7 columns"), (2 * OTHER, "validation data holds"), ("x", "validation='x'")]:
        with pytest.raises((DataError, UsageError), match=words):
            made().fit(X, steps=30, validation=bad)


def test_the_model_holds_the_best_state_and_goes_on_from_it() -> None:
    model = made(**OVERFIT).fit(X, steps=600, validation=0.25, eval_every=20)
    bounds = {row["step"]: row["bound"] for row in model.evaluations}
    best = max(bounds, key=lambda s: bounds[s])
    assert model.best_step == best < 600
    assert model.history[-1]["step"] == 600  # what came after it can be looked at
    held = X[split(60, 0.25, 1, False)[1]]
    np.testing.assert_allclose(model.bound(held), bounds[best], rtol=1e-6)
    to_best = made(**OVERFIT).fit(X, steps=int(best), validation=0.25, eval_every=20)
    assert state(model) == state(to_best)
    model.fit(X[:40], steps=30)  # without anything held out: from the best state, on other rows
    assert model.best_step is None
    assert [row["step"] for row in model.history][-1] == best + 30
    assert [row["step"] for row in model.evaluations][-1] == best
    steps = [row["step"] for row in model.history]
    assert steps == sorted(set(steps))


def test_the_best_of_all_fits_on_the_same_rows() -> None:
    """Also where a fit was cut in two, by Ctrl-C or otherwise."""
    model = made(**OVERFIT)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, steps=600, validation=0.25, eval_every=20, callback=_interrupt_at(400))
    assert model._trainer is not None
    assert model._trainer.step >= 400  # the last state, not the best
    assert model.best_step is not None
    best = model.best_step
    assert best < 400
    model.fit(X, steps=20, validation=0.25, eval_every=20)
    assert model.best_step == best == model._trainer.step
    model.fit(X, steps=20, validation=OTHER)  # other rows: judged anew
    assert model.best_step is not None
    assert best < model.best_step <= best + 20


def _interrupt_at(step: int) -> Any:
    def callback(row: dict[str, Any]) -> None:
        if row["step"] == step:
            raise KeyboardInterrupt

    return callback


def test_a_saved_model_is_the_best_one(tmp_path: Path) -> None:
    model = made(**OVERFIT).fit(X, steps=300, validation=0.25, eval_every=20)
    model.save(tmp_path / "m.h5")
    loaded = aevb.load(tmp_path / "m.h5")
    assert theta(loaded) == theta(model)
    loaded.fit(X, steps=10)
    assert loaded.history[-1]["step"] == (model.best_step or 0) + 10
    assert theta(loaded) == theta(model.fit(X, steps=10))


def test_until_converged_ends_early_and_holds_out_a_tenth() -> None:
    model = made(**OVERFIT).fit(X, until_converged=True)
    last = model.evaluations[-1]["step"]
    assert last < 1000 * 54 / 20
    assert model.best_step is not None
    assert model.best_step < last
    held = X[split(60, 0.1, 1, False)[1]]
    best = next(row for row in model.evaluations if row["step"] == model.best_step)
    np.testing.assert_allclose(best["bound"], model.bound(held), rtol=1e-6)


def test_options_of_the_model_are_defaults_of_fit() -> None:
    model = made(validation=0.25, eval_every=7, steps=21).fit(X)
    assert [row["step"] for row in model.evaluations] == [7, 14, 21]
    model.fit(X, validation=0)
    assert len(model.evaluations) <= 3
    assert model.best_step is None
    early = made(**OVERFIT, until_converged=True).fit(X)
    assert early.best_step is not None


def test_ten_evaluations_at_least() -> None:
    assert len(made().fit(X, steps=100, validation=0.25).evaluations) >= 10
    assert len(made().fit(X, epochs=30, validation=0.25).evaluations) >= 30 - 1


def test_the_callback_sees_evaluations_and_can_end_the_fit() -> None:
    seen: list[dict[str, Any]] = []

    def until(row: dict[str, Any]) -> bool:
        seen.append(row)
        return row["part"] == "validation" and row["step"] >= 40

    model = made().fit(X, steps=5000, validation=0.25, eval_every=10, callback=until)
    assert [{k: v for k, v in r.items() if k != "part"} for r in seen if r["part"] == "validation"] == model.evaluations
    assert model.evaluations[-1]["step"] == 40
    assert model.best_step is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"validation": 1.0}, r"validation=1\.0: a fraction in \[0, 1\) is needed"),
        ({"validation": True}, "validation=True"),
        ({"until_converged": "yes"}, "until_converged='yes'"),
        ({"eval_every": 0}, "eval_every=0"),
        ({"eval_every": 2.5}, r"eval_every=2\.5"),
        ({"callback": 3}, "callback=3"),
        ({"progress": "no"}, "progress='no'"),
        ({"validation": 0.999}, r"validation=0\.999: nothing is left of 60 training rows"),
    ],
)
def test_what_cannot_be_asked_for(options: dict[str, Any], words: str) -> None:
    model = made()
    with pytest.raises((UsageError, DataError), match=words):
        model.fit(X, steps=3, **options)
    model.fit(X[:, :7], steps=1)  # still open


def test_nothing_judges_a_decoder_alone() -> None:
    for options in ({"validation": 0.2}, {"until_converged": True}, {"validation": X}):
        with pytest.raises(UsageError, match="the objective mcem has no encoder"):
            made(objective="mcem").fit(X, steps=3, **options)


def test_an_autoencoder_is_judged_by_its_reconstruction() -> None:
    model = made(objective="autoencoder").fit(X, steps=60, validation=0.25, eval_every=20)
    assert all(np.isfinite(row["reconstruction"]) and np.isnan(row["bound"]) for row in model.evaluations)
    assert model.best_step == max(model.evaluations, key=lambda row: row["reconstruction"])["step"]
