"""How runs end and go on: bounds that are not finite, the backend of a resumed run, several runs after one another."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb_engine.errors import Stopped, TrainingError
from aevb_engine.experiment import replicas, run
from aevb_engine.experiment import session as sessions
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.folder import RunFolder
from aevb_engine.training.convergence import PATIENCE, Convergence
from tests.gpu.conftest import double  # noqa: F401

SMALL: dict[str, Any] = {
    "dataset": "simulated-binary", "dataset_options": {"train": 100, "test": 50}, "hidden": (8,), "batch_size": 10,
    "steps": 30, "eval_every": 10, "seed": 5,
}  # fmt: skip


@pytest.mark.parametrize("bound", [float("nan"), float("-inf"), float("inf")])
def test_a_bound_that_is_not_finite_is_no_improvement(bound: float) -> None:
    it = Convergence()
    assert not it.add(1, bound)
    assert it.add(2, -100.0)
    assert not it.add(3, bound)
    assert (it.best, it.best_step, it.recent, it.waited) == (-100.0, 2, [-100.0], 1)
    json.dumps(it.as_dict(), allow_nan=False)
    for step in range(PATIENCE):
        it.add(4 + step, bound)
    assert it.converged


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_a_held_out_row_that_overflows_does_not_lose_the_run(
    validation: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A density of float32 overflows at 3e19; the run has its checkpoints, and says what it cannot."""
    config = RunConfig(**{**SMALL, "dataset": "simulated-normal", "decoder": "gaussian", "validation": validation})
    resident = sessions.resident
    seen: list[int] = []

    def broken(model: Any, rows: Any, *given: Any) -> Any:
        seen.append(len(rows))
        if seen[1:] == [len(rows)] if not validation else len(seen) == 3:  # after training rows: test, then validation
            rows = rows.copy()
            rows[0, 0] = 3e19
        return resident(model, rows, *given)

    monkeypatch.setattr(sessions, "resident", broken)
    folder, _, result = run.start(config, tmp_path / "r")
    record = folder.read_record()
    assert (record["status"], result["steps"]) == ("done", 30)
    assert run.CheckpointStore(folder.checkpoints).newest().step == 30  # type: ignore[union-attr]
    if not validation:
        assert record["result"]["test_bound"] is None
        assert not np.isfinite(result["test_bound"])
        assert result["warnings"][-1] == "1 of 50 test rows have no finite bound: values too large for float32?"


def stopped(config: RunConfig, folder: Path) -> None:
    event = threading.Event()

    class StopAfter(run.Quiet):
        def steps(self, rows: Any, total: int, seconds: float) -> None:
            event.set()

    with pytest.raises(Stopped):
        run.start(config, folder, display=StopAfter(), stop=event)


def test_a_run_begun_on_the_cpu_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Though a GPU is there by now: its bits are others."""
    from aevb_engine.backend import choose

    stopped(RunConfig(**{**SMALL, "steps": 200}, backend="auto", threads=1), tmp_path / "r")
    _, alone, _ = run.start(RunConfig(**{**SMALL, "steps": 200}, backend="cpu", threads=1), tmp_path / "alone")
    request.getfixturevalue("double")
    monkeypatch.setattr(choose, "driver_present", lambda: True)
    _, session, result = run.resume(tmp_path / "r")
    assert (session.backend.name, result["backend"]) == ("cpu", "cpu")
    for name, array in alone.trainer.arrays().items():
        np.testing.assert_array_equal(array, session.trainer.arrays()[name])


@pytest.mark.parametrize("field", ["data", "environment"])
def test_a_record_without_a_part_is_one_error_or_none(field: str, tmp_path: Path) -> None:
    from aevb_engine.errors import FileFormatError

    stopped(RunConfig(**{**SMALL, "steps": 200}), tmp_path / "r")
    RunFolder(tmp_path / "r").update(**{field: None})
    if field == "data":
        with pytest.raises(FileFormatError, match="other content"):
            run.resume(tmp_path / "r")
    else:
        assert run.resume(tmp_path / "r")[2]["status"] == "done"


def test_a_single_test_row_has_no_error(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    _, _, result = run.start(RunConfig(**{**SMALL, "dataset_options": {"train": 100, "test": 1}}), tmp_path / "r")
    assert np.isfinite(result["test_bound"])
    assert (result["test_bound_se"], result["test_excess_se"]) == (None, None)
    assert not recwarn.list


def test_nothing_is_kept_of_runs_that_have_ended(tmp_path: Path) -> None:
    """Neither their worker processes nor their threads, however many follow one another."""
    at_end: list[tuple[int, int]] = []

    def ended(folder: RunFolder, session: Any, result: Any) -> None:
        children = Path(f"/proc/{threading.get_native_id()}/task/{threading.get_native_id()}/children")
        number = len(children.read_text().split()) if children.exists() else 0
        at_end.append((number, sum(t.name == "aevb-rows" for t in threading.enumerate())))

    found = replicas.start(RunConfig(**SMALL, threads=2), 5, tmp_path / "all", ended=ended)
    assert len(found.runs) == len(at_end) == 5
    assert at_end[1:] == at_end[:1] * 4


def test_the_others_are_told_where_one_diverges(tmp_path: Path) -> None:
    found = replicas.start(replace(RunConfig(**SMALL)), None, tmp_path / "all", vary={"lr": ("0.01", "1e30")})
    assert [result["varied"] for _, result in found.runs] == [{"lr": 0.01}]
    assert len(found.diverged) == 1
    with pytest.raises(TrainingError, match="1 of 2 replicas diverged: lr 1e30"):
        found.check()


def test_a_finished_run_is_returned_as_it_is(tmp_path: Path) -> None:
    """Also from another place, and on a machine that computes other bits: nothing of it is written."""
    run.start(RunConfig(**SMALL), tmp_path / "r")
    (tmp_path / "r").rename(tmp_path / "moved")
    path = tmp_path / "moved" / "run.json"
    RunFolder(path.parent).update(environment={"numpy": "1.0.0"})
    before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file() and p.name != ".lock"}
    _, session, result = run.resume(tmp_path / "moved")
    assert {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file() and p.name != ".lock"} == before
    assert (result["status"], result["run"], session.trainer.step) == ("done", str(tmp_path / "moved"), 30)


def test_without_a_checkpoint_a_run_begins_again_and_says_so(tmp_path: Path) -> None:
    from aevb_engine.errors import FileFormatError

    lines: list[str] = []

    class Notes(run.Quiet):
        def note(self, line: str) -> None:
            lines.append(line)

    stopped(RunConfig(**{**SMALL, "steps": 200}), tmp_path / "r")
    for file in (tmp_path / "r" / "checkpoints").iterdir():
        file.unlink()
    _, _, result = run.resume(tmp_path / "r", display=Notes())
    assert result["steps"] == 200
    assert "no checkpoint is left: the run begins again with step 1" in lines
    for file in (tmp_path / "r" / "checkpoints").iterdir():
        file.unlink()
    with pytest.raises(FileFormatError, match="no checkpoint of it is left"):
        run.resume(tmp_path / "r")


def test_beginning_again_asks_nothing_of_a_torn_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may take its reader's whole minute; no row of it counts."""
    from aevb_engine.experiment import log

    stopped(RunConfig(**{**SMALL, "steps": 200}), tmp_path / "r")
    for file in (tmp_path / "r" / "checkpoints").iterdir():
        file.unlink()

    def never(*_: Any) -> Any:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(log, "read_safely", never)
        folder, _, _ = run.resume(tmp_path / "r")
    assert log.read(folder.metrics_path)["train"][1][:, 0].tolist() == list(range(1, 201))
    folder.update(status="running", result=None)
    for file in (tmp_path / "r" / "checkpoints").iterdir():
        file.unlink()
    folder.metrics_path.unlink()  # killed between the two
    run.resume(tmp_path / "r")
    assert log.read(folder.metrics_path)["train"][1][:, 0].tolist() == list(range(1, 201))


