"""Threshold and Bernoulli draws of grey pixels."""

from __future__ import annotations

import hashlib

import numpy as np

from aevb_engine.data.binarize import binarize_draw, binarize_threshold


def ramp(rows: int) -> np.ndarray:
    """Every intensity in its own column."""
    return np.tile(np.arange(256, dtype=np.uint8), (rows, 1))


def test_threshold_is_at_one_half() -> None:
    binary = binarize_threshold(ramp(2))
    assert binary.dtype == np.uint8
    assert np.array_equal(binary, (ramp(2) / 255 > 0.5).astype(np.uint8))
    assert binary[0, 127] == 0
    assert binary[0, 128] == 1


def test_frequency_is_the_intensity() -> None:
    rows = 20_000
    binary = binarize_draw(3, "binarize train", ramp(rows))
    assert binary.dtype == np.uint8
    assert set(np.unique(binary)) == {0, 1}
    p = np.arange(256) / 255
    error = binary.mean(axis=0) - p
    assert np.all(np.abs(error) <= 5 * np.sqrt(p * (1 - p) / rows))
    z = error[1:-1] / np.sqrt(p * (1 - p) / rows)[1:-1]
    assert 0.8 < z.std() < 1.2  # as spread as independent draws are


def test_black_is_never_one_and_white_always() -> None:
    assert binarize_draw(1, "s", np.zeros((3000, 784), np.uint8)).max() == 0
    assert binarize_draw(1, "s", np.full((3000, 784), 255, np.uint8)).min() == 1


def test_pixels_and_rows_are_independent() -> None:
    binary = binarize_draw(1, "s", np.full((4000, 64), 128, np.uint8)).astype(float)
    centred = binary - binary.mean(axis=0)
    between = np.corrcoef(centred.T)[np.triu_indices(64, 1)]
    assert np.abs(between).max() < 5.5 / np.sqrt(4000)
    along = (centred[1:] * centred[:-1]).mean() / centred.var()
    assert abs(along) < 5 / np.sqrt(4000 * 64)


def test_draw_is_a_function_of_seed_stream_and_row() -> None:
    images = ramp(3000)
    first = binarize_draw(1, "binarize train", images)
    assert np.array_equal(first, binarize_draw(1, "binarize train", images))
    assert np.array_equal(first[1500:1600], binarize_draw(1, "binarize train", images[1500:1600], row0=1500))
    assert not np.array_equal(first, binarize_draw(2, "binarize train", images))
    assert not np.array_equal(first, binarize_draw(1, "binarize test", images))


def test_the_draw_never_changes() -> None:
    digest = hashlib.sha256(binarize_draw(1, "binarize train", ramp(100)).tobytes()).hexdigest()
    assert digest[:16] == "d1c1f51ff10c5c7d"


def test_odd_number_of_columns() -> None:
    grey = np.full((5000, 3), 51, np.uint8)
    assert np.all(np.abs(binarize_draw(1, "s", grey).mean(axis=0) - 0.2) < 5 * np.sqrt(0.16 / 5000))
