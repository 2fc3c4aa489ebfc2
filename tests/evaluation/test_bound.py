"""What a printed bound is a mean of: its draws of z, and the steps at the end of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.evaluation.bound import Evaluator, draw_error
from aevb_engine.model.model import Architecture, Model
from aevb_engine.operation import Buffer
from aevb_engine.training.loop import Progress, window
from aevb_engine.training.step import ResidentRows

ROWS, DIM = 400, 6


def evaluator(make_likelihood: Any) -> Evaluator:
    rng = np.random.default_rng(3)
    architecture = Architecture(DIM, 2, (5,), precision="float64")
    model = Model(architecture, make_likelihood("bernoulli"), NumpyBackend(1))
    model.parameters.theta[...] = 0.7 * rng.standard_normal(model.parameters.size)
    return Evaluator(model, ResidentRows(Buffer("data", (rng.random((ROWS, DIM)) < 0.4).astype(np.float64))), batch=150)


def test_the_error_of_a_draw_is_how_far_means_of_many_draws_spread(make_likelihood: Any) -> None:
    it = evaluator(make_likelihood)
    bounds = np.array([it.run(draw)[:, 0] for draw in range(300)])
    spread = bounds.mean(axis=1).std(ddof=1)
    errors = [draw_error(a, b) for a, b in zip(bounds[::2], bounds[1::2], strict=True)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)
    assert errors[0] == pytest.approx(spread, rel=0.3)  # a single pair knows it, too: there are 400 rows
    assert spread < bounds[0].std() / np.sqrt(ROWS)  # the error over rows holds both


def test_a_draw_is_the_same_whenever_it_is_asked_for(make_likelihood: Any) -> None:
    it = evaluator(make_likelihood)
    first, second = it.run(), it.run(draw=1)
    assert np.array_equal(it.run(draw=0), first)
    assert np.array_equal(it.run(draw=1), second)
    assert np.array_equal(first[:, 2], second[:, 2])  # KL in closed form knows no draw
    assert not np.array_equal(first[:, 0], second[:, 0])


@pytest.mark.parametrize(("steps", "mean_of"), [(1, 1), (30, 3), (2_000, 200), (5_000, 500), (100_000, 500)])
def test_the_training_bound_is_of_the_last_tenth_and_at_most_500_steps(steps: int, mean_of: int) -> None:
    assert window(steps) == mean_of
    rows = np.zeros((min(steps, 500), 6))
    rows[:, 0] = np.arange(steps - len(rows), steps) + 1
    rows[:, 2] = rows[:, 0]
    assert Progress(tail=rows).last_steps()[:, 2].tolist() == list(range(steps - mean_of + 1, steps + 1))
