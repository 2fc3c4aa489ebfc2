"""Data in units of their own: the density is that of the data, by change of variables, on every path."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from aevb_engine.errors import UsageError
from aevb_engine.model.columns import Columns
from aevb_engine.model.standardized import Standardized
from aevb_engine.model.units import Units, far_from_unit, units_of
from aevb_engine.testing import check_likelihood

UNITS = Units(np.array([0.0, 6.0, 305.0, 5010.0]), np.array([0.1, 1.0, 30.0, 1000.0]))
RNG = np.random.default_rng(3)
X = RNG.normal(UNITS.shift, UNITS.spread, (50, 4))


@pytest.mark.parametrize("name", ["laplace", "scalar", "gaussian linear affine -7", "gaussian linear per_dim none"])
def test_a_change_of_variables(name: str, make_likelihood: Any) -> None:
    """log p(x) = log p(u) - sum log spread; gradients by the heads are those at u."""
    inner = make_likelihood(name)
    outer = Standardized(inner, UNITS)
    u = UNITS.inward(X, np.float64)[:, None]
    shapes = [(50, 1, 4) if h.source == "affine" else (1, 1, 1 if h.source == "scalar" else 4) for h in inner.heads]
    heads = [RNG.normal(size=shape) for shape in shapes]
    results = []
    for likelihood in (inner, outer):
        scratch = [np.empty((50, 1, 4)) for _ in range(likelihood.scratch)]
        logp, alone = np.empty((50, 1)), np.empty((50, 1))
        dheads = [np.empty((50, 1, 4)) for _ in inner.heads]
        likelihood.log_prob_and_backward(np, u, *heads, logp=logp, dheads=dheads, scratch=scratch)
        likelihood.log_prob(np, u, *heads, logp=alone, scratch=scratch)
        np.testing.assert_allclose(alone, logp, rtol=1e-12)
        results.append((logp, dheads))
    (plain, slopes), (shifted, same) = results
    np.testing.assert_allclose(shifted, plain - np.log(UNITS.spread).sum(), rtol=1e-12)
    assert all(np.array_equal(a, b) for a, b in zip(slopes, same, strict=True))


@pytest.mark.parametrize("name", ["laplace", "gaussian linear affine -7"])
def test_the_numbers_of_a_compiled_loop(name: str, make_likelihood: Any) -> None:
    """The sum over columns of the scalar form, which carries a column's share of the constant."""
    inner = make_likelihood(name)
    f, g = (each.scalar(np.exp, np.log1p) for each in (inner, Standardized(inner, UNITS)))
    for x, a, b in RNG.normal(size=(20, 3)).astype(np.float32):
        (p, *slopes), (q, *others) = f(x, a, b), g(x, a, b)
        assert 4 * (p - q) == pytest.approx(np.log(UNITS.spread).sum(), abs=1e-5)
        assert slopes == others


def test_public_checks(make_likelihood: Any) -> None:
    """With spreads whose product is 1 it still is a density of the rows that it is given."""
    spread = np.array([0.1, 10.0, 4.0, 0.25, 1.0])
    check_likelihood(Standardized(make_likelihood("gaussian linear affine -7"), Units(np.zeros(5), spread)), columns=5)


def test_inward_and_outward() -> None:
    read = UNITS.inward(X.astype(np.float32), np.float32)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read.mean(axis=0), 0, atol=0.5)
    np.testing.assert_allclose(UNITS.outward(read), X, rtol=1e-5, atol=1e-5)
    huge = np.array([[1e39, 2e39], [3e39, -1e39]])
    units = units_of(Columns.of(huge), alike=False)
    assert np.abs(units.inward(huge, np.float32)).max() == pytest.approx(1)


def test_units_of_columns_and_of_pixels() -> None:
    rows = np.column_stack([RNG.normal(100, 5, 400), np.full(400, 7.0), RNG.normal(0, 1, 400)])
    units = units_of(Columns.of(rows), alike=False)
    np.testing.assert_allclose(units.shift, rows.mean(axis=0))
    np.testing.assert_allclose(units.spread, [rows[:, 0].std(), 1, rows[:, 2].std()])
    pixels = units_of(Columns.of(rows), alike=True)
    np.testing.assert_allclose(pixels.shift, rows.mean())
    np.testing.assert_allclose(pixels.spread, rows.std())


@pytest.mark.parametrize(
    ("rows", "far"),
    [
        (X, True),
        (RNG.normal(0, 1, (100, 3)), False),
        (RNG.normal(3, 5, (100, 3)), False),
        (RNG.normal(20, 1, (100, 3)), True),
        (RNG.normal(0, 100, (100, 1)), True),
        (RNG.normal(0, 1e-4, (100, 2)), True),
        (np.column_stack([RNG.normal(0, 2, 100), RNG.normal(0, 1e-3, 100)]), True),
        (RNG.random((100, 5)) * [1, 1, 1, 1, 1e-3], False),  # pixels, some of them nearly always black
        (np.zeros((10, 2)), False),
    ],
)
def test_far_from_unit_scale(rows: Any, far: bool) -> None:
    said = far_from_unit(Columns.of(rows))
    assert (said is not None) == far
    if rows is X:
        assert said is not None
        assert said.startswith("columns have means ")
        assert re.search(r" to [45],\d\d0 and spreads 0\.\d+ to (1,)?\d+$", said)


def test_only_densities_of_real_numbers(make_likelihood: Any) -> None:
    with pytest.raises(UsageError, match="Bernoulli: only densities of real data"):
        Standardized(make_likelihood("bernoulli"), UNITS)
    assert make_likelihood("laplace").any_unit
    assert make_likelihood("gaussian linear affine -7").any_unit
    assert not make_likelihood("gaussian sigmoid affine -7").any_unit
    assert not make_likelihood("bernoulli").any_unit
