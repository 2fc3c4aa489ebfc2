"""A run that is made longer: the bits of a run of that length from the start, or a line that says why not."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb_engine.errors import Stopped, TrainingError, UsageError
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.folder import RunFolder
from aevb_engine.experiment.log import read
from aevb_engine.experiment.run import Quiet, Recorder, resume, start
from aevb_engine.training.convergence import Convergence
from aevb_engine.training.trainer import Trainer
from tests.gpu.conftest import double  # noqa: F401

BASE: dict[str, Any] = {
    "dataset": "simulated-binary", "dataset_options": {"train": 90, "test": 30}, "hidden": (7,), "batch_size": 20,
    "eval_every": 8, "seed": 4, "backend": "cpu", "lr_schedule": "constant",
}  # fmt: skip
TIMED = {"run", "seconds", "steps_per_second"}


class Notes(Quiet):
    """Keeps what is said before training; asks to stop after some steps."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.lines: list[str] = []
        self.event = threading.Event()
        self.stop_after = stop_after
        self.begun = False

    def begin(self, folder: Any, session: Any) -> None:
        self.begun = True

    def note(self, line: str) -> None:
        if not self.begun:
            self.lines.append(line)

    def steps(self, rows: Any, total: int, seconds: float) -> None:
        if self.stop_after is not None and rows[-1, 0] >= self.stop_after:
            self.event.set()


