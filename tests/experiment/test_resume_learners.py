"""Runs of the learners with state of their own, stopped and resumed: the bits of an uninterrupted run."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb_engine.errors import FileFormatError, Stopped, UsageError
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.run import Quiet, resume, start
from aevb_engine.experiment.session import prepare

BASE: dict[str, Any] = {
    "dataset": "simulated-binary",
    "dataset_options": {"train": 90, "test": 30},  # batches straddle epochs
    "hidden": (7,),
    "batch_size": 20,
    "steps": 43,
    "eval_every": 9,
    "seed": 4,
    "backend": "cpu",
}
LEARNERS: dict[str, dict[str, Any]] = {
    "beta": {"objective_options": {"beta": 2.0, "warmup": 30}},  # 23 lies on the way up
    "autoencoder": {},
    "wake-sleep": {"samples": 2},
    "mcem": {"samples": 2, "objective_options": {"updates": 5}},  # 23 lies inside a batch
}


def config(name: str) -> RunConfig:
    return RunConfig(objective=name, **{**BASE, **LEARNERS[name]})


def equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", LEARNERS)
def test_a_restored_trainer_goes_on_to_the_same_bits(name: str, threads: int) -> None:
    whole, first, second = (prepare(RunConfig(**{**config(name).as_dict(), "hidden": (7,), "threads": threads}))
                            for _ in range(3))  # fmt: skip
    expected = whole.trainer.advance(43)
    first.trainer.advance(23)
    second.trainer.advance(2)  # whatever it did before
    second.trainer.restore(23, first.trainer.arrays())
    rows = second.trainer.advance(20)
    assert rows.tobytes() == expected[23:].tobytes()
    equal(whole.trainer.arrays(), second.trainer.arrays())
    for session in (whole, first, second):
        session.backend.close()


class StopAt(Quiet):
    """Asks to stop once ``step`` is reached."""

    def __init__(self, step: int) -> None:
        self.event = threading.Event()
        self.step = step

    def begin(self, folder: Any, session: Any) -> None:
        self.inner = session.trainer
        advance = self.inner.advance
        self.inner.advance = lambda steps: advance(min(steps, max(1, self.step - self.inner.step)))

    def steps(self, rows: Any, total: int, seconds: float) -> None:
        if rows[-1, 0] >= self.step:
            self.event.set()


@pytest.mark.parametrize("name", LEARNERS)
def test_a_stopped_run_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    _, whole, expected = start(config(name), tmp_path / "whole")
    display = StopAt(23)
    with pytest.raises(Stopped, match="after step 23 of 43"):
        start(config(name), tmp_path / "parts", display=display, stop=display.event)
    _, session, record = resume(tmp_path / "parts", root=tmp_path)
    equal(whole.trainer.arrays(), session.trainer.arrays())
    times = {"run", "seconds", "steps_per_second"}
    assert {k: v for k, v in record.items() if k not in times} == {k: v for k, v in expected.items() if k not in times}


def test_chains_and_step_size_are_state() -> None:
    """Without them a resumed run would be another one, silently: they are asked for by name."""
    session = prepare(config("mcem"))
    session.trainer.advance(7)
    arrays = session.trainer.arrays()
    assert {n for n in arrays if n.startswith("objective/")} == {
        "objective/chains", "objective/z", "objective/step-size",
    }  # fmt: skip
    assert arrays["objective/chains"].shape == (90, 2 * 2)
    for name in ("objective/chains", "objective/step-size"):
        left_out = {k: v for k, v in arrays.items() if k != name}
        with pytest.raises(FileFormatError, match=name):
            session.trainer.restore(7, left_out)
    other = prepare(config("mcem"))
    fresh = {k: v for k, v in other.trainer.arrays().items() if k.startswith("objective/")}
    other.trainer.restore(7, {**arrays, **fresh})
    rows = other.trainer.advance(5)
    assert rows.tobytes() != session.trainer.advance(5).tobytes()  # the comparison has power


def test_data_points_are_counted_once_a_visit() -> None:
    session = prepare(config("mcem"))
    rows = session.trainer.advance(12)
    np.testing.assert_array_equal(rows[:, 1], 20 * np.ceil(np.arange(1, 13) / 5))
    assert session.trainer.seen == 60
    epochs = prepare(RunConfig(objective="mcem", **{**BASE, "steps": None, "epochs": 2}))
    assert epochs.total_steps == 2 * 5 * 90 // 20  # five updates on each batch of two epochs


# What does not exist ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["elbo", "elbo-mc", "iwae", *LEARNERS])
def test_what_does_not_exist_is_null(name: str, tmp_path: Path) -> None:
    _, session, record = start(RunConfig(objective=name, **{**BASE, **LEARNERS.get(name, {})}), tmp_path / "run")
    missing = {key for key, value in record.items() if value is None and key not in ("best_step", "ppca")}
    bounds = {"train_bound", "test_bound", "test_bound_se", "test_bound_draw_sd", "test_kl"}
    assert missing == {"autoencoder": bounds, "mcem": bounds | {"test_reconstruction"}}.get(name, set())
    assert any("not a bound" in line for line in record["warnings"]) == (not session.objective.is_bound)
    assert session.objective.is_bound == (name in ("elbo", "elbo-mc", "iwae"))
    if name == "mcem":
        assert any("extension" in line for line in record["warnings"])
        named = session.model.parameters.named
        assert record["parameters"] == sum(p.hi - p.lo for n, p in named.items() if n.startswith("decoder"))
    else:
        assert record["parameters"] == session.model.parameters.size
    if name in ("beta", "wake-sleep"):
        assert record["test_bound"] == pytest.approx(record["test_reconstruction"] - record["test_kl"])


def test_mcem_on_the_whole_data_set_is_no_extension() -> None:
    assert not any(
        "extension" in w for w in prepare(RunConfig(objective="mcem", **{**BASE, "batch_size": 90})).warnings
    )


@pytest.mark.parametrize("name", ["elbo", "elbo-mc", "iwae", *LEARNERS])
def test_until_converged(name: str, tmp_path: Path) -> None:
    """Follows the held-out bound of the validation rows; the autoencoder's reconstruction; mcem has neither."""
    more = {"until_converged": True, "steps": 3000, "eval_every": 5, "lr": 1e-9, **LEARNERS.get(name, {})}
    asked = RunConfig(objective=name, **{**BASE, **more})
    if name == "mcem":
        with pytest.raises(UsageError, match="no encoder, so there is no held-out bound to follow"):
            prepare(asked)
        return
    _, session, record = start(asked, tmp_path / "run")
    assert record["status"] == "converged"
    # Nothing is learnt at this rate: ten evaluations without an improvement, after the warm-up of beta.
    waiting = 30 if name == "beta" else 5
    assert record["steps"] == waiting + 10 * 5
    assert session.held_out_is == "validation"
    assert record["best_step"] is not None
