"""A part that a run can do without, and that is broken here, stops nothing."""

import io
import json
import os
import sys
from pathlib import Path

import pytest

from aevb_cli import display, progress
from aevb_cli.signals import Interrupt
from aevb_engine.backend import choose
from aevb_engine.errors import BackendError
from aevb_engine.interface import progress as in_python


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_rich_in_plain_lines(monkeypatch):
    for name in [m for m in sys.modules if m.split(".")[0] == "rich" or m == "aevb_cli.live"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert type(display.choose(Interrupt(), quiet=False, verbose=False)) is display.PlainScreen
    assert type(progress.choose(quiet=False)) is progress.PlainStages
    assert type(in_python.choose(None)) is in_python.Lines


def test_without_matplotlib_no_figures(call, small, monkeypatch):
    for name in [m for m in sys.modules if m.split(".")[0] == "matplotlib" or "experiment.figures" in m]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = call("run", *small, "--steps", "3", "--json")
    assert result.exit_code == 0, result.stderr
    assert "warning: the figures could not be drawn (ModuleNotFoundError" in result.stderr
    assert "the figures could not be drawn" in json.loads(result.stdout)["warnings"][-1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise RuntimeError('no such driver entry')", "CuPy cannot be imported (no such driver entry)"),
        ("raise ImportError('libcublas.so')", "CuPy cannot be imported (libcublas.so)"),
        ("raise SystemExit('no')", "CuPy cannot be imported (no)"),
        ("", "cupy is no CuPy"),
    ],
)
def test_a_broken_cupy(monkeypatch, tmp_path, text, words):
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy/__init__.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [m for m in sys.modules if m.split(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(choose, "driver_present", lambda: True)
    backend, reason = choose.choose("auto")
    assert backend.name == "cpu"
    assert words in reason
    with pytest.raises(BackendError, match="backend gpu: ") as caught:
        choose.choose("gpu")
    assert "reinstall it: " in str(caught.value)


def test_a_package_that_is_needed(process, small):
    """One line, and no internal error: nothing is amiss with the program."""
    Path("stub/h5py").mkdir(parents=True)
    Path("stub/h5py/__init__.py").write_text("raise ImportError('libhdf5.so: cannot open shared object file')")

    done = process("run", *small, "--steps", "3", env={**os.environ, "PYTHONPATH": str(Path("stub").absolute())})
    assert (done.returncode, done.stdout) == (5, ""), done.stderr
    assert done.stderr.startswith("error: a package that the engine needs cannot be imported (libhdf5.so")
    assert len(done.stderr.splitlines()) == 1