def equal(longer: Path, whole: Path, one: Any, other: Any, results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Arrays, metrics, best checkpoints and results."""
    mine, wanted = one.trainer.arrays(), other.trainer.arrays()
    assert mine.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(mine[name], wanted[name], err_msg=name)
    mine, wanted = _last(longer).arrays, _last(whole).arrays  # where validation rows chose, the session has the best
    assert mine.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(mine[name], wanted[name], err_msg=name)
    tables, expected = read(longer / "metrics.h5"), read(whole / "metrics.h5")
    for name in expected:
        np.testing.assert_array_equal(tables[name][1], expected[name][1], err_msg=name)
    found, kept = (Convergence(**_last(folder).meta["convergence"]) for folder in (longer, whole))
    assert found == kept
    first, second = ({k: v for k, v in r.items() if k not in TIMED} for r in results)
    assert first == second


def _last(folder: Path) -> Any:
    from aevb_engine.experiment.checkpoint import CheckpointStore

    return CheckpointStore(folder / "checkpoints").newest()


CASES: dict[str, dict[str, Any]] = {
    "adam": {},
    "no state": {"optimizer": "sgd"},
    "validation": {"validation": 0.2, "lr": 0.03},
    "two workers": {"threads": 2, "validation": 0.2},
    "exponential": {"lr_schedule": "exponential:0.5:10"},
    "steps": {"lr_schedule": "steps:12,30:0.1", "optimizer": "momentum"},
    "mcem": {"objective": "mcem", "samples": 2},
    "autoencoder": {"objective": "autoencoder", "validation": 0.2},
    "warm-up": {"objective": "beta", "objective_options": {"beta": 2.0, "warmup": 30}, "validation": 0.2},
    "until converged": {"until_converged": True, "validation": 0.2},
}


@pytest.mark.parametrize("begun", [16, 21])  # 21 is no step of an evaluation but at the end
@pytest.mark.parametrize("case", CASES)
def test_a_finished_run_is_lengthened_to_the_bits_of_a_long_one(case: str, begun: int, tmp_path: Path) -> None:
    config = RunConfig(**{**BASE, **CASES[case]})
    notes = Notes()
    start(replace(config, steps=begun), tmp_path / "r")
    folder, session, result = resume(tmp_path / "r", steps=45, display=notes)
    _, whole, expected = start(replace(config, steps=45), tmp_path / "whole")
    record = folder.read_record()
    said = [line for line in notes.lines if "stays as the best so far" in line]
    if said:  # a checkpoint that a run of 45 steps does not have: the parameters are the same
        assert (begun, config.validation) == (21, 0.2)
        np.testing.assert_array_equal(session.trainer.arrays()["theta"], whole.trainer.arrays()["theta"])
    else:
        equal(tmp_path / "r", tmp_path / "whole", session, whole, (result, expected))
    assert (record["status"], record["step"], record["total_steps"]) == ("done", 45, 45)
    assert {**record["config"], "threads": 0} == {**whole.config.as_dict(), "threads": 0}
    (note,) = record["lengthened"]
    assert note.pop("when").startswith("20")
    assert note == {"step": begun, "from": begun, "to": 45}


def test_the_best_at_an_end_that_is_no_end_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checkpoint is the only one of so good a bound: it is kept, and that is said."""
    config = RunConfig(**BASE, validation=0.2)
    bounds = iter([-50.0, -40.0, -30.0, *[-45.0] * 10])
    from aevb_engine.experiment import run

    def evaluation(session: Any) -> Any:
        return lambda: dict.fromkeys(("bound", "reconstruction", "kl"), next(bounds)) | {"bound_se": 1.0}

    monkeypatch.setattr(run, "_evaluation", evaluation)
    start(replace(config, steps=21), tmp_path / "r")
    with pytest.raises(UsageError, match="--exact: the evaluation at step 21"):
        resume(tmp_path / "r", steps=45, exact=True)
    notes = Notes()
    folder, _, result = resume(tmp_path / "r", steps=45, display=notes)
    assert notes.lines == [
        "the evaluation at step 21, an end before, stays as the best so far: the result is not that of a run of 45 "
        "steps from the start"
    ]
    assert result["best_step"] == 21
    assert read(folder.metrics_path)["eval"][1][:, 0].tolist() == [8, 16, 21, 24, 32, 40, 45]
    with pytest.raises(UsageError, match="--exact: the evaluation at step 21"):
        resume(tmp_path / "r", steps=48, exact=True)


def test_a_stopped_run_takes_another_length(tmp_path: Path) -> None:
    notes = Notes(stop_after=1)
    config = RunConfig(**BASE)
    with pytest.raises(Stopped):
        start(replace(config, steps=1000), tmp_path / "r", display=notes, stop=notes.event)
    done = RunFolder(tmp_path / "r").read_record()["step"]
    with pytest.raises(UsageError, match=rf"^--steps {done - 1}: {done} steps are done, and none is taken back"):
        resume(tmp_path / "r", steps=done - 1)
    assert RunFolder(tmp_path / "r").read_record()["status"] == "stopped"
    _, session, result = resume(tmp_path / "r", steps=done + 30)
    _, whole, expected = start(replace(config, steps=done + 30), tmp_path / "whole")
    equal(tmp_path / "r", tmp_path / "whole", session, whole, (result, expected))


def test_epochs(tmp_path: Path) -> None:
    config = RunConfig(**BASE)
    start(replace(config, epochs=2.0), tmp_path / "r")  # 9 steps
    with pytest.raises(UsageError, match=r"--epochs 1.0 \(4 steps\): 9 steps are done"):
        resume(tmp_path / "r", epochs=1.0)
    folder, session, result = resume(tmp_path / "r", epochs=10.0)
    _, whole, expected = start(replace(config, epochs=10.0), tmp_path / "whole")
    equal(tmp_path / "r", tmp_path / "whole", session, whole, (result, expected))
    assert (folder.read_record()["config"]["epochs"], folder.read_record()["config"]["steps"]) == (10.0, None)
    with pytest.raises(UsageError, match="exclude each other"):
        resume(tmp_path / "r", epochs=20.0, steps=100)
    assert resume(tmp_path / "r", steps=45)[2]["steps"] == 45  # what it has: as it is
    assert len(folder.read_record()["lengthened"]) == 1


@pytest.mark.parametrize("often", [None, 5])
def test_evaluations_stay_as_often(often: int | None, tmp_path: Path) -> None:
    notes = Notes()
    config = RunConfig(**{**BASE, "eval_every": often, "dataset_options": {"train": 900, "test": 30}})
    start(replace(config, steps=20), tmp_path / "r")  # every 2 steps, of 200 every 20
    folder, _, _ = resume(tmp_path / "r", steps=200, display=notes)
    every = often or 2
    assert read(folder.metrics_path)["eval"][1][:, 0].tolist() == list(range(every, 201, every))
    said = "evaluations stay 2 steps apart, as under --eval-every 2; a run of 200 steps from the start would have 20"
    assert notes.lines == ([said] if often is None else [])


def test_a_run_that_converged_goes_on_whatever_the_bound(tmp_path: Path) -> None:
    config = RunConfig(**{**BASE, "eval_every": 1, "validation": 0.2}, lr=1e-9)
    _, _, first = start(replace(config, until_converged=True, steps=60), tmp_path / "r")
    assert first["status"] == "converged"
    done = first["steps"]
    assert resume(tmp_path / "r", steps=done)[2]["status"] == "converged"
    notes = Notes()
    folder, session, result = resume(tmp_path / "r", steps=60, display=notes)  # what it was allowed before
    assert notes.lines == [f"the run had converged at step {done}: it goes on to step 60 whatever the bound"]
    _, whole, expected = start(replace(config, steps=60), tmp_path / "whole")
    equal(tmp_path / "r", tmp_path / "whole", session, whole, (result, expected))
    record = folder.read_record()
    assert (record["config"]["until_converged"], record["status"]) == (False, "done")


def test_a_killed_longer_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record has the new length before the first new checkpoint is written."""
    config = RunConfig(**BASE)
    start(replace(config, steps=21), tmp_path / "r")

    class Killed(BaseException):
        pass

    def killed(self: Recorder, rows: Any) -> None:
        raise Killed

    with monkeypatch.context() as broken:
        broken.setattr(Recorder, "steps", killed)
        with pytest.raises(Killed):
            resume(tmp_path / "r", steps=45)
    assert RunFolder(tmp_path / "r").read_record()["result"] is None
    _, session, result = resume(tmp_path / "r")
    _, whole, expected = start(replace(config, steps=45), tmp_path / "whole")
    equal(tmp_path / "r", tmp_path / "whole", session, whole, (result, expected))


def test_a_schedule_that_follows_the_length_is_said(tmp_path: Path) -> None:
    config = RunConfig(**{**BASE, "lr_schedule": None})
    _, session, _ = start(replace(config, steps=16), tmp_path / "r")
    assert session.trainer.settings.schedule.of_length  # as it is by default
    line = (
        f"--lr-schedule {session.config.lr_schedule} follows the length, and the steps done had the rates of another: "
        "the result is not that of a run of 45 steps from the start"
    )
    with pytest.raises(UsageError, match=f"^--exact: {line}$"):
        resume(tmp_path / "r", steps=45, exact=True)
    assert RunFolder(tmp_path / "r").read_record()["status"] == "done"
    notes = Notes()
    folder, _, result = resume(tmp_path / "r", steps=45, display=notes)
    assert (result["steps"], notes.lines) == (45, [line])
    rates = read(folder.metrics_path)["train"][1][:, 5]
    assert rates[15] < rates[16] == rates[0] > rates[44]  # falls anew over the end of the new length


def test_rates_that_have_not_yet_fallen_are_those_of_the_longer_run(tmp_path: Path) -> None:
    config = RunConfig(**{**BASE, "lr_schedule": "linear:0.5"})
    notes = Notes(stop_after=1)
    with pytest.raises(Stopped):
        start(replace(config, steps=4000), tmp_path / "r", display=notes, stop=notes.event)
    done = RunFolder(tmp_path / "r").read_record()["step"]
    assert done < 2000
    _, session, result = resume(tmp_path / "r", steps=2 * done + 10, exact=True)
    _, whole, expected = start(replace(config, steps=2 * done + 10), tmp_path / "whole")
    equal(tmp_path / "r", tmp_path / "whole", session, whole, (result, expected))
    with pytest.raises(UsageError, match="the rates of another"):
        resume(tmp_path / "r", steps=9000, exact=True)


def test_a_run_that_diverged_is_not_lengthened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = Trainer._tables

    def ruinous(self: Trainer, first: int, steps: int) -> Any:
        made = tables(self, first, steps)
        if 0 <= 15 - made.first < len(made):
            made.coefficients[15 - made.first] = np.inf
        return made

    monkeypatch.setattr(Trainer, "_tables", ruinous)
    with pytest.raises(TrainingError, match="step 16"):
        start(RunConfig(**BASE, steps=30), tmp_path / "r")
    before = (tmp_path / "r" / "run.json").read_bytes()
    with pytest.raises(UsageError, match=r"the run diverged \(step 16: .*\): more steps cannot help; start anew"):
        resume(tmp_path / "r", steps=100)
    assert (tmp_path / "r" / "run.json").read_bytes() == before


@pytest.mark.usefixtures("double")
def test_a_persistent_run_is_lengthened(tmp_path: Path) -> None:
    config = RunConfig(**{**BASE, "backend": "gpu"}, trainer="persistent", validation=0.2)
    start(replace(config, steps=16), tmp_path / "r")
    _, session, result = resume(tmp_path / "r", steps=45)
    _, whole, expected = start(replace(config, steps=45), tmp_path / "whole")
    assert result["trainer"] == "persistent"
    equal(tmp_path / "r", tmp_path / "whole", session, whole, (result, expected))


def test_the_last_checkpoint_knows_the_evaluation_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often checkpoints are due."""
    from aevb_engine.experiment import run

    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(run, "CHECKPOINT_SHARE", 0.0)
    start(RunConfig(**BASE, steps=21), tmp_path / "r")
    assert _last(tmp_path / "r").arrays["progress/evaluations"][:, 0].tolist() == [8, 16, 21]


def test_an_end_that_is_not_the_best_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither among the evaluations nor in what tells convergence."""
    from aevb_engine.experiment import run

    def evaluation(session: Any) -> Any:
        def at() -> dict[str, float]:
            step = session.trainer.step
            return dict.fromkeys(("bound", "reconstruction", "kl"), -60.0 if step == 21 else -float(step)) | {
                "bound_se": 1.0
            }

        return at

    monkeypatch.setattr(run, "_evaluation", evaluation)
    config = RunConfig(**BASE, validation=0.2)
    start(replace(config, steps=21), tmp_path / "r")
    _, session, result = resume(tmp_path / "r", steps=45, exact=True)
    _, whole, expected = start(replace(config, steps=45), tmp_path / "whole")
    equal(tmp_path / "r", tmp_path / "whole", session, whole, (result, expected))
    assert (result["best_step"], _last(tmp_path / "r").meta["convergence"]["waited"]) == (8, 5)
