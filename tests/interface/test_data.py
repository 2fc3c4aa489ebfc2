"""Data sets by name and binary rows, as a run has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.errors import DataError, UsageError


def theta(model: aevb.VAE) -> bytes:
    return bytes(model.model.parameters.theta.tobytes())


def made(**more: Any) -> aevb.VAE:
    return aevb.VAE(**{"hidden": 5, "batch_size": 20, "backend": "cpu", "threads": 1, "seed": 3, **more})


def test_a_data_set_is_what_fit_takes_by_its_name() -> None:
    options = {"train": 300, "test": 50}
    data = aevb.dataset("glyphs", seed=3, **options)
    assert isinstance(data, aevb.Dataset)
    assert data.train.shape == (300, 784)
    assert data.test is not None
    assert data.test.shape == (50, 784)
    assert data.image_shape == (28, 28)
    assert data.train_labels is not None
    named = made(dataset_options=options).fit("glyphs", steps=3)
    assert theta(made().fit(data, steps=3)) == theta(named)
    assert (aevb.dataset("glyphs", seed=4, **options).train != data.train).any()


def test_rows_are_what_the_model_sees() -> None:
    """Grey pixels on the unit scale, not bytes and a factor: training and evaluation on them agree with the name's."""
    options = {"train": 300, "test": 50}
    data = aevb.dataset("faces", seed=3, **options)
    assert data.train.dtype == np.float32
    assert 0 <= data.train.min() < data.train.max() <= 1
    one = made(decoder="gaussian", dataset_options=options).fit("faces", steps=3)
    other = made(decoder="gaussian").fit(data, steps=3)
    assert theta(one) == theta(other)
    assert data.scale == 1
    assert aevb.dataset("faces", scale="raw", **options).train.max() > 100


@pytest.mark.data
def test_grey_and_binary_mnist() -> None:
    places = [os.environ.get("AEVB_DATA_DIR", ""), str(Path(__file__).parents[3] / "shared" / "data")]
    folder = next((p for p in places if p and (Path(p) / "mnist").is_dir()), None)
    if folder is None:
        pytest.skip("the original data are not here")
    where: dict[str, Any] = {"data_dir": folder, "offline": True}
    assert set(np.unique(aevb.dataset("mnist", **where).train)) == {0, 1}
    grey = aevb.dataset("mnist", binarize="none", **where)
    assert grey.train.dtype == np.float32
    assert grey.train.max() == 1
    assert (aevb.binarize(grey.train) == aevb.dataset("mnist", **where).train).all()
    drawn = aevb.dataset("mnist", binarize="dynamic", **where)
    assert drawn.dynamic
    assert drawn.train.max() == 255


GREY = np.random.default_rng(0).integers(0, 256, (200, 30)).astype(np.uint8)


def test_thresholds() -> None:
    expected = (GREY > 127).astype(np.uint8)
    for x in (GREY, GREY.astype(np.int64), GREY / 255, (GREY / 255).astype(np.float32), GREY.tolist()):
        found = aevb.binarize(x)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)
    assert aevb.binarize(GREY.reshape(200, 5, 6)).shape == (200, 5, 6)
    np.testing.assert_array_equal(aevb.binarize(np.array([[0.5, 0.51]])), [[0, 1]])


def test_draws() -> None:
    once = aevb.binarize(GREY, "static", seed=5)
    np.testing.assert_array_equal(once, aevb.binarize(GREY / 255, "static", seed=5))
    np.testing.assert_array_equal(once[:50], aevb.binarize(GREY[:50], "static", seed=5))
    assert (once != aevb.binarize(GREY, "static", seed=6)).any()
    assert abs(once.mean() - (GREY / 255).mean()) < 5 * 0.5 / np.sqrt(GREY.size)
    assert set(np.unique(once)) == {0, 1}


@pytest.mark.parametrize("how", ["threshold", "static"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.int64, bool])
def test_binary_rows_stay(how: str, kind: Any) -> None:
    x = (GREY > 100).astype(kind)
    np.testing.assert_array_equal(aevb.binarize(x, how), x.astype(np.uint8))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (GREY.astype(float), "between 0 and 255; .* divide by 255"),
        (GREY.astype(int) * 2, "between 0 and 510"),
        (np.array([[-0.1, 0.5]]), "between -0.1"),
        (np.array([[np.nan, 0.5]]), "nan"),
    ],
)
def test_what_is_not_grey(x: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        aevb.binarize(x)


def test_other_ways() -> None:
    with pytest.raises(UsageError, match="how='dynamic'"):
        aevb.binarize(GREY, "dynamic")
