"""A run says when loops are being compiled."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from aevb_cli import display
from aevb_cli.display import PlainScreen, Screen, State
from aevb_cli.live import LiveScreen
from aevb_cli.signals import Interrupt
from aevb_engine import jit

TEXT = "compiling loops (first time; kept on disk): 1 so far, 12 s"


@pytest.fixture(autouse=True)
def _twelve_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first loop, however long the test takes."""
    monkeypatch.setattr(jit, "time", SimpleNamespace(monotonic=lambda: 112.0))


def test_a_plain_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LINE_SECONDS", 1e9)  # a second line is not due
    with PlainScreen(Interrupt()):
        for count in (1, 2, 3):
            for each in jit.listeners:
                each(jit.Compiling(count, 100.0))
    assert capsys.readouterr().err == TEXT + "\n"
    assert not jit.listeners


def test_a_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = LiveScreen(Interrupt())

    def shown(width: int = 100) -> str:
        out = io.StringIO()
        Console(file=out, width=width, force_terminal=False).print(screen)
        return out.getvalue()

    assert "compiling" not in shown()
    monkeypatch.setattr(jit, "compiling", lambda: jit.Compiling(1, 100.0))
    for phase in ("loading", "training"):
        screen.phase = phase
        assert TEXT in shown()
        assert max(map(len, shown(40).splitlines())) <= 40


def test_the_time_left_does_not_count_what_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    state = State()
    now[0] += 60  # the first block compiles
    state.add(np.array([[10, 0, 0, 0, 0, 0]]), 110, 60.0)
    now[0] += 1
    state.add(np.array([[20, 0, 0, 0, 0, 0]]), 110, 61.0)
    assert state.left == pytest.approx(9)


def test_nothing_where_nothing_is_shown() -> None:
    screen: Any = Screen(Interrupt())
    with screen:
        assert not jit.listeners
