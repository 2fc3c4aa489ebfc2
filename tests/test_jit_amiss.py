"""A numba that cannot be used: it is tried once, one warning says why with the mend, and NumPy does the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aevb_engine import blame, jit
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.session import prepare

# As much of numba as the engine touches. ``compile`` fails, or what the decorator does.
WHOLE = {
    "__init__.py": """
import os
__version__ = "0.99"
class config:
    DISABLE_JIT = int(os.environ.get("NUMBA_DISABLE_JIT", 0))
class Loop:
    typeof_pyval = staticmethod(type)
    def __init__(self, function):
        self.__name__ = function.__name__
    def compile(self, types):
        print("tried", self.__name__)
        raise OSError(28, "no room") if os.environ["STUB"] == "disk" else TypeError("not\\n  typed")
def njit(**options):
    if os.environ["STUB"] == "place":
        raise RuntimeError("cannot cache function '_probe': no locator available for file")
    return Loop
def typeof(value): ...
""",
    "core/__init__.py": "",
    "core/event.py": "class Listener: ...\ndef register(*given): ...\n",
    "extending.py": "def register_jitable(**options): return lambda function: function\n",
}
FIT = """
import warnings
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as said:
    import numpy as np
    import aevb_engine as aevb
    x = np.random.default_rng(0).integers(0, 2, (60, 6))
    for _ in range(2):
        model = aevb.VAE("bernoulli", hidden=5, batch_size=20, backend="cpu", threads=1).fit(x, steps=100)
import json
from aevb_engine import jit
lines = [str(w.message) for w in said if "loops" in str(w.message) or "scalar" in str(w.message)]
print(json.dumps([lines, jit.problem(), jit.available(), model.history[-1]["bound"]]))
"""


def fit(**variables: str) -> tuple[list[str], str | None, bool, float, str]:
    done = subprocess.run(
        [sys.executable, "-c", FIT], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    *before, last = done.stdout.splitlines()
    return *json.loads(last), "\n".join(before)  # type: ignore[return-value]


def stub(tmp_path: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        place = tmp_path / "numba" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    (tmp_path / "numba").mkdir(exist_ok=True)
    return os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="module")
def plain() -> float:
    """The bound without numba."""
    return fit(AEVB_JIT="0")[3]


CASES: list[tuple[dict[str, str], dict[str, str], list[str]]] = [
    (
        {"__init__.py": "raise ImportError('Numba needs NumPy 2.1\\nor less')"},
        {},
        ["ImportError: Numba needs NumPy 2.1"],
    ),
    ({"__init__.py": "raise SystemError('initialization of _internal failed')"}, {}, ["SystemError", "[jit]"]),
    ({"readme.txt": "runs of numba"}, {}, ["cannot be used", "rename that folder"]),
    (WHOLE, {"STUB": "", "NUMBA_DISABLE_JIT": "1"}, ["NUMBA_DISABLE_JIT is set; unset it"]),
    (WHOLE, {"STUB": "place"}, ["no place for what it compiles", "no locator available", "set NUMBA_CACHE_DIR to"]),
    (WHOLE, {"STUB": "disk"}, ["cannot keep what it compiles: OSError", "set NUMBA_CACHE_DIR to"]),
    (WHOLE, {"STUB": "types"}, ["numba 0.99 does not compile", "TypeError: not typed"]),
]


@pytest.mark.parametrize(("files", "variables", "words"), CASES, ids=[c[2][0][:20] for c in CASES])
def test_numpy_and_one_warning(
    tmp_path: Path, plain: float, files: dict[str, str], variables: dict[str, str], words: list[str]
) -> None:
    if "readme.txt" in files and jit._spec() is not None:
        pytest.skip("numba is installed: a folder without code hides no package")
    lines, problem, available, bound, tried = fit(PYTHONPATH=stub(tmp_path, files), **variables)
    assert len(lines) == 1, lines
    assert lines[0] == problem
    assert "\n" not in lines[0]
    assert all(word in lines[0] for word in words), lines
    assert "AEVB_JIT=0" in lines[0]
    assert not available
    assert bound == plain
    assert len(tried.splitlines()) <= 2  # where it was a plugin's loop, one of the engine's own


def test_the_command_line_and_doctor_say_it(tmp_path: Path) -> None:
    environment = {**os.environ, "STUB": "types", "PYTHONPATH": stub(tmp_path, WHOLE)}

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "aevb_engine", *args]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    data = ("--dataset", "simulated-binary", "-o", "dataset.train=60", "-o", "dataset.test=20")
    run = call("run", *data, "--hidden", "4", "--steps", "3", "--no-figures", "--output", "r", "--replicas", "2")
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("warning: loops are not compiled, NumPy runs in their place, slower: numba 0.99") == 1
    record = json.loads((tmp_path / "r" / "seed-0" / "run.json").read_text())
    assert record["environment"]["compiled loops"] is False  # as its bits are
    shown = call("doctor")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "not compiled by numba" in shown.stdout
    assert "warning: loops are not compiled" in " ".join(shown.stdout.split())
    told = json.loads(call("doctor", "--json").stdout.partition("\n")[2])
    assert "numba 0.99 does not compile" in told["warnings"][0]


class Odd:
    """A loop that numba refuses."""

    __name__ = "odd"
    typeof_pyval = staticmethod(type)

    def compile(self, types: Any) -> None:
        raise TypeError("no such type")


def test_a_plugins_loop_alone_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = type("Mine", (), {})()
    monkeypatch.setattr(jit, "available", lambda: True)
    monkeypatch.setattr(jit, "works", lambda: True)
    monkeypatch.setattr(jit, "_failed", set())
    blame.remember(plugin, blame.Origin("decoder", "mine", "my:Mine"))
    with pytest.warns(UserWarning, match="decoder plugin 'mine' .my:Mine.: scalar cannot be compiled: TypeError"):
        assert not jit.compiles(Odd(), 1.0, of=plugin)
    assert not jit.compiles(Odd(), 1.0, of=plugin)  # without another word
    assert jit._problem is None


def test_a_scalar_that_numba_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The array code of that optimizer alone; the other loops are compiled."""
    if not jit.available():
        pytest.skip("numba is not installed")
    from aevb_plugins.optimizers.sgd import Sgd

    monkeypatch.setattr(Sgd, "scalar", staticmethod(lambda grad, coef, theta: object()))
    with pytest.warns(UserWarning, match=r"optimizer plugin 'sgd' .* scalar cannot be compiled"):
        trainer = prepare(
            RunConfig(dataset="simulated-binary", hidden=(4,), optimizer="sgd", steps=9, threads=1)
        ).trainer
    assert trainer.advance(3).shape == (3, 6)
    assert jit.available()
