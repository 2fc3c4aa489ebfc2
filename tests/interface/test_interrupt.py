"""Ctrl-C while fit runs: nothing is lost, whatever thread, process group or number of workers."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine import jit
from aevb_engine.backend import crew
from aevb_engine.errors import TrainingError
from tests.alarm import interrupted
from tests.patience import patience

X = (np.random.default_rng(0).random((60, 20)) < 0.3).astype(np.uint8)
WORKERS = pytest.param(2, marks=pytest.mark.skipif(not crew.possible(), reason="crews need Linux on x86-64"))


def made(**more: Any) -> aevb.VAE:
    return aevb.VAE(
        **{"hidden": 5, "batch_size": 20, "backend": "cpu", "threads": 1, "seed": 1, "lr_schedule": "constant", **more}
    )


def theta(model: aevb.VAE) -> bytes:
    return bytes(model.model.parameters.theta.tobytes())


def step(model: aevb.VAE) -> int:
    assert model._trainer is not None
    return model._trainer.step


def signals(count: int, at: int) -> Any:
    """A callback that sends SIGINT to this process at the history row of a step."""

    def callback(row: dict[str, Any]) -> None:
        if row["part"] == "train" and row["step"] == at:
            for _ in range(count):
                os.kill(os.getpid(), signal.SIGINT)

    return callback


@pytest.mark.parametrize("threads", [1, WORKERS])
def test_the_first_ctrl_c_keeps_every_step(threads: int) -> None:
    model, before = made(threads=threads), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, steps=100_000, callback=signals(1, 400))
    assert signal.getsignal(signal.SIGINT) is before
    assert 400 <= step(model) < 500
    assert model.history[-1]["step"] == step(model)
    whole = made(threads=threads).fit(X, steps=700)
    model.fit(X, steps=700 - step(model))
    assert theta(model) == theta(whole)


def test_the_second_ctrl_c_leaves_at_once_with_a_history_of_what_is_kept() -> None:
    """Within a block, back to the last copy."""
    model = made().fit(X, steps=130)

    def twice(*_: Any) -> None:
        if step(model) > 250:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    before, timer = signal.signal(signal.SIGALRM, twice), signal.getitimer(signal.ITIMER_REAL)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, steps=10**6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)
    kept = step(model)
    assert theta(model) == theta(made().fit(X, steps=kept))
    steps = [row["step"] for row in model.history]
    assert steps == sorted(set(steps))
    assert steps[-1] == kept
    model.fit(X, steps=100)
    steps = [row["step"] for row in model.history]
    assert steps == sorted(set(steps))
    assert steps[-1] == kept + 100


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_after_interrupts_anywhere_history_agrees_with_the_step() -> None:
    model = made().fit(X, steps=60)
    for delay in (0.003, 0.006, 0.011, 0.02):
        interrupted(lambda: model.fit(X, steps=3000), delay)
        steps = [row["step"] for row in model.history]
        assert steps == sorted(set(steps))
        assert steps[-1] == step(model)


@pytest.mark.filterwarnings("ignore:columns have means", "ignore::aevb_engine.errors.ResultWarning")
def test_after_a_divergence_history_ends_with_the_step_that_is_kept() -> None:
    x = 1e3 * np.random.default_rng(0).standard_normal((60, 20))
    model = made(decoder="gaussian", optimizer="sgd", lr=2e-7, seed=3, standardize="never")
    with pytest.raises(TrainingError):
        model.fit(x, steps=120).fit(1e6 * x, steps=5000)
    assert model.history[-1]["step"] == step(model) > 0
    assert all(np.isfinite(row["bound"]) for row in model.history)


def test_other_threads_have_no_handler() -> None:
    found: list[Any] = []
    before = signal.getsignal(signal.SIGINT)

    def look(row: dict[str, Any]) -> None:
        found.append(signal.getsignal(signal.SIGINT))

    other = threading.Thread(target=lambda: made().fit(X, steps=60, callback=look))
    other.start()
    other.join()
    assert found == [before, before]
    made().fit(X, steps=60, callback=look)
    assert before not in found[2:]


def test_a_handler_of_ones_own_gets_the_signal_when_the_block_has_ended() -> None:
    """And decides what happens: here, that nothing does."""
    model, got = made(), []

    def own(number: int, frame: Any) -> None:
        got.append(step(model))

    before = signal.signal(signal.SIGINT, own)
    try:
        model.fit(X, steps=500, callback=signals(1, 200))
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(got) == 1
    assert 200 <= got[0] < 300
    assert step(model) == 500


def test_what_compiles_is_left_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "compiling", lambda: jit.Compiling(1, time.monotonic()))
    with pytest.raises(KeyboardInterrupt):
        made().fit(X, steps=500, callback=lambda row: (os.kill(os.getpid(), signal.SIGINT), pytest.fail("late")))


CHILD = """
import hashlib, json, sys
import numpy as np
import aevb_engine as aevb

x = (np.random.default_rng(0).random((60, 20)) < 0.3).astype(np.uint8)
model = aevb.VAE(hidden=30, batch_size=20, backend="cpu", threads=2, seed=1, lr_schedule="constant")
try:
    model.fit(x, steps=10**7, callback=lambda row: row["step"] == 500 and print("begun", flush=True))
except KeyboardInterrupt:
    pass
step, last = model._trainer.step, model.history[-1]["step"]
model.fit(x, steps=200)
print(json.dumps([step, last, hashlib.sha256(model.model.parameters.theta.tobytes()).hexdigest()]))
"""


@pytest.mark.skipif(not crew.possible(), reason="crews need Linux on x86-64")
def test_a_terminal_signals_the_workers_too() -> None:
    """The whole process group gets SIGINT; training goes on afterwards to the bits of one without an interrupt."""
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    os.killpg(child.pid, signal.SIGINT)
    out, _ = child.communicate(timeout=patience())
    assert child.returncode == 0
    end, last, digest = json.loads(out)
    assert end == last >= 500
    whole = made(hidden=30, threads=2).fit(X, steps=end + 200)
    assert digest == hashlib.sha256(theta(whole)).hexdigest()
