"""Several seeds of one run: side by side on a GPU, one after the other elsewhere, each as if it were alone."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb_engine.errors import Stopped, TrainingError, UsageError
from aevb_engine.experiment import replicas, run
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.folder import RunFolder
from aevb_engine.training.trainer import Trainer

BASE: dict[str, Any] = {
    "dataset": "simulated-binary",
    "dataset_options": {"train": 100, "test": 50},
    "hidden": (8,),
    "batch_size": 10,
    "steps": 30,
    "eval_every": 12,
    "seed": 5,
}
SIDE_BY_SIDE = RunConfig(**BASE, backend="gpu", trainer="persistent")
SEQUENTIAL = RunConfig(**BASE, backend="cpu")


class StopAfter(run.Quiet):
    """Asks to stop once some steps are shown."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def steps(self, rows: Any, total: int, seconds: float) -> None:
        self.event.set()


Found = list[tuple[RunFolder, Any, dict[str, Any]]]


def start(config: RunConfig, *given: Any, **more: Any) -> Found:
    """Folder, session and result of each, in order."""
    sessions: dict[Path, Any] = {}
    ended = replicas.start(
        config, *given, **more, ended=lambda folder, session, result: sessions.update({folder.path: session})
    )
    ended.check()
    return [(folder, sessions[folder.path], result) for folder, result in ended.runs]


def assert_as_alone(config: RunConfig, found: Found, folder: Path) -> None:
    for i, (place, session, result) in enumerate(found):
        _, alone, expected = run.start(replace(config, seed=config.seed + i), folder / f"alone-{i}")
        assert (place.path.name, result["seed"]) == (f"seed-{config.seed + i}", config.seed + i)
        for name, array in alone.trainer.arrays().items():
            np.testing.assert_array_equal(array, session.trainer.arrays()[name], err_msg=name)
        timed = {"run", "seconds", "steps_per_second"}
        assert {k: v for k, v in result.items() if k not in timed} == {
            k: v for k, v in expected.items() if k not in timed
        }
        assert place.read_record()["status"] == "done"


def test_one_after_the_other_on_the_cpu(tmp_path: Path) -> None:
    assert_as_alone(SEQUENTIAL, start(SEQUENTIAL, 2, tmp_path / "all"), tmp_path)


def test_side_by_side_each_is_as_alone(gpu: str, tmp_path: Path) -> None:
    assert_as_alone(SIDE_BY_SIDE, start(SIDE_BY_SIDE, 2, tmp_path / "all"), tmp_path)


