"""What a data set is, and what a data set plugin must offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy.typing as npt

from aevb_engine.errors import DataError

Array = npt.NDArray[Any]
Binarize = Literal["none", "threshold", "static", "dynamic"]
Scale = Literal["unit", "raw"]
# Called with (what, done, total or None) while a slow load goes on; bytes for downloads, images for drawing.
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class DataRequest:
    """How a user asked for a data set. None means: the data set's own default."""

    seed: int = 0
    data_dir: Path | None = None
    asked: str = "--data-dir"  # what gave data_dir, as errors call it
    offline: bool = False
    binarize: Binarize | None = None
    scale: Scale | None = None
    binary_support: bool = False  # the decoder accepts 0/1 only: grey data need a binarization policy
    progress: Progress | None = None


@dataclass(frozen=True)
class Dataset:
    """Rows of data, split into training and test part; a run needs both, ``VAE.fit`` the training rows alone.

    ``train`` (N, D) and ``test`` (M, D) are uint8 or float32; the model sees ``x = scale * row``. With
    ``dynamic`` the training rows are uint8 intensities 0..255 and each step draws x ~ Bernoulli(row / 255) anew,
    while ``test`` is already binary, one fixed draw from the seed. ``facts.sound`` looks at all of it.
    """

    name: str
    train: Array
    test: Array | None = None
    scale: float = 1.0
    dynamic: bool = False
    binarize: Binarize = "none"
    image_shape: tuple[int, int] | None = None
    train_labels: Array | None = None
    test_labels: Array | None = None
    factors: Mapping[str, Array] = field(default_factory=dict)  # known factors of the training rows, each (N,)
    contiguous: bool = False  # neighbouring rows are alike (video frames): validation must be one block
    # Log-variance of the data's unit: 0 for data in [0, 1], 2 ln 255 for the same data in 0..255.
    log_variance_unit: float = 0.0
    # Name of another scale and what to add to log p(x) in nats a data point to express it there.
    other_scale: tuple[str, float] | None = None
    # Exact log-density of fresh data (B, D) -> (B,) in nats, where the generating process is known.
    true_log_prob: Callable[[Array], Array] | None = None
    # Source, hashes, seed, binarization policy; stored with the run.
    info: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def unit_interval(self) -> bool:
        """Whether all rows, as the model sees them, lie in [0, 1]."""
        if self.dynamic:
            return True
        parts = [p for p in (self.train, self.test) if p is not None]
        low, high = min(float(p.min()) for p in parts), max(float(p.max()) for p in parts)
        return low >= 0 and high * self.scale <= 1

    @property
    def test_rows(self) -> Array:
        """The test part; DataError where there is none."""
        if self.test is None:
            raise DataError(f"'{self.name}' has no test rows; a run needs some")
        return self.test

    @property
    def train_scale(self) -> float:
        """What training rows are multiplied by to be the data, or where they are drawn from, the mean of the draws."""
        return 1 / 255 if self.dynamic else self.scale

    @property
    def dim(self) -> int:
        """Number of columns D of a data point."""
        return int(self.train.shape[1])


@runtime_checkable
class DatasetPlugin(Protocol):
    """A data set by name; its keyword-only parameters are the options ``-o dataset.KEY=VALUE``."""

    summary: ClassVar[str]
    decoder: ClassVar[str]  # the decoder used where none is asked for

    def load(self, request: DataRequest) -> Dataset:
        """Read, draw or download the data; raises DataError with the mend when that is impossible."""
        ...
