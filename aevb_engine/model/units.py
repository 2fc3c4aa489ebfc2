"""Units of data: the shift and the spread of each column by which a model reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.model.columns import Columns

FAR = 10.0  # a factor beyond which a mean or a spread is far from unit scale
SMALL = 0.01  # a usual spread below which it is, too
CHUNK = 4096
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Units:
    """``shift`` and ``spread`` (D,), float64: the model reads (x - shift) / spread."""

    shift: Array
    spread: Array

    @property
    def log_spread(self) -> float:
        """What log p of a row as the model reads it is above that of the row itself, in nats."""
        return float(np.log(self.spread).sum())

    def inward(self, x: Array, dtype: Any, scale: float = 1.0) -> Array:
        """Rows (N, D) as the model reads them, where ``scale * row`` are the data."""
        out = np.empty(x.shape, dtype)
        for lo in range(0, len(x), CHUNK):
            out[lo : lo + CHUNK] = (x[lo : lo + CHUNK].astype(np.float64) * scale - self.shift) / self.spread
        return out

    def outward(self, u: Array) -> Array:
        """Rows (N, D) in the data's own units, float64: next to a large mean float32 is coarse."""
        out: Array = u.astype(np.float64) * self.spread + self.shift
        return out


def units_of(columns: Columns, alike: bool) -> Units:
    """Mean and standard deviation of each column, or one of either for all where columns are ``alike``, as pixels are;
    a constant column has spread 1."""
    mean, spread = columns.mean, columns.spread
    if alike:
        centre = mean.mean()
        whole = np.sqrt((columns.variance + (mean - centre) ** 2).mean())
        mean, spread = np.full_like(mean, centre), np.full_like(mean, whole)
    return Units(mean, np.where(spread > 0, spread, 1.0))


def far_from_unit(columns: Columns) -> str | None:
    """What is far from unit scale, in words: columns with a mean or a spread beyond 10, or all of a small spread.

    None where a model reads the columns well as they are. Columns within [0, 1], such as pixels, may differ in spread.
    """
    spread = columns.spread
    moving = spread[spread > 0]
    if not len(moving):
        moving = np.ones(1)
    far = (np.abs(columns.mean) > FAR) | (spread > FAR)
    fractions = bool((columns.largest <= 1).all())
    small = np.median(moving) if fractions else moving.min()
    if not far.any() and small >= SMALL:
        return None
    ends = (columns.mean.min(), columns.mean.max(), moving.min(), moving.max())
    low, high, least, most = (f"{float(f'{end:.3g}'):,.10g}" for end in ends)
    return f"columns have means {low} to {high} and spreads {least} to {most}"
