"""What is carried from step to step stays finite: found at the very step, refused where it comes from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine import registry
from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.errors import FileFormatError, TrainingError
from aevb_engine.experiment import checkpoint as files
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.evaluate import load_parameters
from aevb_engine.experiment.run import resume, start
from aevb_engine.model.model import Architecture, Model
from aevb_engine.objectives.elbo import Elbo
from aevb_engine.objectives.program import Pass, Program
from aevb_engine.operation import Buffer, Rows, custom
from aevb_engine.training.optimizer import Optimizer
from aevb_engine.training.step import ResidentRows
from aevb_engine.training.trainer import Diverged, Settings, Trainer

ROWS = (np.random.default_rng(0).random((60, 6)) < 0.5).astype(np.uint8)


class Growing(Optimizer):
    """A state that is beyond float32 in the fourth step, while parameters and bound stay as they are."""

    state = ("steady", "growth")

    def coefficients(self, step: int, lr: float) -> tuple[float, ...]:
        return (1e10,)

    def update(self, xp: Any, grad: Any, coef: Any, scratch: Sequence[Any], theta: Any, *state: Any) -> None:
        with np.errstate(over="ignore"):
            state[1][...] = state[1] * coef[0] + coef[0]


class Counting(Elbo):
    """The same of an objective's state."""

    def build(self, p: Pass) -> Program:
        program = super().build(p)
        if p.feed is not None:
            total = p.ws.table("total", 3)

            def bind(xp: Any, rows: Rows) -> Any:
                def run() -> None:
                    with np.errstate(over="ignore"):
                        total.array[1] = total.array[1] * np.float32(1e10) + np.float32(1e10)

                return run

            program.leave = [custom("count", bind, (total,), (total,))]
            program.state = {"total": total}
        return program


def trainer(objective: Any = "elbo", optimizer: Any = "adam", threads: int = 1, **settings: Any) -> Trainer:
    chosen = registry.create("optimizer", optimizer) if isinstance(optimizer, str) else optimizer
    model = Model(Architecture(6, 2, (5,)), registry.create("decoder", "bernoulli"), NumpyBackend(threads))
    model.parameters.initialize(4)
    given = Settings(objective, batch=20, lr=0.01, seed=1, threads=threads, **settings)
    return Trainer(model, chosen, ResidentRows(Buffer("data", ROWS)), given)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"optimizer": Growing()}, "the optimizer's 'growth' of encoder.1.weight"),
        ({"objective": Counting()}, "the objective's 'total'"),
    ],
    ids=["optimizer", "objective"],
)
def test_the_step_is_found_and_the_state_before_it_kept(given: dict[str, Any], what: str, threads: int) -> None:
    failing, straight = (trainer(**given, threads=threads) for _ in range(2))
    with pytest.raises(Diverged, match=f"step 4: {what}.* is not finite; the state after step 3 is kept") as error:
        failing.advance(30)
    assert error.value.step == 4
    assert failing.step == 3
    np.testing.assert_array_equal(failing.last, straight.advance(3))
    for name, array in straight.arrays().items():
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(failing.arrays()[name], array)


def test_the_last_step_of_all_counts_too() -> None:
    """Nothing comes after it that could show it."""
    failing = trainer(optimizer=Growing())
    failing.advance(3)
    with pytest.raises(Diverged, match="step 4"):
        failing.advance(1)


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "rmsprop"])
def test_large_numbers_are_no_failure(optimizer: str) -> None:
    """Their squares and their sum are beyond float32, they are not."""
    large = trainer(optimizer=optimizer)
    arrays = large.arrays()
    name = list(arrays)[-1]
    large.restore(7, {**arrays, name: np.full_like(arrays[name], 3e37)})
    large.advance(5)
    assert large.step == 12


@pytest.mark.filterwarnings("ignore:in the unit of the first fit", "ignore::aevb_engine.errors.ResultWarning")
@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "rmsprop"])
def test_a_gradient_whose_square_is_beyond_the_precision(optimizer: str) -> None:
    x = np.random.default_rng(0).standard_normal((100, 6)).astype(np.float32)
    far = x.copy()
    far[17] = 1e12
    model = aevb.VAE("gaussian", hidden=8, optimizer=optimizer, standardize="never", batch_size=50).fit(x, steps=20)
    with pytest.raises(
        TrainingError,
        match=r"^step 2\d: the optimizer's '\w+' of \S+ \(gradients reach \S+\) is not finite; the state after step "
        r'2\d is kept; rescale the data, or take out a value far from the others, or use precision="float64"$',
    ):
        model.fit(far, epochs=1)
    before = model.weights
    model.fit(x, steps=50)
    assert all((before[name] != weight).all() for name, weight in model.weights.items())  # nothing is frozen
    wide = aevb.VAE("gaussian", hidden=8, optimizer=optimizer, standardize="never", precision="float64", batch_size=50)
    wide.fit(x, steps=20).fit(far, epochs=1)


NAMES = ("theta", "optimizer/first", "optimizer/second")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_a_state_from_a_file_is_looked_at(name: str, value: float, tmp_path: Path) -> None:
    """By a fit that goes on, by load, by resume, by evaluate."""
    fresh = trainer()
    arrays = fresh.arrays()
    arrays[name][5] = value
    before = fresh.model.parameters.theta.copy()
    with pytest.raises(FileFormatError, match=f"the checkpoint: its '{name}' holds numbers that are not finite; take"):
        fresh.restore(3, arrays)
    np.testing.assert_array_equal(fresh.model.parameters.theta, before)

    path = tmp_path / "model.h5"
    aevb.VAE(hidden=5).fit(ROWS, steps=5).save(path)
    stored = files.read(path, require_hash=False)
    broken = {n: a.copy() for n, a in stored.arrays.items()}
    broken[name][5] = value
    files.write(path, replace(stored, arrays=broken), hash_file=False)
    with pytest.raises(FileFormatError, match=f"model.h5: its '{name}' holds numbers that are not finite"):
        aevb.load(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_from_its_newest_finite_checkpoint(name: str, tmp_path: Path) -> None:
    config = RunConfig(dataset="simulated-binary", hidden=(5,), steps=20, seed=2)
    folder, session, result = start(config, tmp_path / "run")
    store = files.CheckpointStore(folder.checkpoints)
    sound = store.newest()
    assert sound is not None
    arrays = {n: a.copy() for n, a in sound.arrays.items()}
    arrays[name][5] = np.inf
    store.save(replace(sound, step=25, arrays=arrays))
    found = store.newest()
    assert found is not None
    assert found.step == 20
    assert f"its '{name}' holds numbers that are not finite" in store.warnings[0]
    with pytest.raises(FileFormatError, match=f"here, step 25: its '{name}'"):
        load_parameters(session, replace(sound, step=25, arrays=arrays), "here")
    with pytest.warns(UserWarning, match=f"its '{name}' holds numbers that are not finite"):
        assert aevb.load(folder.path)._steps_done() == 20
    assert resume(folder.path)[2] == {**result, "run": str(folder.path)}
