"""``resume`` of a run that is done: it says so, and leaves every file as it was."""

import json
from pathlib import Path

import pytest

from aevb_engine.experiment.folder import RunFolder


def contents():
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in Path("r").rglob("*") if p.is_file()}


def test_a_finished_run_is_told_and_left_alone(call, train, monkeypatch):
    result = train("--output", "r")
    Path("r/figures/overview.png").touch()
    before = contents()

    def prepare(*_, **__):
        raise AssertionError("the data were drawn")

    monkeypatch.setattr("aevb_engine.experiment.run.prepare", prepare)
    shown = call("resume", "r")
    assert (shown.exit_code, shown.stderr) == (0, "")
    first, *rest = shown.stdout.splitlines()
    assert first.startswith("the run was done already, at 20")
    assert f"{result['test_bound']:.2f}" in rest[0]
    assert "in all" not in shown.stdout
    for words in ("30 steps", "figures  r/figures/overview.png", "aevb-engine show r"):
        assert words in shown.stdout
    told = json.loads(call("resume", "r", "--json").stdout)
    assert told.pop("resumed") is False
    assert told == result
    assert call("resume", "r", "--quiet").output == ""
    assert contents() == before


def test_a_run_with_steps_left_is_resumed(call, train):
    train("--output", "r")
    RunFolder(Path("r")).update(status="stopped")
    told = json.loads(call("resume", "r", "--json", "--no-figures", "--quiet").stdout)
    assert (told["resumed"], told["status"], told["steps"]) == (True, "done", 30)


def test_a_finished_run_that_has_lost_its_last_checkpoint_trains_again(call, train):
    result = train("--output", "r", "--eval-every", "5", "--validation", "0.2")
    for path in Path("r/checkpoints").glob("ckpt-*30.h5*"):
        path.unlink()
    if not list(Path("r/checkpoints").glob("ckpt-*.h5")):
        pytest.skip("it was the only one")
    told = json.loads(call("resume", "r", "--json", "--no-figures", "--quiet").stdout)
    assert told["resumed"] is True
    assert told["test_bound"] == result["test_bound"]
