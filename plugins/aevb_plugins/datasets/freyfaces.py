"""Frey Face: 1965 frames of 28 x 20 grey pixels of one face on video (Brendan Frey, Sam Roweis)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from aevb_engine.data.dataset import DataRequest, Dataset
from aevb_engine.data.files import RemoteFile, content
from aevb_plugins.datasets.checks import no_binarize, no_binary_decoder
from aevb_plugins.datasets.matlab import read_matrix
from aevb_plugins.datasets.pixels import scale_fields

ROWS, COLUMNS = 28, 20
FRAMES, TRAIN = 1965, 1500
DIM = ROWS * COLUMNS


def _frames(data: bytes) -> bytes:
    """The frames one after another, a row-major image each: the columns of the matrix in order."""
    return read_matrix(data, "ff", (DIM, FRAMES)).tobytes(order="F")


FILE = RemoteFile(
    folder="frey",
    names=("frey_rawface.mat",),
    urls=(
        "https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
        "https://web.archive.org/web/2020id_/https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
    ),
    sha256="2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78",
    size=FRAMES * DIM,
    decode=_frames,
)


class FreyFaces:
    """Frames 0..1499 for training, the last 465 held out; uint8, unit scale unless raw is asked for."""

    summary: ClassVar[str] = "28 x 20 grey video frames of one face, 1500 + 465; found or downloaded (1 MB)"
    decoder: ClassVar[str] = "gaussian"

    def load(self, request: DataRequest) -> Dataset:
        """Read or download the file."""
        no_binarize("freyfaces", "grey", request)
        no_binary_decoder("freyfaces", "grey", request)
        found = content(FILE, request)
        frames = np.frombuffer(found.data, dtype=np.uint8).reshape(FRAMES, DIM)
        return Dataset(
            name="freyfaces",
            train=frames[:TRAIN],
            test=frames[TRAIN:],
            image_shape=(ROWS, COLUMNS),
            contiguous=True,
            info={"source": str(found.path), "sha256": FILE.sha256, "binarize": "none"},
            **scale_fields(request.scale or "unit", DIM),
        )
