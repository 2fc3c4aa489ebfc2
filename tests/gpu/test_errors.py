"""What the user is told where the GPU cannot be used: one line, the cause and the mend, exit code 5."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import patience

DOUBLE = Path(__file__).parents[1] / "cuda_on_cpu" / "double"
SMALL = [
    "run", "--dataset", "simulated-binary", "-o", "dataset.train=100", "-o", "dataset.test=50", "--hidden", "8",
    "--batch-size", "20", "--steps", "20", "--no-figures", "--json",
]  # fmt: skip


def before(folder: object) -> str:
    """The path of modules with a folder in front: what is tested stays what this process tests."""
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def command(tmp_path: Path, *options: str, double: str | None) -> subprocess.CompletedProcess[str]:
    """The command line, with the double in a state, or without any cupy (None)."""
    path = str(DOUBLE)
    if double is None:
        blocked = tmp_path / "blocked" / "cupy"
        blocked.mkdir(parents=True, exist_ok=True)
        (blocked / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'cupy'\", name='cupy')\n")
        path = str(blocked.parent)
    environment = {**os.environ, "PYTHONPATH": before(path), "AEVB_DOUBLE": double or ""}
    return subprocess.run(
        [sys.executable, "-m", "aevb_engine", *SMALL, *options],
        capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=patience(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (None, "CuPy is not installed"),
        ("no driver", "no NVIDIA driver"),
        ("no device", "no CUDA device"),
        ("no library", "CUDA library"),
    ],
)
def test_gpu_that_cannot_be_used(state: str | None, cause: str, tmp_path: Path) -> None:
    done = command(tmp_path, "--backend", "gpu", double=state)
    assert done.returncode == 5, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert cause in done.stderr
    assert ("install" in done.stderr) or ("nvidia-smi" in done.stderr)
    assert not (tmp_path / "runs").exists()


def test_doctor_sees_the_device_or_says_why_not() -> None:
    """It opens the backend itself, in a child process."""
    for state, expected in (("", "usable: shim, CUDA 13.0"), ("no device", "not usable: no CUDA device is visible")):
        environment = {**os.environ, "PYTHONPATH": before(DOUBLE), "AEVB_DOUBLE": state}
        command = [sys.executable, "-m", "aevb_engine", "doctor"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=patience())
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


@pytest.mark.parametrize("state", [None, "no driver", "no device", "no library"])
def test_auto_runs_on_the_cpu_without_a_warning(state: str | None, tmp_path: Path) -> None:
    """Why is what `doctor` says."""
    done = command(tmp_path, "--backend", "auto", double=state)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith("warning") or "CPU" in line]
    assert '"backend": "cpu"' in done.stdout


def test_a_run_through_the_double_agrees_with_the_cpu(tmp_path: Path) -> None:
    import json

    results = []
    for backend in ("cpu", "gpu"):
        done = command(tmp_path, "--backend", backend, double="")
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    assert [r["backend"] for r in results] == ["cpu", "gpu"]
    assert abs(results[0]["test_bound"] - results[1]["test_bound"]) < 1e-3
