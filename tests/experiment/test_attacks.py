"""The attacks of benchmarks/attacks in their short forms; the long ones are run before a release."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ATTACKS = Path(__file__).parents[2] / "benchmarks" / "attacks"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the attacks need Linux")
compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def attack(name: str, count: int, tmp_path: Path, *args: str) -> None:
    """So many cases, of which none breaks a promise."""
    found = tmp_path / "found.json"
    command = [sys.executable, str(ATTACKS / name), *args, "--json", str(found)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    record = json.loads(found.read_text()) if found.exists() else {}
    assert (child.returncode, record.get("broken")) == (0, []), child.stdout + child.stderr
    assert record["count"] == sum(record["outcomes"].values()) == count
    assert record["promises"]


@compiler
def test_crash_points(tmp_path: Path) -> None:
    """A kill, a failure that passes, a disk that is gone: somewhere in the middle of a run."""
    attack("crash_points.py", 3, tmp_path, "--only", "run:kill:61", "run:once-EIO:75", "run:on-EROFS:88")


def test_kills(tmp_path: Path) -> None:
    attack("kills.py", 1, tmp_path, "--only", "3")


@compiler
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_crash_points(tmp_path: Path) -> None:
    attack("crash_points.py", 100, tmp_path, "--count", "100")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_kills(tmp_path: Path) -> None:
    attack("kills.py", 34, tmp_path, "--count", "34")
