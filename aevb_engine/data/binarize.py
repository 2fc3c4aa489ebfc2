"""From grey images to binary ones: the one place that carries out binarization policies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aevb_engine.data.draws import words

Images = npt.NDArray[np.uint8]

_CHUNK = 1024  # rows at a time: the random bits of a chunk of MNIST take 1.6 MB
# A pixel is one when its 16 random bits are <= its limit: probability ceil(2^16 i / 255) / 2^16 for i > 0.
_LIMIT = (np.maximum((np.arange(256) * 2**16 + 254) // 255, 1) - 1).astype(np.uint16)


def binarize_threshold(images: Images) -> Images:
    """1 where the intensity is above one half (127.5 of 255), else 0; uint8 (N, D)."""
    return (images > 127).view(np.uint8)


def binarize_draw(seed: int, stream: str, images: Images, row0: int = 0) -> Images:
    """One Bernoulli(intensity / 255) draw of each pixel; uint8 0/1 (N, D).

    Row k depends on (seed, stream, row0 + k) and its own pixels alone. The probability is exact to 2^-16:
    never one for intensity 0, always one for intensity 255.
    """
    rows, columns = images.shape
    out = np.empty((rows, columns), dtype=np.uint8)
    half = (columns + 1) // 2
    for start in range(0, rows, _CHUNK):
        block = images[start : start + _CHUNK]
        word = words(seed, stream, row0 + start, len(block), half)
        limit = _LIMIT[block]
        one = out[start : start + _CHUNK]
        # low halves of the words for the left columns, high ones for the right; the cast keeps the low bits
        one[:, :half] = word.astype(np.uint16) <= limit[:, :half]
        one[:, half:] = (word >> np.uint32(16)).astype(np.uint16)[:, : columns - half] <= limit[:, half:]
        one *= block > 0
    return out
