"""Random command lines and files, the short form of benchmarks/attacks/command_lines.py; streams that are gone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ATTACK = Path(__file__).parents[2] / "benchmarks" / "attacks" / "command_lines.py"
posix = pytest.mark.skipif(os.name != "posix", reason="streams of POSIX")


def attack(*args: str) -> dict:
    """The record of cases of which none breaks a promise."""
    found = Path("found.json")
    command = [sys.executable, str(ATTACK), *args, "--json", str(found)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout + child.stderr
    record = json.loads(found.read_text())
    assert record["broken"] == []
    assert record["count"] == sum(record["outcomes"].values())
    return record


@posix
def test_random_command_lines():
    record = attack("--count", "40")
    assert record["count"] == 40
    assert {"0", "2"} <= set(record["outcomes"])


@posix
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_random_command_lines():
    assert attack("--count", "2000", "--seed", "1")["count"] == 2000


SAYING = [
    ("show", "r"),
    ("show", "r", "--csv", "train"),
    ("evaluate", "r", "--method", "none", "--no-baselines"),
    ("resume", "r"),
    ("datasets", "list", "--json"),
    ("plugins", "show", "decoder", "gaussian"),
    ("doctor",),
    ("--help",),
    ("--version",),
    ("run", "--help"),
]
STREAMS = {">/dev/full": 74, ">&-": 0, ">&- 2>&-": 0, "2>/dev/full": 0, "| true": 0}


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("streams", STREAMS)
def test_streams_that_are_closed_full_or_gone(train, streams):
    """Every kind of answer: the exit code says whether it could be given, and nothing is said twice."""
    train("--output", "r")
    for args in SAYING:
        words = " ".join((sys.executable, "-m", "aevb_engine", *args))
        pipe = streams.startswith("|")
        command = f"{{ {words} {'' if pipe else streams}; echo $? >code; }} {streams if pipe else ''}"
        child = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert int(Path("code").read_text()) == STREAMS[streams], (args, child.stderr)
        assert "Traceback" not in child.stderr, args
        assert len(child.stderr.splitlines()) == (streams == ">/dev/full" and "2>" not in streams), (args, child.stderr)


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("streams", [">/dev/full", ">&- 2>&-"])
def test_what_was_trained_is_kept_where_nothing_can_be_said(small, streams):
    words = " ".join((sys.executable, "-m", "aevb_engine", "run", *small, "--steps", "3", "--no-figures --output r"))
    code = subprocess.run(["sh", "-c", f"{words} {streams}"], capture_output=True, check=False).returncode
    assert code == (74 if "full" in streams else 0)
    assert json.loads(Path("r/run.json").read_text())["status"] == "done"
