"""Rows into the batch, and dynamic binarization: exact frequencies of every intensity."""

from __future__ import annotations

import numpy as np
import pytest

from aevb_engine.kernels.gather import binarize, gather, gather_bernoulli

DATA = np.random.default_rng(17).integers(0, 256, (9, 6)).astype(np.uint8)
INDEX = np.array([8, 0, 3, 3])


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gather_converts_and_scales(dtype: type, scale: float) -> None:
    rows, x = np.empty((4, 6), np.uint8), np.full((4, 6), np.nan, dtype)
    gather(np, DATA, INDEX, scale, rows, x)
    np.testing.assert_array_equal(x, DATA[INDEX].astype(dtype) * dtype(scale))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_gather_straight_into_the_batch(scale: float) -> None:
    data, x = DATA.astype(np.float64), np.full((4, 6), np.nan)
    gather(np, data, INDEX, scale, x, x)
    np.testing.assert_array_equal(x, data[INDEX] * scale)


def test_binarize_frequencies_are_exact() -> None:
    """All 65536 words for each of 256 intensities: ones = ceil(65536 p / 255), none at 0 and all at 255."""
    words = np.arange(65536, dtype=np.uint16).view(np.uint32).reshape(1, -1)
    wide, ones = np.empty((1, 65536), np.uint32), np.empty((1, 65536), np.bool_)
    for p in range(256):
        intensity = np.full((1, 65536), p, np.uint8)
        binarize(np, intensity, words, wide, ones)
        count = int(ones.sum())
        assert count == -(-65536 * p // 255), f"intensity {p}"
        assert ones[0, :count].all()
    assert count == 65536


def test_gather_bernoulli_takes_the_words_of_its_own_pixels() -> None:
    rng = np.random.default_rng(18)
    words = rng.integers(0, 2**32, (4, 4), dtype=np.uint32)  # 8 halves for 6 pixels
    rows, wide = np.empty((4, 6), np.uint8), np.empty((4, 6), np.uint32)
    ones, x = np.empty((4, 6), np.bool_), np.full((4, 6), np.nan)
    gather_bernoulli(np, DATA, INDEX, words, rows, wide, ones, x)
    halves = np.stack([words & 0xFFFF, words >> 16], axis=-1).reshape(4, 8)[:, :6]
    expected = halves / 65536 < DATA[INDEX] / 255
    np.testing.assert_array_equal(x, expected.astype(float))
