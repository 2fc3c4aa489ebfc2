"""Which parameters stand for a run: the best for its validation rows, everywhere and whatever was killed."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.errors import AevbError, FileFormatError, Stopped, UsageError
from aevb_engine.experiment import atomic
from aevb_engine.experiment.checkpoint import CheckpointStore
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.evaluate import evaluate_run
from aevb_engine.experiment.log import read
from aevb_engine.experiment.run import Quiet, resume, start

# It overfits: the best step comes early.
OVERFIT = RunConfig(
    dataset="simulated-binary", dataset_options={"train": 60, "test": 40}, hidden=(30,), batch_size=20, lr=0.03,
    validation=0.3, eval_every=10, steps=200, seed=4, backend="cpu", threads=1, lr_schedule="constant",
)  # fmt: skip
TIMED = {"run", "seconds", "steps_per_second"}


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in TIMED}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, dict[str, Any]]:
    """Folder, session and result of the whole run."""
    folder, session, result = start(OVERFIT, tmp_path_factory.mktemp("best") / "r")
    return folder.path, session, result


def test_result_evaluation_and_loaded_model_are_of_the_best_step(whole: tuple[Path, Any, dict[str, Any]]) -> None:
    path, session, result = whole
    store = CheckpointStore(path / "checkpoints")
    best, last = store.best(), store.newest()
    assert best is not None
    assert last is not None
    assert best.step == result["best_step"] < last.step == result["steps"] == 200
    assert result["checkpoint"] == {"step": best.step, "which": "best"}
    np.testing.assert_array_equal(session.trainer.arrays()["theta"], best.arrays["theta"])
    rows = session.dataset.test_rows
    expected = {which: aevb.load(path, which).bound(rows) for which in ("best", "last")}
    assert expected["best"] > expected["last"] + 1
    assert result["test_bound"] == pytest.approx(expected["best"], rel=1e-6)
    assert aevb.load(path).bound(rows) == aevb.load(path / "checkpoints").bound(rows) == expected["best"]
    for which, step in ((None, best.step), ("best", best.step), ("last", 200)):
        found = evaluate_run(path, which=which, methods=(), with_baselines=False)  # type: ignore[arg-type]
        assert found["checkpoint"] == {"step": step, "which": which or "best"}
        assert found["bound"]["value"] == pytest.approx(expected[which or "best"], rel=1e-6)
    train = read(path / "metrics.h5")["train"][1]
    assert result["train_bound"] == pytest.approx(train[best.step - 2 : best.step, 2].mean())  # up to these
    assert result["train_bound_steps"] == best.step // 10 == 2


def test_without_validation_rows_the_last_parameters_count(tmp_path: Path) -> None:
    folder, session, result = start(replace(OVERFIT, validation=0.0, steps=20), tmp_path / "r")
    assert (result["checkpoint"], result["best_step"]) == ({"step": 20, "which": "last"}, None)
    assert aevb.load(folder.path).bound(session.dataset.test_rows) == pytest.approx(result["test_bound"], rel=1e-6)
    with pytest.raises(UsageError, match=r'no sound best checkpoint .*; use which="last"$'):
        aevb.load(folder.path, which="best")


def test_which_is_checked(whole: tuple[Path, Any, dict[str, Any]], tmp_path: Path) -> None:
    path, _, result = whole
    with pytest.raises(UsageError, match="which='newest'"):
        aevb.load(path, which="newest")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is one state"):
        aevb.load(path / "checkpoints" / f"ckpt-{result['best_step']:010d}.h5", which="best")
    with pytest.raises(FileFormatError, match="holds no sound checkpoint"):
        aevb.load(tmp_path)


def test_a_finished_run_gives_the_best_to_who_draws_it(whole: tuple[Path, Any, dict[str, Any]]) -> None:
    path, session, result = whole
    _, again, same = resume(path)
    assert same == result
    np.testing.assert_array_equal(again.trainer.arrays()["theta"], session.trainer.arrays()["theta"])


@pytest.mark.parametrize("after", [1, 100])
def test_a_run_finished_by_resume_has_the_same_result(
    after: int, whole: tuple[Path, Any, dict[str, Any]], tmp_path: Path
) -> None:
    """Stopped before the best step, or after it."""
    path, _, expected = whole
    event = threading.Event()

    class StopAfter(Quiet):
        def steps(self, rows: Any, total: int, seconds: float) -> None:
            if rows[-1, 0] >= after:
                event.set()

    with pytest.raises(Stopped):
        start(OVERFIT, tmp_path / "r", display=StopAfter(), stop=event)
    _, _, result = resume(tmp_path / "r")
    assert timeless(result) == timeless(expected)
    assert same_folder(tmp_path / "r", path)


def same_folder(one: Path, other: Path) -> bool:
    """best.json, and the best and the newest checkpoint's arrays."""
    stores = [CheckpointStore(folder / "checkpoints") for folder in (one, other)]
    for found in ([s.best() for s in stores], [s.newest() for s in stores]):
        assert found[0] is not None
        assert found[1] is not None
        assert found[0].step == found[1].step
        assert found[0].arrays.keys() == found[1].arrays.keys()
        for name, array in found[0].arrays.items():
            assert array.tobytes() == found[1].arrays[name].tobytes(), name
    return (one / "checkpoints/best.json").read_bytes() == (other / "checkpoints/best.json").read_bytes()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(("first", "of"), [(None, 1), (None, 2), (10, 1)])
def test_a_kill_between_a_best_checkpoint_and_best_json_loses_neither(
    first: int | None, of: int, whole: tuple[Path, Any, dict[str, Any]], tmp_path: Path
) -> None:
    """Of the first best one, or of a later one; of a new run, or of one that is made longer."""
    path, _, expected = whole
    if first:
        start(replace(OVERFIT, steps=first), tmp_path / "r")
    write, seen = atomic.write_text, 0

    def killed(target: Any, text: str) -> None:
        nonlocal seen
        seen += Path(target).name == "best.json"
        if Path(target).name == "best.json" and seen == of:
            raise Killed
        write(target, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "write_text", killed)
        with pytest.raises(Killed):
            resume(tmp_path / "r", steps=200) if first else start(OVERFIT, tmp_path / "r")
    store = CheckpointStore(tmp_path / "r" / "checkpoints")
    assert store.best_score() == (store.steps()[-1], store.newest().meta["convergence"]["best"])  # type: ignore[index,union-attr]
    _, _, result = resume(tmp_path / "r")
    assert timeless(result) == timeless(expected)
    assert same_folder(tmp_path / "r", path)


def test_a_best_checkpoint_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    config = replace(OVERFIT, steps=200)
    event = threading.Event()

    class StopAfter(Quiet):
        def steps(self, rows: Any, total: int, seconds: float) -> None:
            if rows[-1, 0] >= 100:
                event.set()

    with pytest.raises(Stopped):
        start(config, tmp_path / "r", display=StopAfter(), stop=event)
    named = json.loads((tmp_path / "r/checkpoints/best.json").read_text())
    (tmp_path / "r/checkpoints" / named["file"]).write_bytes(b"nothing")
    _, _, result = resume(tmp_path / "r")
    assert result["checkpoint"] == {"step": 200, "which": "last"}
    assert f"the best checkpoint, of step {named['step']}, cannot be read" in " ".join(result["warnings"])
    with pytest.raises(AevbError, match="no sound best checkpoint"):
        evaluate_run(tmp_path / "r", which="best")
