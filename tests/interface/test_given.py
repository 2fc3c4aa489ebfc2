"""Rows mean in every method what they meant in fit: their unit, their support, and what the first data settled."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.data.given import Given
from aevb_engine.errors import DataError
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.run import start

RAW = np.random.default_rng(0).integers(20, 236, (80, 12)).astype(np.uint8)
GREY = RAW.astype(np.float32) * np.float32(1 / 255)
BINARY = (RAW > 127).astype(np.uint8)


def made(**more: Any) -> aevb.VAE:
    given = {"decoder": "gaussian", "hidden": 5, "batch_size": 20, "backend": "cpu", "threads": 1, "seed": 1}
    return aevb.VAE(**{**given, **more})


def scaled(rows: Any = RAW, **more: Any) -> aevb.Dataset:
    return aevb.Dataset("own", rows, scale=1 / 255, **more)


def stored(model: aevb.VAE, tmp_path: Path) -> aevb.VAE:
    model.save(tmp_path / "model.h5")
    return aevb.load(tmp_path / "model.h5")


KEEP: dict[str, Callable[[aevb.VAE, Path], aevb.VAE]] = {
    "fitted": lambda m, _: m,
    "saved": stored,
    "pickled": lambda m, _: pickle.loads(pickle.dumps(m)),
    "saved and copied": lambda m, p: copy.copy(stored(m, p)),
}
READ: list[Callable[[aevb.VAE, Any], Any]] = [
    lambda m, x: m.bounds(x),
    lambda m, x: m.bound(x),
    lambda m, x: m.log_likelihood(x, samples=20),
    lambda m, x: np.concatenate(m.encode(x)),
    lambda m, x: m.reconstruct(x),
]


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("standardize", ["auto", "always"])
def test_whole_numbers_are_read_by_the_scale_of_the_data_set(keep: str, standardize: str, tmp_path: Path) -> None:
    """To the bits of floats that were multiplied by hand, wherever the model has been meanwhile."""
    grey = GREY if standardize == "auto" else RAW * (1 / 255)  # in units of its own a model reads every digit
    first = made(standardize=standardize).fit(scaled(), steps=30)
    expected = [read(first, grey) for read in READ]  # floats are the data themselves
    model = KEEP[keep](first, tmp_path)
    for read, values in zip(READ, expected, strict=True):
        for rows in (RAW, RAW.astype(np.int64), RAW.tolist(), RAW.reshape(80, 3, 4), grey):
            np.testing.assert_array_equal(read(model, rows), values)
    assert np.abs(model.reconstruct(RAW) - GREY).max() < 1


@pytest.mark.parametrize("keep", KEEP)
def test_training_goes_on_in_the_same_unit(keep: str, tmp_path: Path) -> None:
    model = KEEP[keep](made(lr_schedule="constant").fit(scaled(), steps=20), tmp_path)
    one, other = (copy.copy(model).fit(rows, steps=20) for rows in (scaled(), RAW))
    assert one.model.parameters.theta.tobytes() == other.model.parameters.theta.tobytes()
    with pytest.raises(DataError, match=r"^the training data: values reach 235; the model's training data lie between"):
        model.fit(aevb.Dataset("own", RAW), steps=1)


def test_held_out_rows_are_in_the_unit_of_the_data_set() -> None:
    one = made().fit(scaled(RAW[:60]), steps=30, validation=RAW[60:])
    other = made().fit(scaled(RAW[:60]), steps=30, validation=GREY[60:])
    assert one.evaluations == other.evaluations
    with pytest.raises(DataError, match="the validation data: values reach 23"):
        made().fit(scaled(RAW[:60]), steps=1, validation=RAW[60:].astype(float))


def test_a_data_set_by_name_and_a_run(tmp_path: Path) -> None:
    """Bytes of its data set, in the model itself and in the one that is loaded from a run's folder."""
    given = {"decoder": "gaussian", "hidden": 5, "batch_size": 20, "backend": "cpu", "threads": 1, "seed": 1}
    small = {"train": 60, "test": 20}
    options = {"dataset": "faces", "dataset_options": small, "steps": 5, **given}
    start(RunConfig.from_mapping(options, "the test"), tmp_path / "run")
    unit, raw = (aevb.dataset("faces", seed=1, scale=scale, **small).test_rows for scale in ("unit", "raw"))
    assert (unit.dtype, raw.dtype) == (np.float32, np.uint8)
    for model in (aevb.load(tmp_path / "run"), made(dataset_options=small).fit("faces", steps=5)):
        assert model.bound(raw) == model.bound(unit)
        with pytest.raises(DataError, match=r"values reach 2\d\d"):
            model.encode(raw.astype(float))


FAR = {
    "floats of bytes": (scaled(), RAW.astype(float), r"0\.078\d+ and 0\.92\d+: multiply floats by the scale 0.0039"),
    "bytes after floats": (GREY, RAW, "values reach 235; .*: divide them by 255"),
    "bytes within -1 and 1": (2 * GREY - 1, RAW, "divide them by 255"),
    "far below": (GREY, GREY - 1000, "values reach -999"),
    "whole numbers beyond bytes": (scaled(), RAW.astype(int) * 200, "values reach 184"),
}