def test_an_error_is_forgotten_once_the_run_goes_on(tmp_path: Path) -> None:
    stopped(RunConfig(**{**SMALL, "steps": 200}), tmp_path / "r")
    folder = RunFolder.open(tmp_path / "r")
    folder.update(status="failed", error="cannot write")
    run.resume(tmp_path / "r")
    assert (folder.read_record()["status"], folder.read_record()["error"]) == ("done", None)


def test_a_density_is_not_held_against_a_probability(tmp_path: Path) -> None:
    """Gaussian heads on 0 and 1: log p_true is the log of a probability."""
    for decoder, known in (("bernoulli", True), ("gaussian", False)):
        _, session, result = run.start(RunConfig(**SMALL, decoder=decoder), tmp_path / decoder)
        assert ("test_excess" in result) == (session.dataset.true_log_prob is not None) == known


def test_stopped_runs_say_which_were_not_begun(tmp_path: Path) -> None:
    event = threading.Event()

    class StopAfter(run.Quiet):
        def steps(self, rows: Any, total: int, seconds: float) -> None:
            event.set()

    config = RunConfig(**{**SMALL, "steps": 200})
    with pytest.raises(Stopped, match=r"seed-5; not begun: seed 6; seed 7$"):
        replicas.start(config, 3, tmp_path / "all", display=StopAfter(), stop=event)


def test_of_runs_that_begin_in_one_folder_one_gets_it(tmp_path: Path) -> None:
    from aevb_engine.errors import AevbError, UsageError

    for round_ in range(10):
        path, start, found = tmp_path / f"r{round_}", threading.Barrier(4), []

        def create(path: Path = path, start: Any = start, found: list[Any] = found) -> None:
            start.wait()
            try:
                found.append(RunFolder.create("run", path))
            except AevbError as error:
                found.append(error)

        threads = [threading.Thread(target=create) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert sum(isinstance(f, RunFolder) for f in found) == 1
        assert all(isinstance(f, (RunFolder, UsageError)) for f in found), found
        assert RunFolder.open(path).read_record()["status"] == "created"


@pytest.mark.parametrize("name", ["config", "data", "environment", "result"])
def test_a_record_with_a_wrong_type_inside_is_damaged(name: str, tmp_path: Path) -> None:
    from aevb_engine.errors import FileFormatError

    folder = RunFolder.create("run", tmp_path / "r")
    folder.update(**{name: [1]})
    with pytest.raises(FileFormatError, match=f"'{name}' is no table"):
        folder.read_record()


def test_a_data_folder_that_is_gone_does_not_lose_the_run(tmp_path: Path) -> None:
    """On another machine the run's data are looked for where that one has them."""
    from aevb_engine.experiment.evaluate import open_run

    data = tmp_path / "data"
    data.mkdir()
    stopped(RunConfig(**{**SMALL, "steps": 200}, data_dir=str(data)), tmp_path / "r")
    assert open_run(tmp_path / "r").session.config.data_dir == str(data)
    data.rmdir()
    assert open_run(tmp_path / "r").session.config.data_dir is None
    assert run.resume(tmp_path / "r")[1].config.data_dir is None
