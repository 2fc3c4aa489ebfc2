"""Random numbers for making data, by row: the engine's noise, so the same for ever and on every platform."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aevb_engine.kernels.noise import Noise


def words(seed: int, stream: str, row0: int, rows: int, columns: int) -> npt.NDArray[np.uint32]:
    """(rows, columns) random 32-bit words of the rows row0, row0 + 1, ...; rows are independent."""
    out = np.empty((1, rows, columns + -columns % 4), dtype=np.uint32)
    Noise(np, seed, stream).words(0, row0, out)
    return out[0, :, :columns]


def uniform(seed: int, stream: str, row0: int, rows: int, columns: int) -> npt.NDArray[np.float32]:
    """(rows, columns) uniform numbers k / 2^24 in [0, 1)."""
    out = np.empty((1, rows, columns), dtype=np.float32)
    filled: npt.NDArray[np.float32] = out[0]
    Noise(np, seed, stream).uniform(0, row0, out)
    return filled


def normal(seed: int, stream: str, row0: int, rows: int, columns: int) -> npt.NDArray[np.float32]:
    """(rows, columns) standard normal numbers."""
    out = np.empty((1, rows, columns), dtype=np.float32)
    filled: npt.NDArray[np.float32] = out[0]
    Noise(np, seed, stream).normal(0, row0, out)
    return filled
