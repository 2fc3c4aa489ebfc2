"""Several seeds of one run: side by side on a GPU, one after the other elsewhere, each as if it were alone."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb_engine.errors import Stopped, TrainingError, UsageError
from aevb_engine.experiment import replicas, run
from aevb_engine.experiment.config import RunConfig
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


def assert_as_alone(config: RunConfig, found: list[replicas.Replica], folder: Path) -> None:
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
    assert_as_alone(SEQUENTIAL, replicas.start(SEQUENTIAL, 2, tmp_path / "all"), tmp_path)


def test_side_by_side_each_is_as_alone(gpu: str, tmp_path: Path) -> None:
    assert_as_alone(SIDE_BY_SIDE, replicas.start(SIDE_BY_SIDE, 2, tmp_path / "all"), tmp_path)


def test_a_block_of_all_is_one_launch(double: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[int] = []
    begin = Trainer.begin

    def counted(self: Trainer, steps: int) -> None:
        launches.append(double.counts["launches"])
        begin(self, steps)

    monkeypatch.setattr(Trainer, "begin", counted)
    replicas.start(replace(SIDE_BY_SIDE, steps=20, eval_every=1000), 2, tmp_path / "all")
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

    found = replicas.start(SIDE_BY_SIDE, 2, tmp_path / "all", display=Notes())
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
        replicas.start(config, 3, tmp_path / "all")
    status = [json.loads((tmp_path / "all" / f"seed-{s}" / "run.json").read_text())["status"] for s in (5, 6, 7)]
    assert status == ["done", "diverged", "done"]


def test_stopped_replicas_go_on_alone_to_the_same_bits(double: Any, tmp_path: Path) -> None:
    event = threading.Event()
    with pytest.raises(Stopped, match=r"seed-5.*seed-6"):
        replicas.start(SIDE_BY_SIDE, 2, tmp_path / "all", display=StopAfter(event), stop=event)
    for seed in (5, 6):
        folder, resumed, _ = run.resume(tmp_path / "all" / f"seed-{seed}")
        assert 0 < folder.read_record()["resumed_from"] < 30
        _, alone, _ = run.start(replace(SIDE_BY_SIDE, seed=seed), tmp_path / f"alone-{seed}")
        for name, array in alone.trainer.arrays().items():
            np.testing.assert_array_equal(array, resumed.trainer.arrays()[name], err_msg=name)


def test_summary_and_limits() -> None:
    found = replicas.summary([{"test_bound": -90.0}, {"test_bound": -92.0}])
    assert (found["test_bound"], found["test_bound_sd"]) == (-91.0, pytest.approx(2**0.5))
    assert "test_bound" not in replicas.summary([{"test_bound": None}])
    with pytest.raises(UsageError, match="--replicas 0"):
        replicas.start(SEQUENTIAL, 0)
