"""Arrays between guard bands: whatever a kernel writes outside its array is seen."""

from __future__ import annotations

import math
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

_SEEDS = count()
BAND = 64  # elements on either side
PAD = 3  # elements between the rows of a strided view


class Guarded:
    """A copy of ``values`` inside a larger block; with ``strided`` its rows are apart, as in ``head[:, :Z]``."""

    def __init__(self, values: npt.ArrayLike, strided: bool = False) -> None:
        values = np.asarray(values)
        shape = values.shape
        held = (*shape[:-1], shape[-1] + PAD) if strided and shape else shape
        self.block = np.empty(math.prod(held) + 2 * BAND, values.dtype)
        # Every array has bytes of its own: copying one array's band into another's is seen.
        self._band = np.frombuffer(np.random.default_rng(next(_SEEDS)).bytes(self.block.nbytes), np.uint8)
        self.block.view(np.uint8)[...] = self._band
        self._inside = np.zeros(self.block.shape, bool)
        cut = tuple(slice(0, n) for n in shape)
        self.array = self.block[BAND : self.block.size - BAND].reshape(held)[cut]
        self._inside[BAND : self.block.size - BAND].reshape(held)[cut] = True
        self.array[...] = values

    def check(self, what: str) -> None:
        outside = np.repeat(~self._inside, self.block.itemsize)
        same = self.block.view(np.uint8)[outside] == self._band[outside]
        assert same.all(), f"{what}: written outside the array"


def close(actual: Any, expected: Any, dtype: Any, what: str, terms: int = 1) -> None:
    """Equal to rounding: ``terms`` is how many numbers each value is a sum of."""
    expected = np.asarray(expected, np.float64)
    unit = 4e-6 if np.dtype(dtype) == np.float32 else 1e-13
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=4 * unit, atol=unit * scale * math.sqrt(terms), err_msg=what)
