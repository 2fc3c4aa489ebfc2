"""The example distribution, installed as a user would: found by its entry point, checked, trained with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "plugins" / "examples" / "aevb-laplace"
TRAIN = """
import numpy as np
from aevb_engine import registry
from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.model.model import Architecture, Model
from aevb_engine.operation import Buffer
from aevb_engine.training.order import Order
from aevb_engine.training.step import ResidentRows, TrainingStep

(plugin,) = [p for p in registry.plugins("decoder") if p.name == "laplace"]
print(plugin.distribution, plugin.version, plugin.target)
likelihood = registry.create("decoder", "laplace")
model = Model(Architecture(6, 2, (8,)), likelihood, NumpyBackend(1))
model.parameters.initialize(1)
optimizer = registry.create("optimizer", "adam")
data = np.random.default_rng(0).laplace(3.0, 0.1, (200, 6)).astype(np.float32)
step = TrainingStep(
    model, optimizer, ResidentRows(Buffer("data", data)), objective_name="elbo", batch=20, samples=1, seed=1
)
order, bounds = Order(1, 200, 20), []
for start in range(0, 300, 50):
    step.clock.orders.array[:] = order.rows(start, 50)
    step.clock.rates.array[:] = [optimizer.coefficients(start + i + 1, 0.03) for i in range(50)]
    step.clock.cursor.array[:] = 0
    step.run(50)
    bounds.append(step.clock.metrics.array[:, 0].copy())
print(bounds[0][0], bounds[-1].mean())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example built and installed into a fresh folder, without a network."""
    source = tmp_path_factory.mktemp("source") / "aevb-laplace"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path_factory.mktemp("site")
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def _python(installed: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment, cwd=installed
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_found_by_name_and_trains(installed: Path) -> None:
    who, bounds = _python(installed, "-c", TRAIN).splitlines()
    assert who == "aevb-laplace 0.1.0 aevb_laplace:Laplace"
    first, last = map(float, bounds.split())
    assert last > first + 5


def test_its_own_tests_pass(installed: Path) -> None:
    out = _python(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(EXAMPLE / "tests"))
    assert "1 passed" in out


def test_its_readmes_commands_are_whole(installed: Path) -> None:
    """In its folder with pytest alone: neither the engine's options of pytest nor the plugins that these need."""
    assert "python -m pip install -e . pytest\n" in (EXAMPLE / "README.md").read_text(encoding="utf-8")
    options = ["-q", "-p", "no:xdist", "-p", "no:timeout", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=EXAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_its_readme_names_what_it_holds() -> None:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    for word in ("Head(", "Support(", "log_prob_backward", "check_likelihood(Laplace())", "aevb_engine.decoders"):
        assert word in text
