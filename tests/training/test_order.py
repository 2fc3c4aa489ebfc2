"""Minibatch order: permutations from (seed, epoch), batches across epoch borders, validation splits."""

from __future__ import annotations

import numpy as np
import pytest

from aevb_engine.training.order import Order, permutation, split


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 1001])
def test_permutation_holds_every_row_once(n: int) -> None:
    assert sorted(permutation(1, 0, n)) == list(range(n))


def test_permutation_depends_on_seed_epoch_and_stream() -> None:
    one = permutation(1, 0, 200)
    assert (permutation(1, 0, 200) == one).all()
    for other in (permutation(2, 0, 200), permutation(1, 1, 200), permutation(1, 0, 200, "validation")):
        assert (other == one).mean() < 0.1


def test_permutations_are_uniform() -> None:
    """All 24 orders of 4 rows, 4800 epochs: chi-square of 23 degrees of freedom below its 0.9999 quantile."""
    seen, counts = np.unique([permutation(3, e, 4) for e in range(4800)], axis=0, return_counts=True)
    assert len(seen) == 24
    assert ((counts - 200) ** 2 / 200).sum() < 58.6


@pytest.mark.parametrize(("n", "batch"), [(12, 4), (10, 4), (7, 7), (5, 3), (9, 1)])
def test_each_epoch_is_covered_exactly_once(n: int, batch: int) -> None:
    """Batches run on through the stream of permutations, whatever borders they cross."""
    epochs = 4 * batch
    steps = epochs * n // batch
    stream = Order(1, n, batch).rows(0, steps).ravel()
    assert stream.size == epochs * n
    for epoch, rows in enumerate(stream.reshape(epochs, n)):
        assert (rows == permutation(1, epoch, n)).all()


def test_any_cut_into_blocks_gives_the_same_rows() -> None:
    whole = Order(5, 13, 4).rows(0, 60)
    order, done, parts = Order(5, 13, 4), 0, []
    for count in (1, 2, 7, 20, 30):
        parts.append(order.rows(done, count))
        done += count
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(Order(5, 13, 4).rows(41, 19), whole[41:])  # resumed without the earlier steps
    np.testing.assert_array_equal(order.rows(0, 3), whole[:3])  # and back again


def test_a_batch_larger_than_the_set_runs_over_epochs() -> None:
    rows = Order(1, 3, 5).rows(0, 3)
    np.testing.assert_array_equal(rows.ravel(), np.concatenate([permutation(1, e, 3) for e in range(5)]))


@pytest.mark.parametrize("contiguous", [True, False])
def test_split(contiguous: bool) -> None:
    train, held = split(100, 0.1, 1, contiguous)
    assert sorted([*train, *held]) == list(range(100))
    assert len(held) == 10
    if contiguous:
        assert held.tolist() == list(range(90, 100))
    else:
        assert held.tolist() == sorted(held) != list(range(90, 100))
        again, other = split(100, 0.1, 1, contiguous=False), split(100, 0.1, 2, contiguous=False)
        assert (again[1] == held).all()
        assert (other[1] != held).any()
    assert len(split(100, 1e-9, 1, contiguous)[1]) == 1