def test_a_block_of_all_is_one_launch(double: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[int] = []
    begin = Trainer.begin

    def counted(self: Trainer, steps: int) -> None:
        launches.append(double.counts["launches"])
        begin(self, steps)

    monkeypatch.setattr(Trainer, "begin", counted)
    start(replace(SIDE_BY_SIDE, steps=20, eval_every=1000), 2, tmp_path / "all")
    assert launches[1] == launches[0]  # both begin before the launch
    assert all(later - before <= 1 for before, later in pairwise(launches))


def test_too_many_for_the_device_are_launched_one_after_the_other(
    double: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(double, "MULTIPROCESSORS", 1)
    lines: list[str] = []

    class Notes(run.Quiet):
        def note(self, line: str) -> None:
            lines.append(line)

    found = start(SIDE_BY_SIDE, 2, tmp_path / "all", display=Notes())
    assert [r["status"] for _, _, r in found] == ["done"] * 2
    assert len(lines) == 1
    assert "launched one after the other" in lines[0]


@pytest.mark.parametrize("config", [SEQUENTIAL, SIDE_BY_SIDE], ids=["sequential", "side by side"])
def test_one_that_diverges_does_not_end_the_others(
    config: RunConfig, double: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = Trainer._tables

    def ruinous(self: Trainer, first: int, steps: int) -> Any:
        made = tables(self, first, steps)
        if self.settings.seed == 6 and 0 <= 15 - made.first < len(made):
            made.coefficients[15 - made.first] = np.inf  # step 16
        return made

    monkeypatch.setattr(Trainer, "_tables", ruinous)
    with pytest.raises(TrainingError, match="1 of 3 replicas diverged: seed 6: step 16"):
        start(config, 3, tmp_path / "all")
    status = [json.loads((tmp_path / "all" / f"seed-{s}" / "run.json").read_text())["status"] for s in (5, 6, 7)]
    assert status == ["done", "diverged", "done"]


def test_stopped_replicas_go_on_alone_to_the_same_bits(double: Any, tmp_path: Path) -> None:
    event = threading.Event()
    with pytest.raises(Stopped, match=r"seed-5.*seed-6"):
        start(SIDE_BY_SIDE, 2, tmp_path / "all", display=StopAfter(event), stop=event)
    for seed in (5, 6):
        folder, resumed, _ = run.resume(tmp_path / "all" / f"seed-{seed}")
        assert 0 < folder.read_record()["resumed_from"] < 30
        _, alone, _ = run.start(replace(SIDE_BY_SIDE, seed=seed), tmp_path / f"alone-{seed}")
        for name, array in alone.trainer.arrays().items():
            np.testing.assert_array_equal(array, resumed.trainer.arrays()[name], err_msg=name)


VARY = {"lr": ("0.01", "0.03"), "latent-dim": ("2", "3")}


def assert_varied_as_alone(config: RunConfig, found: Found, folder: Path) -> None:
    expected = [(0.01, 2), (0.01, 3), (0.03, 2), (0.03, 3)]
    assert [result["varied"] for *_, result in found] == [{"lr": lr, "latent-dim": z} for lr, z in expected]
    for (place, session, result), (lr, z) in zip(found, expected, strict=True):
        assert place.path.name == f"lr-{lr}-latent-dim-{z}-seed-5"
        _, alone, single = run.start(replace(config, lr=lr, latent_dim=z), folder / f"alone-{lr}-{z}")
        for name, array in alone.trainer.arrays().items():
            np.testing.assert_array_equal(array, session.trainer.arrays()[name], err_msg=name)
        assert result["test_bound"] == single["test_bound"]
    assert len({result["test_bound"] for *_, result in found}) == 4


def test_varied_one_after_the_other_on_the_cpu(tmp_path: Path) -> None:
    assert_varied_as_alone(SEQUENTIAL, start(SEQUENTIAL, None, tmp_path / "all", vary=VARY), tmp_path)


class NoNotes(run.Quiet):
    """Nothing is launched one after the other for want of room or of a kernel."""

    def note(self, line: str) -> None:
        raise AssertionError(line)


def test_varied_side_by_side_each_is_as_alone(gpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two texts, two learning rates each."""
    if gpu == "double":
        monkeypatch.setattr(sys.modules["cupy"], "MULTIPROCESSORS", 9)
    found = start(SIDE_BY_SIDE, None, tmp_path / "all", vary=VARY, display=NoNotes())
    assert_varied_as_alone(SIDE_BY_SIDE, found, tmp_path)


def test_varied_options_of_plugins_side_by_side(gpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if gpu == "double":
        monkeypatch.setattr(sys.modules["cupy"], "MULTIPROCESSORS", 9)
    config = replace(SIDE_BY_SIDE, objective="beta")
    vary = {"objective.beta": ("1", "4"), "optimizer.beta1": ("0.9", "0.5")}
    found = start(config, None, tmp_path / "all", vary=vary)
    for (_, session, result), (beta, first) in zip(found, product(*vary.values()), strict=True):
        assert result["varied"] == {"objective.beta": float(beta), "optimizer.beta1": float(first)}
        assert result["trainer"] == "persistent"
        more = replace(config, objective_options={"beta": beta}, optimizer_options={"beta1": first})
        _, alone, _ = run.start(more, tmp_path / f"alone-{beta}-{first}")
        for name, array in alone.trainer.arrays().items():
            np.testing.assert_array_equal(array, session.trainer.arrays()[name], err_msg=name)
    assert len({session.trainer.arrays()["theta"].tobytes() for _, session, _ in found}) == 4


def block_launches(double: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Launches within each block of steps, counted around the call that enqueues all."""
    found: list[int] = []
    of = replicas._Launches.of

    def counted(self: Any, recorders: Any) -> Any:
        launch = of(self, recorders)

        def call(steps: int) -> None:
            before = double.counts["launches"]
            launch(steps)
            found.append(double.counts["launches"] - before)

        return call

    monkeypatch.setattr(replicas._Launches, "of", counted)
    return found


def test_varied_runs_share_a_launch(double: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(double, "MULTIPROCESSORS", 4)
    launches = block_launches(double, monkeypatch)
    config = replace(SIDE_BY_SIDE, steps=20, eval_every=1000)
    found = start(config, 2, tmp_path / "all", vary={"latent-dim": ("2", "3")}, display=NoNotes())
    assert [r["seed"] for *_, r in found] == [5, 6, 5, 6]
    assert launches
    assert set(launches) == {1}
    resumed = run.resume(tmp_path / "all" / "latent-dim-3-seed-6")[2]
    assert resumed["test_bound"] == found[3][2]["test_bound"]


def test_runs_of_other_lengths_and_number_types(double: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are done leave; float32 and float64 have no kernel in common."""
    launches = block_launches(double, monkeypatch)
    vary = {"steps": ("10", "20"), "precision": ("float32", "float64")}
    found = start(replace(SIDE_BY_SIDE, steps=None), None, tmp_path / "all", vary=vary)
    assert [(r["steps"], r["precision"]) for *_, r in found] == [
        (10, "float32"), (10, "float64"), (20, "float32"), (20, "float64"),
    ]  # fmt: skip
    assert set(launches) == {2}
    expected = run.start(replace(SIDE_BY_SIDE, steps=20), tmp_path / "alone")[2]
    assert found[2][2]["test_bound"] == expected["test_bound"]


def test_what_cannot_be_persistent_follows(double: Any, tmp_path: Path) -> None:
    vary = {"objective": ("wake-sleep", "elbo")}
    found = start(SIDE_BY_SIDE, None, tmp_path / "all", vary=vary)
    assert [(r["objective"], r["trainer"]) for *_, r in found] == [("wake-sleep", "eager"), ("elbo", "persistent")]


def test_a_bad_value_is_known_before_anything_is_created(tmp_path: Path) -> None:
    for vary in ({"optimizer": ("adam", "adamm")}, {"batch-size": ("10", "0")}, {"seed": ("1", "1")}):
        with pytest.raises(UsageError):
            start(SEQUENTIAL, None, tmp_path / "all", vary=vary)
    with pytest.raises(UsageError, match="--vary: 1002 runs"):
        start(SEQUENTIAL, 501, tmp_path / "all", vary={"lr": ("1", "2")})
    with pytest.raises(UsageError, match="exclude each other"):
        start(SEQUENTIAL, 2, tmp_path / "all", vary={"seed": ("1", "2")})
    assert not (tmp_path / "all").exists()


def test_summary_of_combinations() -> None:
    rows = [("a", 1, -1.0), ("a", 2, -3.0), ("b", 1, -4.0)]
    results = [{"varied": {"decoder": d, "seed": s}, "test_bound": b} for d, s, b in rows]
    found = replicas.summary(results)
    assert (found["ranked_by"], found["ranked_within"]) == ("test_bound", [])
    assert found["combinations"] == [
        {"varied": {"decoder": "a"}, "rank": 1, "runs": 2, "diverged": 0,
         "test_bound": -2.0, "test_bound_sd": pytest.approx(2**0.5)},
        {"varied": {"decoder": "b"}, "rank": 2, "runs": 1, "diverged": 0, "test_bound": -4.0, "test_bound_sd": None},
    ]  # fmt: skip


def test_summary_and_limits() -> None:
    found = replicas.summary([{"test_bound": -90.0}, {"test_bound": -92.0}])
    assert (found["test_bound"], found["test_bound_sd"]) == (-91.0, pytest.approx(2**0.5))
    assert "test_bound" not in replicas.summary([{"test_bound": None}])
    with pytest.raises(UsageError, match="--replicas 0"):
        start(SEQUENTIAL, 0)
