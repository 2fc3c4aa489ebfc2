"""Worker processes, threads and pipes last as long as the method that needs them, and no longer."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine import bench
from aevb_engine.backend import crew
from aevb_engine.errors import DataError, TrainingError
from aevb_engine.experiment import run
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.replicas import start
from aevb_engine.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks into /proc")
X = (np.random.default_rng(0).random((60, 20)) < 0.3).astype(np.uint8)
WAYS = ["processes", "threads", "alone"]


def made(**more: Any) -> aevb.VAE:
    given = {"hidden": 5, "batch_size": 20, "backend": "cpu", "threads": 2, "seed": 1, "lr_schedule": "constant"}
    return aevb.VAE(**{**given, **more})


def held() -> tuple[int, int, int]:
    """Child processes, open files and threads of rows."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    threads = [t for t in threading.enumerate() if t.name == "aevb-rows"]
    return len(children), len(os.listdir("/proc/self/fd")), len(threads)  # noqa: PTH208 # whose own file is gone


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AEVB_WORKERS", request.param)
    return str(request.param)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[tuple[bool, bool]]:
    """Whether there were processes, and threads, of their own after the blocks of steps."""
    found: set[tuple[bool, bool]] = set()
    finish, (others, *_) = Trainer.finish, held()

    def look(self: Trainer, steps: int) -> Any:
        children, _, threads = held()
        found.add((children > others, threads > 0))
        return finish(self, steps)

    monkeypatch.setattr(Trainer, "finish", look)
    return found


def test_fitted_models_hold_nothing(way: str, seen: set[tuple[bool, bool]]) -> None:
    made(threads=1).fit(X, steps=2)
    seen.clear()
    before = held()
    models = []
    for _ in range(3):
        models.append(made().fit(X, steps=120, validation=0.2, eval_every=60))
        assert held() == before
    for model in models:
        model.log_likelihood(X, samples=10)
        model.bound(X)
        model.sample(3)
    models[0].fit(X, steps=120)  # starts them again
    assert held() == before
    if crew.possible() or way != "processes":
        assert (True in {processes for processes, _ in seen}) == (way == "processes")


def test_a_fit_that_fails_holds_nothing(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made(threads=1).fit(X, steps=2)
    before = held()
    model = made(lr=1e25).fit(X, steps=1)

    def stop(row: dict[str, Any]) -> None:
        raise KeyError("the user's own")

    with pytest.raises(TrainingError):
        model.fit(X, steps=2000)
    assert held() == before
    with pytest.raises(KeyError):
        made().fit(X, steps=2000, callback=stop)
    with pytest.raises(DataError):
        made().fit(X, steps=1).fit(X[:, :3])
    assert held() == before


@pytest.mark.skipif(not crew.possible(), reason="crews need Linux on x86-64")
def test_a_callback_ends_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it asks of the model runs beside the fit, whose crew goes on."""
    monkeypatch.setenv("AEVB_WORKERS", "processes")
    made_crews: list[Any] = []
    init = crew.Crew.__init__

    def count(self: Any, *given: Any) -> None:
        made_crews.append(self)
        init(self, *given)

    monkeypatch.setattr(crew.Crew, "__init__", count)
    model = made()
    made(threads=1).fit(X, steps=2)
    before = held()
    model.fit(X, steps=200, callback=lambda row: model.log_likelihood(X[:5], samples=4) is None)
    assert len(made_crews) == 1
    assert held() == before


def test_stopping_and_starting_changes_no_bit(way: str) -> None:
    one = made().fit(X, steps=150)
    other = made()
    for steps in (60, 1, 89):
        other.fit(X, steps=steps)
    assert one.model.parameters.theta.tobytes() == other.model.parameters.theta.tobytes()


def test_several_threads_of_one_model_end_with_the_last() -> None:
    model = made().fit(X, steps=2)
    expected = model.log_likelihood(X, samples=20)
    before, found = held(), []

    def ask() -> None:
        found.extend(model.log_likelihood(X, samples=20) for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert len(found) == 30
    for values in found:
        np.testing.assert_array_equal(values, expected)
    assert held() == before


@pytest.mark.skipif(not crew.possible(), reason="crews need Linux on x86-64")
def test_a_run_that_has_ended_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEVB_WORKERS", "processes")
    options = {"dataset_options": {"train": 60, "test": 20}, "batch_size": 20, "hidden": 5, "threads": 2, "steps": 120}
    config = RunConfig.from_mapping({"dataset": "glyphs", "backend": "cpu", **options}, "the test")
    before = held()
    _, first, _ = run.start(config, tmp_path / "0")
    assert held() == before
    _, longer, _ = run.resume(tmp_path / "0", steps=180)
    assert held() == before
    assert [session.trainer.step for session in (first, longer)] == [120, 180]
    start(config, 2, tmp_path / "both")
    assert held() == before


def test_a_measurement_that_fails_holds_nothing(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that is looked at afterwards, with all that it was working on."""
    monkeypatch.setitem(bench.WORKLOADS, "small", bench.Workload(20, (5,), 2, "adam", rows=200))
    before, calls = held(), [0.1]
    assert len(list(bench.measure(["small"], 2, rounds=1, seconds=0.01))) == 1
    assert held() == before
    monkeypatch.setattr(bench, "floor_seconds", lambda *given: calls.pop())  # the second time there is nothing
    with pytest.raises(IndexError) as caught:
        list(bench.measure(["small"], 2, rounds=1, seconds=0.01))
    assert held() == before
    assert caught.tb is not None
