"""What a row means to a trained model: the unit that its training rows were given in, kept with the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.data.dataset import Dataset
from aevb_engine.errors import DataError

FAR = 10.0  # beyond which no row is in the unit of data within [-1, 1]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Given:
    """How training rows were given: later rows of an integer type are read like them.

    ``scale``: what rows of an integer type are multiplied by to be the data. Floats, and bool, are the data themselves.
    ``low``, ``high``: the least and the largest number of the training data, None where it is not known; ``whole``:
    whether those rows were of an integer type.
    """

    scale: float = 1.0
    low: float | None = None
    high: float | None = None
    whole: bool = False

    @staticmethod
    def of(dataset: Dataset) -> Given:
        """By the training rows, which have been checked."""
        if dataset.dynamic:  # draws of 0 and 1
            return Given(1.0, 0.0, 1.0)
        low, high = float(dataset.train.min()) * dataset.scale, float(dataset.train.max()) * dataset.scale
        return Given(float(dataset.scale), low, high, dataset.train.dtype.kind in "ui")

    def after(self, later: Given) -> Given:
        """Where training goes on with other rows: the last scale counts."""
        if self.low is None or self.high is None or later.low is None or later.high is None:
            return later
        scale = later.scale if later.whole or later.scale != 1 else self.scale
        return Given(scale, min(self.low, later.low), max(self.high, later.high), self.whole and later.whole)

    def of_rows(self, rows: Array) -> float:
        """What these rows are multiplied by to be the data."""
        return self.scale if rows.dtype.kind in "ui" else 1.0

    def check(self, low: float, high: float, what: str) -> None:
        """DataError where data between ``low`` and ``high`` cannot be in the unit of the training data.

        That can be told where those lie within [-1, 1], as pixels do: the values are far beyond.
        """
        if self.low is None or self.high is None or self.low < -1 or self.high > 1 or max(-low, high) <= FAR:
            return
        if self.scale != 1:
            mend = f"multiply floats by the scale {self.scale:.6g}, or give whole numbers as they were stored"
        else:
            mend = "divide them by 255" if low >= 0 and high <= 255 else "give rows in that unit, without outliers"
        raise DataError(
            f"{what}: values reach {high if high > -low else low:g}; "
            f"the model's training data lie between {self.low:g} and {self.high:g}: {mend}"
        )

    def remark(self, rows: Array) -> str | None:
        """A line on fractions where the training data were whole numbers: both may be pixels, in two units."""
        if not self.whole or self.scale != 1 or self.high is None or self.high <= FAR or rows.dtype.kind != "f":
            return None
        if not (rows.min() >= 0 and rows.max() <= 1 and (rows != np.floor(rows)).any()):
            return None
        return (
            f"the rows lie between 0 and 1, and the model's training data are whole numbers up to {self.high:g}: "
            "rows in another unit are to be multiplied first"
        )

    def meta(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"scale": self.scale, "low": self.low, "high": self.high, "whole": self.whole}

    @staticmethod
    def stored(meta: Mapping[str, Any] | None) -> Given:
        """From a checkpoint; nothing is known of older ones. KeyError, TypeError or ValueError for what is none."""
        if meta is None:
            return Given()
        low, high = (None if meta[name] is None else float(meta[name]) for name in ("low", "high"))
        scale = float(meta["scale"])
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"its scale {scale} is none")
        return Given(scale, low, high, bool(meta["whole"]))
