"""Frey Face: the split, the pixels, and the change of variables between the scales."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from aevb_engine.data.dataset import DataRequest
from aevb_engine.errors import DataError, UsageError
from aevb_plugins.datasets.freyfaces import FILE, FreyFaces


@pytest.mark.data
def test_frames(original_data: Path) -> None:
    faces = FreyFaces().load(DataRequest(data_dir=original_data, offline=True))
    assert faces.train.shape == (1500, 560)
    assert faces.test.shape == (465, 560)  # frame 1500 is the first of them: none is dropped
    assert faces.train.dtype == np.uint8
    frames = np.concatenate([faces.train, faces.test])
    assert (frames.min(), frames.max()) == (8, 238)
    assert hashlib.sha256(frames.tobytes()).hexdigest().startswith("2438ba4f0d2a")
    assert faces.image_shape == (28, 20)
    assert faces.contiguous
    assert faces.info["binarize"] == "none"
    assert faces.info["sha256"] == FILE.sha256


@pytest.mark.data
def test_scales_are_one_density_in_two_units(original_data: Path) -> None:
    unit = FreyFaces().load(DataRequest(data_dir=original_data))
    raw = FreyFaces().load(DataRequest(data_dir=original_data, scale="raw"))
    assert unit.scale == 1 / 255
    assert raw.scale == 1.0
    assert unit.log_variance_unit == 0
    assert raw.log_variance_unit == pytest.approx(2 * np.log(255))
    assert unit.other_scale == ("raw", pytest.approx(-3103.1, abs=0.05))
    assert raw.other_scale == ("unit", pytest.approx(3103.1, abs=0.05))
    # a normal density fitted on either scale, converted to the other
    found = {}
    for data in (unit, raw):
        x = data.test[:5].astype(float) * data.scale
        mean, var = 0.5 * 255 * data.scale, (0.2 * 255 * data.scale) ** 2
        found[data.scale] = np.sum(-0.5 * np.log(2 * np.pi * var) - (x - mean) ** 2 / (2 * var), axis=1)
        assert data.other_scale is not None
    assert np.allclose(found[1 / 255] + unit.other_scale[1], found[1.0])
    assert np.allclose(found[1.0] + raw.other_scale[1], found[1 / 255])


@pytest.mark.parametrize(
    ("request_", "error", "why"),
    [
        (
            DataRequest(binarize="threshold"),
            UsageError,
            "--binarize threshold: freyfaces is grey; leave the option out",
        ),
        (DataRequest(binary_support=True), DataError, "freyfaces is grey.*--decoder gaussian"),
        (DataRequest(offline=True), DataError, "--offline.*frey_rawface.mat"),
    ],
)
def test_refused(request_: DataRequest, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        FreyFaces().load(request_)


def test_mirrors() -> None:
    assert len(FILE.urls) >= 2
    assert all(url.startswith("https://") for url in FILE.urls)
