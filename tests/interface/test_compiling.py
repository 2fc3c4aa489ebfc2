"""Loops that numba compiles for the first time are told of; those from the disk are not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from aevb_engine import jit

needs_numba = pytest.mark.skipif(not jit.available(), reason="needs numba")

SCRIPT = """
import sys
from aevb_engine import jit

def inner(x):
    return x + 1

def outer(n):
    total = 0
    for i in range(n):
        total += step(i)
    return total

def other(n):
    return 2 * n

seen, jit.SERIES = [], 1e6
jit.listeners.append(lambda series: seen.append((series.count, jit.compiling() is series)))
step = jit.inlined(inner)
assert jit.compiling() is None
assert jit.compiled(outer)(10) == 55
assert jit.compiled(other)(10) == 20
assert jit.compiling() is None
print(seen)
"""


def say(tmp_path: Path) -> str:
    (tmp_path / "loops.py").write_text(SCRIPT)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, str(tmp_path / "loops.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@needs_numba
def test_each_loop_once_with_what_it_calls_and_none_from_the_disk(tmp_path: Path) -> None:
    assert say(tmp_path) == "[(1, True), (2, True)]"
    assert say(tmp_path) == "[]"


FIT = """
import sys, threading, os, signal, time
import numpy as np
import aevb_engine as aevb
from aevb_engine import jit

jit.SERIES = 1e6  # however slow the machine is between two loops
x = np.random.default_rng(0).random((60, 20)).astype(np.float32)
model = aevb.VAE("gaussian", hidden=5, batch_size=20, backend="cpu", threads=1, seed=1)

def interrupt(series):
    if series.count == 3:
        os.kill(os.getpid(), signal.SIGINT)

if "interrupt" in sys.argv:
    jit.listeners.append(interrupt)
try:
    model.fit(x, steps=200, progress=True)
except KeyboardInterrupt:
    print("interrupted", model.history, model._steps_done())
jit.listeners.clear()
print(model.fit(x, steps=100).history[-1]["step"])
"""


@needs_numba
def test_a_cold_fit_says_so_and_can_be_interrupted(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "TERM": "dumb"}

    def run(*arguments: str) -> tuple[str, str]:
        command = [sys.executable, "-c", FIT, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    out, err = run("interrupt")
    assert err.startswith("compiling loops (first time; kept on disk): 1 so far")
    assert out.splitlines() == ["interrupted [] 0", "100.0"]
    out, err = run()
    assert "compiling" not in err
    assert out == "300.0\n"


def test_a_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "time", SimpleNamespace(monotonic=lambda: 112.0))
    assert str(jit.Compiling(7, 100.0)) == "compiling loops (first time; kept on disk): 7 so far, 12 s"
