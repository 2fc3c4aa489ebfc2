"""MNIST: its files, and what each binarization policy makes of them."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from aevb_engine.data.binarize import binarize_draw
from aevb_engine.data.dataset import Binarize, DataRequest, Dataset
from aevb_engine.errors import DataError, UsageError
from aevb_plugins.datasets.mnist import MIRRORS, TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, Mnist


def load(folder: Path, binarize: Binarize | None = None, seed: int = 1, **more: object) -> Dataset:
    request = DataRequest(seed=seed, data_dir=folder, offline=True, binarize=binarize, **more)  # type: ignore[arg-type]
    return Mnist().load(request)


@pytest.fixture(scope="module")
def grey(original_data: Path) -> Dataset:
    return load(original_data, "none")


@pytest.mark.data
def test_grey(grey: Dataset) -> None:
    assert grey.train.shape == (60000, 784)
    assert grey.test.shape == (10000, 784)
    assert grey.train.dtype == np.uint8
    assert (grey.train.min(), grey.train.max()) == (0, 255)
    assert grey.image_shape == (28, 28)
    assert not grey.dynamic
    assert grey.binarize == "none"
    assert grey.scale == 1 / 255
    assert grey.log_variance_unit == 0
    assert grey.other_scale is not None
    assert grey.other_scale[0] == "raw"
    assert grey.other_scale[1] == pytest.approx(-784 * np.log(255))
    assert np.bincount(grey.train_labels).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    assert np.bincount(grey.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert grey.info["binarize"] == "none"
    assert str(grey.info["sha256"]).startswith("ba891046e650")
    assert str(grey.info["source"]).endswith("train-images-idx3-ubyte.gz")


@pytest.mark.data
def test_raw(original_data: Path) -> None:
    raw = load(original_data, "none", scale="raw")
    assert raw.scale == 1.0
    assert raw.log_variance_unit == pytest.approx(2 * np.log(255))
    assert raw.other_scale == ("unit", pytest.approx(784 * np.log(255)))


@pytest.mark.data
def test_threshold_is_the_default_of_a_binary_decoder(original_data: Path, grey: Dataset) -> None:
    binary = load(original_data, binary_support=True)
    assert binary.binarize == "threshold"
    assert binary.scale == 1.0
    assert binary.other_scale is None
    assert binary.train.dtype == np.uint8
    assert np.array_equal(binary.train, grey.train > 127)
    assert np.array_equal(binary.test, grey.test > 127)
    assert load(original_data).binarize == "none"


@pytest.mark.data
def test_static_is_one_draw_of_both_parts(original_data: Path, grey: Dataset) -> None:
    drawn = load(original_data, "static")
    assert not drawn.dynamic
    assert drawn.info["binarize"] == "static"
    for part, intensity in ((drawn.train, grey.train), (drawn.test, grey.test)):
        assert part.max() == 1
        count = np.bincount(intensity.ravel(), minlength=256)
        ones = np.bincount(intensity[part == 1].ravel(), minlength=256)
        p = np.arange(256) / 255
        assert np.all(np.abs(ones - count * p) <= 5 * np.sqrt(count * p * (1 - p)))
        assert ones[0] == 0
        assert ones[255] == count[255]
    assert np.array_equal(drawn.test, binarize_draw(1, "binarize test", grey.test))
    assert np.array_equal(drawn.train[:500], binarize_draw(1, "binarize train", grey.train[:500]))
    again, other = load(original_data, "static"), load(original_data, "static", seed=2)
    assert np.array_equal(again.train, drawn.train)
    assert not np.array_equal(other.train, drawn.train)
    assert not np.array_equal(other.test, drawn.test)


@pytest.mark.data
def test_dynamic_keeps_intensities_and_fixes_the_test_set(original_data: Path, grey: Dataset) -> None:
    dynamic = load(original_data, "dynamic")
    assert dynamic.dynamic
    assert dynamic.scale == 1.0
    assert np.array_equal(dynamic.train, grey.train)
    assert dynamic.test.max() == 1
    assert np.array_equal(dynamic.test, load(original_data, "static").test)


@pytest.mark.data
def test_plain_files_and_dotted_names(original_data: Path, tmp_path: Path, grey: Dataset) -> None:
    for path in (original_data / "mnist").glob("*.gz"):
        shutil.copy(path, tmp_path)
    for old, new in (
        ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
        ("t10k-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"),
    ):
        packed = tmp_path / f"{old}.gz"
        (tmp_path / new).write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    plain = load(tmp_path, "none")
    assert np.array_equal(plain.train, grey.train)
    assert np.array_equal(plain.test_labels, grey.test_labels)


@pytest.mark.data
def test_damaged_file(original_data: Path, tmp_path: Path) -> None:
    shutil.copytree(original_data / "mnist", tmp_path / "mnist")
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.gz: gzip file cut short .* replace or remove"):
        load(tmp_path, "threshold")


@pytest.mark.parametrize(
    ("request_", "error", "why"),
    [
        (DataRequest(binarize="none", binary_support=True), DataError, "give threshold, static or dynamic"),
        (DataRequest(binarize="static", scale="raw"), UsageError, "--scale raw.*leave out one"),
        (DataRequest(binary_support=True, scale="unit"), UsageError, "--binarize threshold; leave out one"),
        (
            DataRequest(offline=True),
            DataError,
            "--offline.*put the file from https://.*train-images-idx3-ubyte.gz",
        ),
    ],
)
def test_refused(request_: DataRequest, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        Mnist().load(request_)


def test_mirrors() -> None:
    assert len(MIRRORS) >= 2
    for file in (TRAIN_IMAGES, TEST_IMAGES):
        assert len(file.urls) == len(MIRRORS)
        assert all(url.startswith("https://") and url.endswith("-idx3-ubyte.gz") for url in file.urls)


@pytest.mark.data
@pytest.mark.parametrize("sub", ["MNIST/raw", "MNIST", "raw", "."])
def test_the_folder_of_torchvision(original_data: Path, tmp_path: Path, sub: str) -> None:
    """Unpacked files below MNIST/raw, whichever of its folders is named."""
    folder = tmp_path / sub
    folder.mkdir(parents=True, exist_ok=True)
    for file in (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS):
        packed = next(path for path in file.places(original_data) if path.is_file())
        (folder / file.names[1]).write_bytes(file.decode(packed.read_bytes()))
    found = load(tmp_path)
    assert (found.train.shape, found.test.shape) == ((60000, 784), (10000, 784))
    assert found.info["source"] == str(folder / "train-images-idx3-ubyte")