@pytest.mark.parametrize("case", FAR)
@pytest.mark.parametrize("keep", ["fitted", "saved"])
def test_rows_that_cannot_be_in_the_unit_of_the_data(case: str, keep: str, tmp_path: Path) -> None:
    data, rows, words = FAR[case]
    model = KEEP[keep](made().fit(data, steps=1), tmp_path)
    for read in (*READ, lambda m, x: m.fit(x.astype(float), steps=1), lambda m, x: m.fit(data, steps=1, validation=x)):
        with pytest.raises(DataError, match="the model's training data lie between") as caught:
            read(model, rows)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=words):
        model.bound(rows)


def test_rows_somewhat_outside_are_welcome() -> None:
    """Draws of the model itself, outliers, and any number where the data are no fractions."""
    model = made().fit(scaled(), steps=50)
    assert np.isfinite(model.bound(model.sample(200)))
    assert np.isfinite(model.bound(GREY * 3))
    table = made().fit(30 * np.random.default_rng(2).standard_normal((80, 3)), steps=50)
    assert np.isfinite(table.bound(np.full((2, 3), 1e4)))


def test_fractions_for_whole_numbers_are_told() -> None:
    model = made().fit(RAW, steps=5)
    with pytest.warns(UserWarning, match=r"training data are whole numbers up to 235: .* multiplied first") as caught:
        model.bound(GREY)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.bound(RAW.astype(float) + 0.5)
        model.bound(np.zeros((3, 12)))


def test_a_scale_of_floats_is_told() -> None:
    with pytest.warns(UserWarning, match=r"scale=0.5 of float rows: floats that come later are read as they are"):
        made().fit(aevb.Dataset("own", GREY, scale=0.5), steps=1)


@pytest.mark.parametrize(
    ("decoder", "data", "rows", "words"),
    [
        ("bernoulli", BINARY, RAW, "0 and 1 only"),
        ("bernoulli", BINARY, GREY, "0 and 1 only"),
        ("bernoulli", BINARY, np.where(BINARY, np.nan, 1), "NaN or infinite"),
        ("gaussian", GREY, np.where(BINARY, np.inf, GREY), "NaN or infinite"),
        ("gaussian", GREY, GREY[:, :5], "data of 5 columns; the model has 12"),
        ("bernoulli", aevb.Dataset("own", RAW, dynamic=True), RAW, "0 and 1 only"),
    ],
)
def test_every_method_checks_its_rows(decoder: str, data: Any, rows: Any, words: str) -> None:
    model = made(decoder=decoder).fit(data, steps=1)
    for read in READ:
        with pytest.raises(DataError, match=words):
            read(model, rows)
    if rows.shape[1] == 12:
        with pytest.raises(DataError, match=words):
            model.fit(data, steps=1, validation=rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_z_is_finite(bad: float) -> None:
    model = made().fit(GREY, steps=1)
    for use in (model.decode, model.spread, model.draw):
        with pytest.raises(DataError, match="z holds NaN, infinite or too large values"):
            use(np.array([[0.0, bad]]))


# What the first data settle -----------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", KEEP)
def test_sigmoid_means_do_not_meet_data_that_they_cannot_reach(keep: str, tmp_path: Path) -> None:
    wide = 3 * np.random.default_rng(1).standard_normal((80, 12)).clip(-3, 3)  # beyond 10 is another unit, see above
    model = KEEP[keep](made().fit(GREY, steps=5), tmp_path)
    before = model.model.parameters.theta.tobytes()
    with pytest.raises(DataError, match=r'first fit lie in \[0, 1\] .* decoder_options={"mean": "linear"} for both$'):
        model.fit(wide, steps=5)
    assert model.model.parameters.theta.tobytes() == before
    model.fit(GREY[:40], steps=5)
    both = made(decoder_options={"mean": "linear"}).fit(GREY, steps=5).fit(wide, steps=5)
    assert np.isfinite(both.bound(wide))
    asked = made(decoder_options={"mean": "sigmoid"}).fit(GREY, steps=5).fit(wide, steps=5)  # as it was told
    assert np.isfinite(asked.bound(wide))


def test_means_without_a_unit_reach_all() -> None:
    made().fit(3 * np.random.default_rng(2).standard_normal((80, 12)), steps=5).fit(GREY, steps=5)


def test_data_far_from_the_unit_of_the_first_are_told() -> None:
    table = [0, 6, 305, 5010] + [0.1, 1, 30, 1000] * np.random.default_rng(2).standard_normal((80, 4))
    model = made().fit(table, steps=5)
    model.fit(table, steps=5)
    model.fit(np.tile(table[:1], (20, 1)), steps=5)
    with pytest.warns(UserWarning, match="in the unit of the first fit, .*: make a model for these data") as caught:
        model.fit(100 * table, steps=5)
    assert caught[0].filename == __file__


# Alone ---------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_read_back() -> None:
    for given in (Given(), Given.of(scaled()), Given.of(aevb.Dataset("own", GREY))):
        assert Given.stored(given.meta()) == given
    assert Given.stored(None) == Given()  # a file of before
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="scale"):
            Given.stored({**Given().meta(), "scale": bad})
    with pytest.raises(KeyError):
        Given.stored({})


def test_the_last_scale_counts() -> None:
    bytes_, floats = Given.of(scaled()), Given.of(aevb.Dataset("own", GREY))
    assert bytes_.after(floats).scale == 1 / 255  # floats say nothing of whole numbers
    assert floats.after(bytes_).scale == 1 / 255
    assert bytes_.after(Given.of(aevb.Dataset("own", BINARY))).scale == 1
