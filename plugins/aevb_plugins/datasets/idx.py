"""The IDX format of MNIST: a big-endian header with the element type and sizes, then the elements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt


def read_idx(data: bytes, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The uint8 array of an IDX file, a read-only view of ``data``; ValueError unless of this ``shape``."""
    header = 4 + 4 * len(shape)
    if len(data) < header:
        raise ValueError(f"IDX file of {len(data)} bytes ends within its header")
    if data[:2] != b"\0\0" or data[2] != 0x08 or data[3] != len(shape):
        raise ValueError(f"IDX header begins with {data[:4].hex()}, expected 000008{len(shape):02x}")
    found = tuple(int.from_bytes(data[4 + 4 * k : 8 + 4 * k], "big") for k in range(len(shape)))
    if found != shape:
        raise ValueError(f"IDX file of shape {found}, expected {shape}")
    if len(data) != header + math.prod(shape):
        raise ValueError(f"IDX file with {len(data) - header} elements, its header says {math.prod(shape)}")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)
