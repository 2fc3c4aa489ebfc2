"""What a run keeps belongs together: a log closed before the record says so; what is swapped or changed is told."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aevb_engine.errors import AevbError, FileFormatError, Stopped
from aevb_engine.experiment import log, run
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.evaluate import open_run
from aevb_engine.experiment.folder import RunFolder

SMALL: dict[str, Any] = {
    "dataset": "simulated-binary", "dataset_options": {"train": 100, "test": 50}, "hidden": (8,), "batch_size": 10,
    "steps": 30, "eval_every": 10, "seed": 5, "threads": 1,
}  # fmt: skip


class Notes(run.Quiet):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that are done, alike but for their seeds."""
    place = tmp_path_factory.mktemp("runs")
    run.start(RunConfig(**SMALL), place / "one")
    run.start(RunConfig(**{**SMALL, "seed": 6}), place / "two")
    return place


@pytest.fixture
def done(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "one", tmp_path / "r")
    return tmp_path / "r"


def marked(path: Path) -> None:
    """As a writer leaves it that was killed: every row is there, the file says that it is open."""
    columns, beside = log.read(path)["train"], path.with_suffix(".part")
    with h5py.File(path, "r", libver="latest", swmr=True, locking=False) as file:
        of = file.attrs["run"].decode()
    evaluations = log.read(path)["eval"]
    metrics = log.MetricsLog.create(beside, {"train": columns[0], "eval": evaluations[0]}, run=of)
    metrics.append("train", columns[1])
    metrics.append("eval", evaluations[1])
    metrics.commit()
    path.write_bytes(beside.read_bytes())
    metrics.close()
    beside.unlink()


@pytest.mark.parametrize("end", ["done", "stopped", "diverged", "failed"])
def test_the_log_is_closed_before_the_record_says_the_end(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    update = RunFolder.update

    def look(self: RunFolder, **fields: Any) -> None:
        if fields.get("status") not in (None, "running"):
            seen.append((fields["status"], log.is_open(self.metrics_path)))
        update(self, **fields)

    monkeypatch.setattr(RunFolder, "update", look)
    event = threading.Event()

    class Ending(run.Quiet):
        def steps(self, rows: Any, total: int, seconds: float) -> None:
            if end == "stopped":
                event.set()
            if end == "failed":
                raise AevbError("something")

    options = {**SMALL, "lr": 1e30} if end == "diverged" else {**SMALL, "steps": 200}
    try:
        run.start(RunConfig(**options), tmp_path / "r", display=Ending(), stop=event)
    except (AevbError, Stopped):
        assert end != "done"
    assert seen == [(end, False)]
    with h5py.File(tmp_path / "r" / "metrics.h5", "r") as file:
        assert set(file) == {"train", "eval"}


def test_a_done_run_whose_log_is_marked_as_open_is_mended(done: Path) -> None:
    path = done / "metrics.h5"
    before = {name: table[1].tobytes() for name, table in log.read(path).items()}
    marked(path)
    with pytest.raises(OSError, match="open for write"):
        h5py.File(path, "r")
    assert run.finished(done) is None
    notes = Notes()
    _, _, result = run.resume(done, display=notes)
    assert (result["status"], notes.lines) == ("done", [])
    with h5py.File(path, "r") as file:
        assert file["train"].shape == (30, 7)
    assert {name: table[1].tobytes() for name, table in log.read(path).items()} == before
    assert run.finished(done) is not None
    assert [p.name for p in done.glob("metrics*")] == ["metrics.h5"]


def damage(path: Path) -> None:
    data = path.read_bytes()
    place = data.index(np.array([7.0, 70.0]).tobytes())  # step and data points seen
    path.write_bytes(data[: place + 17] + b"\0\0" + data[place + 19 :])


@pytest.mark.parametrize("change", [damage, lambda path: path.unlink(), lambda path: path.write_bytes(b"no log")])
def test_the_log_of_a_done_run_is_rebuilt(done: Path, change: Callable[[Path], None]) -> None:
    path = done / "metrics.h5"
    before = {name: table[1].tobytes() for name, table in log.read(path).items()}
    change(path)
    assert run.finished(done) is None
    notes = Notes()
    run.resume(done, display=notes)
    assert "metrics rebuilt from the checkpoint" in notes.lines[0]
    assert {name: table[1].tobytes() for name, table in log.read(path).items()} == before
    assert len(list(done.glob("metrics.damaged-*.h5"))) == ("no metrics log" not in notes.lines[0])
    assert run.finished(done) is not None


def test_the_log_of_another_run_is_no_log_of_this_one(made: Path, done: Path) -> None:
    path = done / "metrics.h5"
    own = log.read(path)["train"][1].tobytes()
    shutil.copy(made / "two" / "metrics.h5", path)
    assert run.finished(done) is None
    notes = Notes()
    run.resume(done, display=notes)
    assert "the log of another run" in notes.lines[0]
    assert log.read(path)["train"][1].tobytes() == own


def test_an_older_log_of_the_same_run_lacks_rows(done: Path) -> None:
    own = log.read(done / "metrics.h5")["train"][1].tobytes()
    of = RunFolder(done).read_record()["id"]
    log.MetricsLog.resume(done / "metrics.h5", 20, run=of).close()
    assert run.finished(done) is None
    run.resume(done)
    assert log.read(done / "metrics.h5")["train"][1].tobytes() == own


def test_a_checkpoint_of_another_run_is_none_of_this_one(made: Path, done: Path) -> None:
    for path in (made / "two" / "checkpoints").iterdir():
        shutil.copy(path, done / "checkpoints" / path.name)
    with pytest.raises(FileFormatError, match="a checkpoint of another run"):
        open_run(done)
    with pytest.raises(FileFormatError, match="no checkpoint of it is left"):
        run.resume(done)


def test_a_record_of_another_run_is_none_of_this_one(made: Path, done: Path) -> None:
    shutil.copy(made / "two" / "run.json", done / "run.json")
    with pytest.raises(FileFormatError, match="a checkpoint of another run"):
        open_run(done)


def test_nothing_relies_on_a_record_that_was_changed(done: Path) -> None:
    path = done / "run.json"
    path.write_text(path.read_text().replace('"seed": 5', '"seed": 6'))
    for use in (run.resume, run.finished, open_run):
        with pytest.raises(FileFormatError, match="changed after the run wrote it"):
            use(done)
    text = path.read_text().splitlines()
    kept = [line for line in text if not line.startswith(('  "id"', '  "digest"'))]
    path.write_text("\n".join(kept).replace("},\n}", "}\n}").replace('",\n}', '"\n}'))  # as the line says
    assert run.finished(done) is not None
