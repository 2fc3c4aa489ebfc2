"""Glyphs: binary, labelled, balanced, tellable apart, and the same for ever."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from aevb_engine.data.dataset import DataRequest, Dataset
from aevb_engine.errors import UsageError
from aevb_plugins.datasets.glyphs import Glyphs
from aevb_plugins.datasets.strokes import PEN_POINTS, SHAPES, pen_path


@pytest.fixture(scope="module")
def glyphs() -> Dataset:
    return Glyphs(train=4000, test=1000).load(DataRequest(seed=1, binary_support=True))


def test_binary_images_with_labels(glyphs: Dataset) -> None:
    assert glyphs.train.shape == (4000, 784)
    assert glyphs.test.shape == (1000, 784)
    assert glyphs.train.dtype == np.uint8
    assert set(np.unique(glyphs.train)) == {0, 1}
    assert glyphs.image_shape == (28, 28)
    assert glyphs.train_labels is not None
    assert glyphs.train_labels.shape == (4000,)
    ink = glyphs.train.mean(axis=1)
    assert ink.min() > 0.02
    assert ink.max() < 0.45


def test_classes_are_balanced(glyphs: Dataset) -> None:
    count = np.bincount(glyphs.train_labels, minlength=10)
    assert np.all(np.abs(count - 400) < 5 * np.sqrt(4000 * 0.09))


def test_nothing_is_cut_off(glyphs: Dataset) -> None:
    images = glyphs.train.reshape(-1, 28, 28)
    border = images[:, [0, -1], :].sum() + images[:, :, [0, -1]].sum()
    assert border / len(images) < 0.2


def test_classes_can_be_told_apart(glyphs: Dataset) -> None:
    train = glyphs.train.astype(np.float64)
    means = np.stack([train[glyphs.train_labels == digit].mean(axis=0) for digit in range(10)])
    scores = glyphs.test @ means.T - 0.5 * np.sum(means**2, axis=1)
    right = scores.argmax(axis=1) == glyphs.test_labels
    assert right.mean() > 0.7
    for digit in range(10):
        assert right[glyphs.test_labels == digit].mean() > 0.5


def test_images_vary(glyphs: Dataset) -> None:
    both = np.concatenate([glyphs.train, glyphs.test])
    assert len(np.unique(both, axis=0)) == len(both)  # no image twice, none of the test set in training
    for digit in range(10):
        assert glyphs.train[glyphs.train_labels == digit].std(axis=0).max() > 0.3


def test_same_seed_same_images_and_a_larger_set_begins_with_them(glyphs: Dataset) -> None:
    fewer = Glyphs(train=200, test=130).load(DataRequest(seed=1))
    assert np.array_equal(fewer.train, glyphs.train[:200])
    assert np.array_equal(fewer.train_labels, glyphs.train_labels[:200])
    assert np.array_equal(fewer.test, glyphs.test[:130])
    other = Glyphs(train=200, test=130).load(DataRequest(seed=2))
    assert not np.array_equal(other.train, fewer.train)


@pytest.mark.parametrize(("variation", "digest"), [(1.0, "0c8aba914ab86caa"), (0.5, "bd7a8b1e43c0f214")])
def test_the_images_never_change(variation: float, digest: str) -> None:
    made = Glyphs(train=500, test=1, variation=variation).load(DataRequest(seed=1))
    assert hashlib.sha256(made.train.tobytes()).hexdigest()[:16] == digest


def test_less_variation_is_less_of_everything() -> None:
    """At 0 a digit has one drawing for each of its shapes; in between images differ less than at 1."""
    sets = {v: Glyphs(train=1000, test=1, variation=v).load(DataRequest(seed=1)) for v in (0.0, 0.5, 1.0)}
    assert len(np.unique(sets[0.0].train, axis=0)) == len(SHAPES)
    spread = [sets[v].train[sets[v].train_labels == 3].std(axis=0).mean() for v in (0.0, 0.5, 1.0)]
    assert spread[0] < spread[1] < spread[2]
    assert all(np.array_equal(sets[v].train_labels, sets[1.0].train_labels) for v in sets)


def test_progress() -> None:
    calls: list[tuple[str, int, int | None]] = []
    Glyphs(train=300, test=10).load(DataRequest(progress=lambda *call: calls.append(call)))
    assert calls[-2:] == [("drawing train glyphs", 300, 300), ("drawing test glyphs", 10, 10)]


@pytest.mark.parametrize("shape", SHAPES)
def test_pen_passes_through_the_control_points(shape: object) -> None:
    weights, place = pen_path(shape)  # type: ignore[arg-type]
    assert weights.shape[0] == place.shape[0] == PEN_POINTS
    assert np.allclose(weights.sum(axis=1), 1)  # moving all points moves the curve
    points = np.zeros((weights.shape[1], 2))
    points[: len(shape.points)] = shape.points  # type: ignore[attr-defined]
    path = weights @ points
    used = {index for stroke in shape.strokes for index in stroke}  # type: ignore[attr-defined]
    assert used == set(range(len(shape.points)))  # type: ignore[attr-defined]
    for index in used:
        assert np.min(np.hypot(*(path - points[index]).T)) < 0.06


def test_options_and_requests_are_checked() -> None:
    with pytest.raises(UsageError, match=r"dataset\.train=0: glyphs needs a whole number from 1"):
        Glyphs(train=0)
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match=r"dataset\.variation=.*from 0 to 1"):
            Glyphs(variation=bad)
    with pytest.raises(UsageError, match=r"dataset\.test=-5"):
        Glyphs(test=-5)
    with pytest.raises(UsageError, match="--binarize dynamic: glyphs is already binary; leave the option out"):
        Glyphs(train=1, test=1).load(DataRequest(binarize="dynamic"))
    with pytest.raises(UsageError, match="--scale unit: glyphs is already binary"):
        Glyphs(train=1, test=1).load(DataRequest(scale="unit"))
