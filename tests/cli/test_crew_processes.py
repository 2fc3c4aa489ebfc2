"""Runs that a crew of processes trains, from outside: Ctrl-C in a terminal, kills of the run and of a worker."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aevb_engine.backend import crew
from tests.patience import patience, until

from .test_processes import DATA, STEPS, assert_same, await_checkpoint, await_line, held

pytestmark = pytest.mark.skipif(not crew.possible(), reason="crews need Linux on x86-64")
RUN = ("run", *DATA, "--hidden", "60", "--threads", "2", "--steps", str(STEPS))


@pytest.fixture(autouse=True)
def processes(monkeypatch):
    """Always a crew, however busy the machine is."""
    monkeypatch.setenv("AEVB_WORKERS", "processes")


def workers(parent: int) -> list[int]:
    """Processes that ``parent`` has forked."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def await_worker(child) -> int:
    until(lambda: workers(child.pid), "a worker")
    return workers(child.pid)[0]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """By threads: the same bits."""
    place = tmp_path_factory.mktemp("reference") / "run"
    command = [sys.executable, "-m", "aevb_engine", *RUN, "--quiet", "--output", str(place)]
    subprocess.run(command, check=True, timeout=patience(), env={**os.environ, "AEVB_WORKERS": "threads"})
    return place


def test_a_signal_to_the_whole_group_stops_once_and_resume_equals(spawn, process, uninterrupted, gone):
    child = spawn(command=held(*RUN, "--output", "r", "--json"), group=True)
    await_checkpoint(Path("r"))
    worker = await_worker(child)
    os.killpg(child.pid, signal.SIGINT)
    await_line(child, "once more to leave at once")
    Path("go").touch()
    _, err = child.communicate(timeout=patience())
    assert child.returncode == 75, err
    assert err.splitlines()[-1].endswith("go on with: aevb-engine resume r")
    assert gone(worker)
    resumed = process("resume", "r", "--exact", "--json", "--no-figures")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["steps"] == STEPS
    assert_same(Path("r"), uninterrupted)


def test_a_killed_run_is_resumed_at_once(spawn, process, uninterrupted, gone):
    """Its worker neither keeps the lock of the run nor outlives it for long."""
    child = spawn(command=held(*RUN, "--quiet", "--output", "r"))
    await_checkpoint(Path("r"))
    worker = await_worker(child)
    child.kill()
    child.wait()
    resumed = process("resume", "r", "--quiet", "--no-figures")
    assert (resumed.returncode, resumed.stdout, resumed.stderr) == (0, "", "")
    assert_same(Path("r"), uninterrupted)
    assert gone(worker)


@pytest.mark.parametrize("moment", [0, 0.02, 0.4])
def test_no_worker_outlives_a_killed_run(spawn, gone, moment):
    """Killed while it forks, and later: the system ends them, though they look for their parent once in two minutes."""
    code = "import aevb_engine.backend.crew as crew; crew.LOOK = 120; from aevb_cli.main import main; main()"
    command = [sys.executable, "-c", code, *RUN, "--threads", "4", "--steps", "1000000", "--quiet", "--output", "r"]
    child = spawn(command=command)
    await_worker(child)
    time.sleep(moment)
    found = workers(child.pid)
    child.kill()
    child.wait()
    left = [worker for worker in found if not gone(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert found
    assert not left


def test_a_killed_worker_ends_the_run_with_one_line(spawn, process):
    child = spawn(command=held(*RUN, "--quiet", "--output", "r"))
    await_checkpoint(Path("r"))
    os.kill(await_worker(child), signal.SIGKILL)
    Path("go").touch()
    out, err = child.communicate(timeout=patience())
    assert (child.returncode, out, len(err.splitlines())) == (5, "", 1), err
    assert "a worker process ended unexpectedly" in err
    assert "aevb-engine resume r" in process("show", "r").stdout
