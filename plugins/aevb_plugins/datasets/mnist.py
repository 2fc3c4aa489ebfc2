"""MNIST: 60000 + 10000 handwritten digits of 28 x 28 grey pixels (LeCun, Cortes & Burges)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from aevb_engine.data.binarize import binarize_draw, binarize_threshold
from aevb_engine.data.dataset import Binarize, DataRequest, Dataset
from aevb_engine.data.files import RemoteFile, content
from aevb_engine.data.gunzip import MAGIC, gunzip
from aevb_engine.errors import DataError, UsageError
from aevb_plugins.datasets.idx import read_idx
from aevb_plugins.datasets.pixels import scale_fields

Array = npt.NDArray[Any]

SIDE = 28
TRAIN, TEST = 60_000, 10_000
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


def _plain(size: int, data: bytes) -> bytes:
    return gunzip(data, size) if data[:2] == MAGIC else data


def _file(stem: str, kind: str, sha256: str, size: int) -> RemoteFile:
    dashed, dotted = f"{stem}-{kind}", f"{stem}.{kind}"
    return RemoteFile(
        folder="mnist",
        names=(f"{dashed}.gz", dashed, f"{dotted}.gz", dotted),
        urls=tuple(f"{mirror}{dashed}.gz" for mirror in MIRRORS),
        sha256=sha256,
        size=size,
        decode=partial(_plain, size),
        others=("MNIST/raw", "MNIST", "raw"),  # torchvision's
    )


TRAIN_IMAGES = _file(
    "train-images",
    "idx3-ubyte",
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    16 + TRAIN * SIDE * SIDE,
)
TRAIN_LABELS = _file(
    "train-labels",
    "idx1-ubyte",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    8 + TRAIN,
)
TEST_IMAGES = _file(
    "t10k-images",
    "idx3-ubyte",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    16 + TEST * SIDE * SIDE,
)
TEST_LABELS = _file(
    "t10k-labels", "idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 8 + TEST
)


class Mnist:
    """The original images, binarized as asked: threshold, static, dynamic, or grey (none).

    Rows are uint8: 0/1 when binarized, intensities 0..255 when grey or (training rows) dynamic. Static draws
    and the test rows of dynamic depend on the seed alone.
    """

    summary: ClassVar[str] = "28 x 28 handwritten digits, 60000 + 10000, labelled; found or downloaded (11 MB)"
    decoder: ClassVar[str] = "bernoulli"

    def load(self, request: DataRequest) -> Dataset:
        """Read or download the four files; by default threshold under a binary decoder, else none."""
        binarize = request.binarize or ("threshold" if request.binary_support else "none")
        if binarize == "none" and request.binary_support:
            raise DataError(
                "--binarize none: mnist is grey, the decoder needs 0 and 1; give threshold, static or dynamic"
            )
        if binarize != "none" and request.scale is not None:
            raise UsageError(
                f"--scale {request.scale}: mnist is binary under --binarize {binarize}; leave out one of them"
            )
        found = content(TRAIN_IMAGES, request)
        source = str(found.path)
        train = _policy(read_idx(found.data, (TRAIN, SIDE, SIDE)), "train", binarize, request.seed)
        del found  # the grey images are freed before the test images come
        grey = read_idx(content(TEST_IMAGES, request).data, (TEST, SIDE, SIDE))
        test = _policy(grey, "test", binarize, request.seed)
        dataset = Dataset(
            name="mnist",
            train=train,
            test=test,
            dynamic=binarize == "dynamic",
            binarize=binarize,
            image_shape=(SIDE, SIDE),
            train_labels=read_idx(content(TRAIN_LABELS, request).data, (TRAIN,)),
            test_labels=read_idx(content(TEST_LABELS, request).data, (TEST,)),
            info={
                "source": source,
                "sha256": TRAIN_IMAGES.sha256,
                "sha256_test": TEST_IMAGES.sha256,
                "binarize": binarize,
            },
        )
        if binarize == "none":
            return replace(dataset, **scale_fields(request.scale or "unit", SIDE * SIDE))
        return dataset


def _policy(images: Array, part: str, binarize: Binarize, seed: int) -> Array:
    """Images (N, 28, 28) as the rows (N, 784) of one part under a binarization policy; uint8."""
    rows: npt.NDArray[np.uint8] = images.reshape(len(images), -1)
    if binarize == "threshold":
        return binarize_threshold(rows)
    if binarize == "static" or (binarize == "dynamic" and part == "test"):
        return binarize_draw(seed, f"binarize {part}", rows)
    return rows
