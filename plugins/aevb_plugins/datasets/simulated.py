"""The simulated data of Lin & Xu (2018), section 6: independent coin tosses and standard normals."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from aevb_engine.data.dataset import DataRequest, Dataset
from aevb_engine.data.draws import normal, words
from aevb_plugins.datasets.checks import no_binarize, no_binary_decoder, no_scale, positive

Array = npt.NDArray[Any]


class _Simulated:
    """What both simulated sets share: N training rows, M fresh rows held out, D columns."""

    name: ClassVar[str]
    kind: ClassVar[str]

    def __init__(self, *, train: int = 1000, test: int = 1000, dim: int = 50) -> None:
        self.train = positive(self.name, "train", train)
        self.test = positive(self.name, "test", test)
        self.dim = positive(self.name, "dim", dim, most=100_000)

    def check(self, request: DataRequest) -> None:
        """Refuse a request that these data cannot serve."""

    def draw(self, seed: int, part: str, rows: int) -> Array:
        """(rows, D) fresh rows of one part."""
        raise NotImplementedError

    def log_prob(self, x: Array) -> Array:
        """Exact log p(x) of rows (B, D), in nats, float64 (B,)."""
        raise NotImplementedError

    def load(self, request: DataRequest) -> Dataset:
        """Draw both parts from the seed; nothing is read or downloaded."""
        no_binarize(self.name, self.kind, request)
        no_scale(self.name, self.kind, request)
        self.check(request)
        return Dataset(
            name=self.name,
            train=self.draw(request.seed, "train", self.train),
            test=self.draw(request.seed, "test", self.test),
            true_log_prob=self.log_prob,
            info={"source": "drawn from the seed (Lin & Xu 2018, section 6)", "seed": request.seed},
        )


class SimulatedBinary(_Simulated):
    """Independent Bernoulli(1/2) values, uint8 0/1: log p(x) = -D ln 2."""

    summary = "independent coin tosses [1000, 50] (Lin & Xu 2018, section 6); log p(x) is known"
    decoder: ClassVar[str] = "bernoulli"
    name = "simulated-binary"
    kind = "already binary"

    def draw(self, seed: int, part: str, rows: int) -> Array:
        """(rows, D) uint8 coin tosses: the top bits of raw random words."""
        return (words(seed, f"{self.name} {part}", 0, rows, self.dim) >> np.uint32(31)).astype(np.uint8)

    def log_prob(self, x: Array) -> Array:
        """-D ln 2 for every row, in nats."""
        return np.full(len(x), -x.shape[1] * math.log(2.0))


class SimulatedNormal(_Simulated):
    """Independent standard normal values, float32: log p(x) = -(D ln 2 pi + |x|^2) / 2."""

    summary = "independent standard normals [1000, 50] (Lin & Xu 2018, section 6); log p(x) is known"
    decoder: ClassVar[str] = "gaussian"
    name = "simulated-normal"
    kind = "real-valued"

    def check(self, request: DataRequest) -> None:
        """Refuse a decoder of 0/1 data."""
        no_binary_decoder(self.name, self.kind, request)

    def draw(self, seed: int, part: str, rows: int) -> Array:
        """(rows, D) float32 standard normals."""
        return normal(seed, f"{self.name} {part}", 0, rows, self.dim)

    def log_prob(self, x: Array) -> Array:
        """The standard normal log-density of each row, in nats."""
        squares = np.sum(np.square(x, dtype=np.float64), axis=1)
        result: Array = -0.5 * (squares + x.shape[1] * math.log(2.0 * math.pi))
        return result
