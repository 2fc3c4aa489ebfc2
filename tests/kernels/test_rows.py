"""Row weights and scale factors."""

from __future__ import annotations

import numpy as np

from aevb_engine.kernels.rows import add, scale, weigh, weighted_total

X = np.random.default_rng(3).standard_normal((4, 3))


def test_scale() -> None:
    y = np.full_like(X, np.nan)
    scale(np, X, 0.5, y)
    assert (y == X / 2).all()
    scale(np, y, 4.0, y)  # in place
    assert (y == 2 * X).all()


def test_weigh() -> None:
    weight = np.array([1.0, -2.0, 0.0, 0.5])
    y = np.full_like(X, np.nan)
    weigh(np, weight, X, y)
    assert (y == np.diag(weight) @ X).all()


def test_add() -> None:
    y = X.copy()
    add(np, X, y)
    assert (y == 2 * X).all()


def test_weighted_total() -> None:
    weight = np.array([1.0, -2.0, 0.0, 0.5])
    total = np.full(1, np.nan)
    weighted_total(np, weight, X, np.empty(3), total)
    np.testing.assert_allclose(total, [(weight[:, None] * X).sum()], rtol=1e-14)
