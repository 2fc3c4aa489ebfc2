"""Means, variances and a few rows of a data set's columns: what units and the decoder's start are chosen by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ENOUGH = 10_000  # rows, evenly spaced, for what need not be exact
FEW_ROWS = 500  # kept for likelihoods that mean and variance do not tell enough
CHUNK = 4096
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Columns:
    """Of rows (N, D) as the model reads them: ``mean``, ``variance`` (over N) and the ``largest`` magnitude (D,), a
    ``sample`` (n, D) of rows, all in float64, and the ``count`` N of rows."""

    mean: Array
    variance: Array
    largest: Array
    sample: Array
    count: int

    @staticmethod
    def of(rows: Array, scale: float = 1.0) -> Columns:
        """Of host rows (N, D), of which the model reads ``scale * row``."""
        dim = rows.shape[1]
        mean, variance, largest = np.zeros(dim), np.zeros(dim), np.zeros(dim)
        for lo in range(0, len(rows), CHUNK):
            part = _read(rows[lo : lo + CHUNK], scale)
            mean += part.sum(axis=0) / len(rows)
            np.maximum(largest, np.abs(part).max(axis=0), out=largest)
        for lo in range(0, len(rows), CHUNK):  # once more: no square of a large mean is taken
            part = _read(rows[lo : lo + CHUNK], scale) - mean
            variance += (part**2).sum(axis=0) / len(rows)
        sample = _read(rows[:: -(-len(rows) // FEW_ROWS)], scale)
        return Columns(mean, variance, largest, sample, len(rows))

    @property
    def spread(self) -> Array:
        """Standard deviations (D,); 0 where a column is constant but for rounding."""
        found = np.sqrt(self.variance)
        return np.where(found > 1e-12 * self.largest, found, 0.0)


def _read(rows: Array, scale: float) -> Array:
    """Pixels are scaled in float32, as in a step, so that bytes and the floats made of them give the same bits."""
    if rows.dtype == np.uint8:
        return (rows.astype(np.float32) * np.float32(scale)).astype(np.float64)
    return rows.astype(np.float64) * scale
