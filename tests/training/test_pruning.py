"""Columns that are always zero, left out of the first product: the same training, and only where that is exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aevb_engine import registry
from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.model.model import Architecture, Model
from aevb_engine.operation import Buffer
from aevb_engine.training import trainer as module
from aevb_engine.training.pruning import live_columns
from aevb_engine.training.step import ResidentRows
from aevb_engine.training.trainer import Diverged, Settings, Trainer
from aevb_plugins.optimizers.adam import Adam

DIM, DEAD = 24, [0, 1, 2, 9, 10, 17, 22, 23]
OPTIMIZERS = ("sgd", "momentum", "adagrad", "rmsprop", "adam")
OBJECTIVES = ("elbo", "elbo-mc", "iwae", "beta", "autoencoder")

Make = Callable[..., Trainer]


def binary() -> npt.NDArray[np.uint8]:
    data = (np.random.default_rng(0).random((60, DIM)) < 0.4).astype(np.uint8)
    data[0] = 1
    data[:, DEAD] = 0
    return data


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """A trainer, with the columns left out where they may be, or with all of them."""

    def build(
        objective: str = "elbo",
        optimizer: Any = "adam",
        whole: bool = False,
        data: Any = None,
        threads: int = 1,
        precision: str = "float64",
        hidden: tuple[int, ...] = (90,),
        **settings: Any,
    ) -> Trainer:
        chosen = registry.create("optimizer", optimizer) if isinstance(optimizer, str) else optimizer
        architecture = Architecture(DIM, 2, hidden, precision=precision)
        model = Model(architecture, registry.create("decoder", "bernoulli"), NumpyBackend(threads))
        model.parameters.initialize(4)
        rows = ResidentRows(Buffer("data", binary() if data is None else data))
        given = Settings(objective, batch=20, lr=0.01, seed=1, threads=threads, **settings)
        with monkeypatch.context() as patch:
            if whole:
                patch.setattr(module, "pruned", lambda *_: None)
            return Trainer(model, chosen, rows, given)

    return build


@pytest.mark.parametrize(
    "data",
    [
        np.eye(3, 16, 5, dtype=np.uint8),  # a multiple of eight columns
        np.eye(3, 11, 5, dtype=np.uint8),
        np.eye(3, 11, 5, dtype=np.float32) * -1e-30,
        np.eye(16, 3, -5, dtype=np.uint8).T,  # not stored by rows
    ],
)
def test_live_columns(data: Any) -> None:
    np.testing.assert_array_equal(live_columns(data), [5, 6, 7])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_bound_trains_the_same(objective: str, threads: int, make: Make) -> None:
    less, all_of_it = (make(objective, whole=w, threads=threads) for w in (False, True))
    assert less.pruned is not None
    assert all_of_it.pruned is None
    for _ in range(2):
        np.testing.assert_allclose(less.advance(30), all_of_it.advance(30), rtol=1e-11, atol=1e-11)
    for name, array in all_of_it.arrays().items():
        np.testing.assert_allclose(less.arrays()[name], array, rtol=1e-8, atol=1e-11, err_msg=name)
    np.testing.assert_allclose(
        less.model.parameters.grad, all_of_it.model.parameters.grad, rtol=1e-8, atol=1e-11
    )  # what a diverged run is searched in


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_trains_the_same(optimizer: str, make: Make) -> None:
    less, all_of_it = (make(optimizer=optimizer, whole=w) for w in (False, True))
    assert less.pruned is not None
    start = less.model.parameters.first_weight.theta.array.copy()
    np.testing.assert_allclose(less.advance(50), all_of_it.advance(50), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(less.model.parameters.theta, all_of_it.model.parameters.theta, rtol=1e-8, atol=1e-11)
    end = less.model.parameters.first_weight.theta.array
    assert (end[DEAD] == start[DEAD]).all()
    assert (end[live_columns(binary())] != start[live_columns(binary())]).any()


def test_a_linear_model_and_single_precision(make: Make) -> None:
    """Without a hidden layer the head itself meets the data; its 2 Z columns are too few to pay, so it keeps all."""
    assert make(hidden=()).pruned is None
    less, all_of_it = (make(precision="float32", whole=w) for w in (False, True))
    np.testing.assert_allclose(less.advance(50), all_of_it.advance(50), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_decay": 1.0},  # moves weights without a gradient
        {"objective": "wake-sleep"},  # encodes its dreams
        {"objective": "mcem"},  # has no encoder
        {"optimizer": type("Restless", (Adam,), {"still_at_zero": False})()},
        {"data": np.ones((60, DIM), np.uint8)},
        {"data": np.zeros((60, DIM), np.uint8)},
        {"data": np.pad(np.ones((60, DIM - 1), np.uint8), ((0, 0), (1, 0)))},  # one column saves nothing
    ],
    ids=["decay", "wake-sleep", "mcem", "optimizer", "no dead column", "no live column", "hardly any"],
)
def test_where_it_would_not_be_exact_or_not_pay(settings: dict[str, Any], make: Make) -> None:
    trainer = make(**settings)
    assert trainer.pruned is None
    trainer.advance(2)


def test_a_resumed_run_has_the_same_bits(make: Make) -> None:
    straight, first, second = make(), make(), make()
    straight.advance(40)
    first.advance(15)
    second.restore(15, first.arrays())
    second.advance(25)
    for name, array in straight.arrays().items():
        np.testing.assert_array_equal(second.arrays()[name], array)


def test_moments_of_columns_that_were_not_always_zero(make: Make) -> None:
    """Trained on other data before: those weights still move, so nothing is left out."""
    before = make(data=(np.random.default_rng(1).random((60, DIM)) < 0.4).astype(np.uint8))
    before.advance(20)
    less, all_of_it = make(), make(whole=True)
    for t in (less, all_of_it):
        t.restore(20, before.arrays())
    assert less.pruned is None
    np.testing.assert_array_equal(less.advance(20), all_of_it.advance(20))
    np.testing.assert_array_equal(less.model.parameters.theta, all_of_it.model.parameters.theta)


def test_parameters_changed_from_outside_count(make: Make) -> None:
    less, all_of_it = make(), make(whole=True)
    for t in (less, all_of_it):
        t.advance(5)
        t.model.parameters.theta *= 0.5
    np.testing.assert_allclose(less.advance(5), all_of_it.advance(5), rtol=1e-11, atol=1e-11)


def test_divergence_is_found_and_undone(make: Make) -> None:
    less, all_of_it = make(), make(whole=True)
    said = []
    for t in (less, all_of_it):
        t.advance(7)
        t.model.parameters["encoder.1.weight"].theta.array[5, 3] = np.nan
        t._kept_at = None
        with pytest.raises(Diverged) as error:
            t.advance(10)
        said.append(str(error.value))
        assert t.step == 7
    assert said[0] == said[1]
