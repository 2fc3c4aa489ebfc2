"""Faces: grey images in which each known factor is visible."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from aevb_engine.data.dataset import DataRequest, Dataset
from aevb_engine.errors import DataError, UsageError
from aevb_plugins.datasets.faces import FACTORS, Faces, paint


@pytest.fixture(scope="module")
def faces() -> Dataset:
    return Faces(train=1500, test=300).load(DataRequest(seed=1))


def test_grey_images(faces: Dataset) -> None:
    assert faces.train.shape == (1500, 560)
    assert faces.test.shape == (300, 560)
    assert faces.train.dtype == np.uint8
    assert faces.train.max() - faces.train.min() > 200
    assert faces.image_shape == (28, 20)
    assert not faces.contiguous
    assert faces.scale == 1 / 255
    assert faces.other_scale == ("raw", pytest.approx(-3103.1, abs=0.05))
    assert faces.train.std(axis=0).min() > 1  # no pixel is constant: a density on it stays finite
    raw = Faces(train=5, test=5).load(DataRequest(seed=1, scale="raw"))
    assert raw.scale == 1.0
    assert np.array_equal(raw.train, faces.train[:5])


def test_factors_are_uniform_and_independent(faces: Dataset) -> None:
    assert tuple(faces.factors) == FACTORS
    values = np.stack([faces.factors[name] for name in FACTORS])
    assert values.shape == (5, 1500)
    assert np.abs(values).max() <= 1
    assert np.allclose(values.std(axis=1), 1 / np.sqrt(3), atol=0.04)
    between = np.corrcoef(values)[np.triu_indices(5, 1)]
    assert np.abs(between).max() < 5 / np.sqrt(1500)


def test_each_factor_can_be_read_from_the_pixels(faces: Dataset) -> None:
    x = np.c_[faces.train / 255, np.ones(1500)]
    fit, held = slice(0, 1000), slice(1000, 1500)
    for name in FACTORS:
        y = faces.factors[name].astype(float)
        gram = x[fit].T @ x[fit] + np.eye(561)
        weights = np.linalg.solve(gram, x[fit].T @ y[fit])
        assert np.corrcoef(x[held] @ weights, y[held])[0, 1] > 0.8, name


def test_factors_do_what_their_names_say() -> None:
    def face(**factors: float) -> np.ndarray:
        return paint(np.array([[factors.get(name, 0.0) for name in FACTORS]], dtype=np.float32))[0]

    # without turn and light the face is symmetric, up to the parting of the hair
    assert np.allclose(face()[12:], face()[12:, ::-1], atol=1e-5)
    # turning and lighting the other way are mirror images, below the hair
    assert np.allclose(face(turn=1)[14:], face(turn=-1)[14:, ::-1], atol=1e-4)
    assert np.allclose(face(light=0.7)[14:], face(light=-0.7)[14:, ::-1], atol=1e-4)
    assert face(light=1)[:, 10:].mean() > face(light=-1)[:, 10:].mean() + 0.05
    # smile and gaze change their own part of the face
    rows = np.flatnonzero(np.abs(face(smile=1) - face(smile=-1)).max(axis=1) > 0.02)
    assert rows.min() >= 14
    rows = np.flatnonzero(np.abs(face(gaze=1) - face(gaze=-1)).max(axis=1) > 0.02)
    assert 9 <= rows.min() <= rows.max() <= 15


def test_faces_change_smoothly_with_each_factor() -> None:
    for k in range(5):
        factors = np.zeros((401, 5), dtype=np.float32)
        factors[:, k] = np.linspace(-1, 1, 401)
        assert np.abs(np.diff(paint(factors), axis=0)).max() < 0.05


def test_same_seed_same_faces_and_a_larger_set_begins_with_them(faces: Dataset) -> None:
    fewer = Faces(train=150, test=20).load(DataRequest(seed=1))
    assert np.array_equal(fewer.train, faces.train[:150])
    assert np.array_equal(fewer.test, faces.test[:20])
    assert np.array_equal(fewer.factors["smile"], faces.factors["smile"][:150])
    assert not np.array_equal(fewer.train[:20], fewer.test)
    assert not np.array_equal(Faces(train=150, test=20).load(DataRequest(seed=2)).train, fewer.train)


def test_the_images_never_change(faces: Dataset) -> None:
    assert hashlib.sha256(faces.train[:300].tobytes()).hexdigest()[:16] == "b66394989fd34e75"


def test_progress() -> None:
    calls: list[tuple[str, int, int | None]] = []
    Faces(train=200, test=10).load(DataRequest(progress=lambda *call: calls.append(call)))
    assert calls[-2:] == [("drawing train faces", 200, 200), ("drawing test faces", 10, 10)]


def test_options_and_requests_are_checked() -> None:
    with pytest.raises(UsageError, match=r"dataset\.train=-1: faces needs a whole number from 1"):
        Faces(train=-1)
    with pytest.raises(UsageError, match="--binarize static: faces is grey; leave the option out"):
        Faces(train=1, test=1).load(DataRequest(binarize="static"))
    with pytest.raises(DataError, match=r"faces is grey.*--decoder gaussian"):
        Faces(train=1, test=1).load(DataRequest(binary_support=True))
