"""The noise that samples of p(x | z) are made of."""

from __future__ import annotations

import numpy as np

from aevb_engine.evaluation.apply import Draw


def test_numbers_of_two_kinds_and_places_are_independent() -> None:
    """A plugin may ask for normal(0) and uniform(0): from one pair of words they would be tied to each other."""
    draw = Draw(np, 3, 0, (4000, 4), np.float64)
    found = [draw.uniform(0), draw.uniform(1), draw.normal(0), draw.normal(1)]
    ranks = np.array([np.argsort(np.argsort(a.ravel())) for a in found], float)
    between = np.corrcoef(ranks)[np.triu_indices(4, 1)]
    assert np.abs(between).max() < 4.5 / np.sqrt(16000)
    squares = np.corrcoef(found[2].ravel() ** 2, found[0].ravel())[0, 1]  # Box-Muller takes the radius from one word
    assert abs(squares) < 4.5 / np.sqrt(16000)
