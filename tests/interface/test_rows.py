"""Rows in whatever form users have them; what are none ends in one line."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.errors import AevbError, DataError, UsageError

X = (np.random.default_rng(0).random((60, 20)) < 0.3).astype(np.uint8)


def made(**more: Any) -> aevb.VAE:
    return aevb.VAE(**{"hidden": 5, "batch_size": 20, "backend": "cpu", "threads": 1, "seed": 1, **more})


class Frame:
    """What is needed of a data frame."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def to_numpy(self) -> Any:
        return self.values

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Convertible:
    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if isinstance(self.values, Exception):
            raise self.values
        return np.asarray(self.values, dtype)


def theta(model: aevb.VAE) -> bytes:
    return bytes(model.model.parameters.theta.tobytes())


@pytest.mark.parametrize("form", [Frame, Convertible, np.ndarray.tolist, lambda x: x.reshape(60, 4, 5), np.float64])
def test_forms_of_rows(form: Any) -> None:
    expected = made().fit(X, steps=5)
    for data in (form(X), aevb.Dataset("own", form(X)), aevb.Dataset("own", form(X), form(X))):
        assert theta(made().fit(data, steps=5)) == theta(expected)
    assert expected.bound(form(X)) == expected.bound(X)


BAD = [
    (None, "None; rows"),
    ("", "''; rows|unknown dataset"),
    (b"rows", "b'rows'; rows"),
    (3, "int"),
    ([], r"shape \(0,\) is empty"),
    (np.zeros((0, 20)), r"shape \(0, 20\) is empty"),
    (np.zeros((20, 0)), r"shape \(20, 0\) is empty"),
    (np.zeros(20), r"one row is x\[None, :\]"),
    ([[1, 2], [3]], "rows of different lengths"),
    ([[1, None], [0, 1]], "type object"),
    (X.astype(object), "type object"),
    ([["a", "b"]], "type <U1"),
    (X.astype(complex), "type complex128"),
    (np.array([[datetime.date(2020, 1, 1)]]), "type object"),
    (np.array([["2020-01-01"]], "datetime64[D]"), "datetime64"),
    ({"a": 1}, "dict"),
    (object(), "object"),
    (Frame(np.array([["a", 1]], object)), "type object"),
    (Convertible(RuntimeError("on another\ndevice")), "Convertible that is no array: on another device"),
    (np.ma.masked_array(X, X > 0), "masked"),
    (aevb.Dataset("own", X), "give its train or its test"),
]


@pytest.mark.parametrize(("data", "words"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_are_no_rows(data: Any, words: str) -> None:
    model = made().fit(X, steps=1)
    uses = [model.bound, model.bounds, model.encode, model.reconstruct, model.log_likelihood, aevb.binarize]
    if not (data is None or isinstance(data, int)):  # else nothing is held out, or a fraction
        uses.append(lambda d: made().fit(X, steps=1, validation=d))
    if not isinstance(data, aevb.Dataset):
        uses += [made().fit, lambda d: made().fit(aevb.Dataset("own", d)), model.decode, model.draw, model.spread]
        if data is not None:
            uses.append(lambda d: made().fit(aevb.Dataset("own", X, d)))
    for use in uses:
        with pytest.raises((DataError, UsageError)) as caught:
            use(data)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=words):
        model.bound(data)


def test_intensities_that_are_drawn_anew_are_bytes() -> None:
    with pytest.raises(DataError, match="dynamic=True needs uint8"):
        made().fit(aevb.Dataset("own", X.astype(np.float32), dynamic=True))


@pytest.mark.parametrize("hidden", ["25", 25, np.int64(25), [25], (25,), np.array([25]), "25,", np.array(25)][:6])
def test_one_hidden_layer(hidden: Any) -> None:
    assert aevb.VAE(hidden=hidden).config.hidden == (25,)


@pytest.mark.parametrize("hidden", ["200,100", (200, 100), [200, 100], np.array([200, 100])])
def test_two_hidden_layers(hidden: Any) -> None:
    assert aevb.VAE(hidden=hidden).config.hidden == (200, 100)


@pytest.mark.parametrize("hidden", [(), [], "none", ""])
def test_no_hidden_layer(hidden: Any) -> None:
    assert aevb.VAE(hidden=hidden).config.hidden == ()


@pytest.mark.parametrize("hidden", [25.0, None, True, (True,), (2.5,), -1, 0, {3}, {3: 4}, "a", np.array([2.5]), [[3]]])
def test_what_are_no_widths(hidden: Any) -> None:
    with pytest.raises(UsageError, match=r"^hidden=") as caught:
        aevb.VAE(hidden=hidden)
    assert "\n" not in str(caught.value)


Z = np.zeros((3, 2))
MODEL = made().fit(X, steps=1)


@pytest.mark.parametrize(
    "act",
    [
        lambda: MODEL.sample(2.9),  # type: ignore[arg-type]
        lambda: MODEL.sample(0),
        lambda: MODEL.sample(True),
        lambda: MODEL.sample("3"),  # type: ignore[arg-type]
        lambda: MODEL.sample(None),  # type: ignore[arg-type]
        lambda: MODEL.sample(3, seed=-1),
        lambda: MODEL.sample(3, seed=1.5),  # type: ignore[arg-type]
        lambda: MODEL.draw(Z, seed="a"),  # type: ignore[arg-type]
        lambda: MODEL.bound(X, samples="3"),  # type: ignore[arg-type]
        lambda: MODEL.bound(X, samples=None),  # type: ignore[arg-type]
        lambda: MODEL.bound(X, objective=None),  # type: ignore[arg-type]
        lambda: MODEL.log_likelihood(X, samples=2.5),  # type: ignore[arg-type]
        lambda: MODEL.log_likelihood(X, method=None),  # type: ignore[arg-type]
        lambda: MODEL.log_likelihood(X, method="ais", temperatures=0),
        lambda: MODEL.fit(X, steps=2.5),  # type: ignore[arg-type]
        lambda: MODEL.fit(X, steps=True),
        lambda: MODEL.fit(X, epochs=None, steps="3"),  # type: ignore[arg-type]
        lambda: aevb.load(None),  # type: ignore[arg-type]
        lambda: MODEL.save(3),  # type: ignore[arg-type]
        lambda: made().fit("glyphs", data_dir=3),  # type: ignore[arg-type]
        lambda: aevb.dataset("glyphs", data_dir=3),  # type: ignore[arg-type]
        lambda: made(seed=None),
        lambda: made(batch_size=2.5),
        lambda: made(lr="fast"),
        lambda: aevb.dataset("glyphs", seed=None),  # type: ignore[arg-type]
        lambda: aevb.dataset(3),  # type: ignore[arg-type]
        lambda: aevb.dataset("glyphs", nothing=3),
        lambda: aevb.dataset("glyphs", binarize="x"),  # type: ignore[arg-type]
        lambda: aevb.binarize(X, how=None),  # type: ignore[arg-type]
    ],
)
def test_what_are_no_numbers(act: Any) -> None:
    with pytest.raises(UsageError) as caught:
        act()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, AevbError)
