"""What a fit shows, where, and what it says while loops are compiled."""

from __future__ import annotations

import io
import re
import sys
import threading
import types
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine import jit
from aevb_engine.interface import progress
from aevb_engine.interface.progress import Bar, Line, Lines, Silent, choose
from tests.patience import until

X = (np.random.default_rng(0).random((60, 20)) < 0.3).astype(np.uint8)
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Stream(io.StringIO):
    """stderr, a terminal or none."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(terminal: bool, term: str = "xterm", **variables: str) -> Stream:
        stream = Stream(terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"TERM": term, "COLUMNS": "150", **variables}.items():
            monkeypatch.setenv(name, value)
        return stream

    return make


def made() -> aevb.VAE:
    return aevb.VAE(hidden=5, batch_size=20, backend="cpu", threads=1, seed=1)


@pytest.mark.parametrize(
    ("terminal", "term", "asked", "kind"),
    [
        (True, "xterm", None, Bar),
        (True, "xterm", False, Silent),
        (True, "dumb", None, Lines),
        (True, "", None, Lines),
        (False, "xterm", None, Silent),
        (False, "xterm", True, Lines),
        (False, "dumb", False, Silent),
    ],
)
def test_where_it_is_shown(stderr: Any, terminal: bool, term: str, asked: bool | None, kind: type) -> None:
    stderr(terminal, term)
    assert type(choose(asked)) is kind


def test_no_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert type(choose(True)) is Silent
    made().fit(X, steps=2, progress=True)


@pytest.mark.parametrize(("widgets", "kind"), [(True, Bar), (False, Line)])
def test_in_a_notebook(stderr: Any, monkeypatch: pytest.MonkeyPatch, widgets: bool, kind: type) -> None:
    """Without widgets rich would warn and show nothing: a line that is drawn over itself is shown."""
    stream = stderr(False)
    ipython: Any = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr(progress, "find_spec", lambda name: object() if widgets and name == "ipywidgets" else None)
    assert type(choose(None)) is kind
    assert type(choose(False)) is Silent
    if not widgets:
        made().fit(X, steps=120)
        assert "\r" in stream.getvalue()
        assert stream.getvalue().split("\r")[-1].startswith("step 120/120")
    ipython.get_ipython = lambda: types.SimpleNamespace()  # in a terminal's IPython
    assert type(choose(None)) is Silent


def test_lines(stderr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lines, "every", 0.0)
    stream = stderr(False)
    model = made().fit(X, steps=200, validation=0.25, eval_every=100, progress=True)
    lines = stream.getvalue().splitlines()
    assert len(lines) > 3
    last = lines[-1]
    assert last.startswith("step 200/200  ")
    assert re.search(r"[\d,]+ steps/s", last)
    assert f"held-out bound {model.evaluations[-1]['bound']:.2f}" in last
    assert f"bound {np.mean([row['bound'] for row in model.history[-1:]]):.2f}" in last
    assert any(" left" in line for line in lines[1:-1])
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("plain", [False, True])
def test_a_bar(stderr: Any, plain: bool) -> None:
    stream = stderr(True, **({"NO_COLOR": "1"} if plain else {}))
    model = made()
    model.fit(X, steps=200, validation=0.25)
    shown = CODES.sub("", stream.getvalue())
    assert "step 200/200" in shown
    assert "steps/s" in shown
    assert f"held-out bound {model.evaluations[-1]['bound']:.2f}" in shown
    coloured = [c for c in COLOUR.findall(stream.getvalue()) if re.search(r"\[(3[0-7]|9[0-7]|38)", c)]
    assert bool(coloured) is not plain


def test_elsewhere_nothing_is_said_or_loaded(stderr: Any) -> None:
    stream = stderr(False)
    made().fit(X, steps=100, validation=0.25)
    assert stream.getvalue() == ""


def test_an_autoencoder_shows_its_reconstruction(stderr: Any) -> None:
    stream = stderr(False)
    aevb.VAE(hidden=5, objective="autoencoder", batch_size=20, backend="cpu", threads=1).fit(
        X, steps=60, progress=True, validation=0.25
    )
    assert re.search(r"  reconstruction -?[\d.]+  held-out reconstruction -?[\d.]+$", stream.getvalue())


def test_a_terminal_that_has_gone_ends_no_fit(stderr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(text: str) -> int:
        raise OSError("gone")

    monkeypatch.setattr(Lines, "every", 0.0)
    monkeypatch.setattr(stderr(False), "write", gone)
    assert made().fit(X, steps=60, progress=True).history[-1]["step"] == 60


# Compiling --------------------------------------------------------------------------------------------------


@pytest.fixture
def twelve_seconds(monkeypatch: pytest.MonkeyPatch) -> Any:
    """So many loops that have been compiled for 12 s, however long the test takes."""
    monkeypatch.setattr(jit, "time", types.SimpleNamespace(monotonic=lambda: 112.0))
    return lambda count: jit.Compiling(count, 100.0)


def test_compiling_is_said_in_plain_lines(stderr: Any, twelve_seconds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lines, "every", 1e9)  # a second line is not due
    stream = stderr(False)
    with choose(True):
        for count in (1, 2, 3):
            for each in jit.listeners:
                each(twelve_seconds(count))
    assert stream.getvalue() == "compiling loops (first time; kept on disk): 1 so far, 12 s\n"
    assert not jit.listeners


def test_compiling_is_shown_by_the_bar(stderr: Any, twelve_seconds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stderr(True)
    series = twelve_seconds(3)
    monkeypatch.setattr(jit, "compiling", lambda: series)
    with choose(None):
        text = "compiling loops (first time; kept on disk): 3 so far, 12 s"
        until(lambda: text in CODES.sub("", stream.getvalue()), "a frame with the loops")


def test_no_thread_is_left(stderr: Any) -> None:
    stderr(True)
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        made().fit(X, steps=500, callback=lambda row: 1 / 0)
    until(lambda: threading.active_count() <= before, "the end of the bar's thread")
