"""The same run from several seeds: side by side in one kernel where that is possible, else one after the other.

Each replica is a run of its own, with its folder, that `resume` goes on with alone, to the same bits.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aevb_engine.errors import BackendError, Stopped, TrainingError, UsageError
from aevb_engine.experiment import run
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.folder import RunFolder
from aevb_engine.experiment.run import Display, Quiet, Recorder
from aevb_engine.experiment.session import Session, prepare
from aevb_engine.training.loop import Blocks, blocks
from aevb_engine.training.trainer import Diverged

Replica = tuple[RunFolder, Session, dict[str, Any]]
MOST = 1000


def start(
    config: RunConfig,
    replicas: int,
    output: Path | None = None,
    *,
    root: Path = Path("runs"),
    display: Display | None = None,
    stop: threading.Event | None = None,
) -> list[Replica]:
    """Train from the seeds ``config.seed``, ``config.seed + 1``, ...; into folders ``output/seed-N`` or of their own.

    A replica that diverges does not end the others; TrainingError names it at the end. Stopped as soon as one is.
    """
    if not 1 <= replicas <= MOST:
        raise UsageError(f"--replicas {replicas}: a number in 1 .. {MOST} is needed")
    configs = [replace(config, seed=config.seed + i) for i in range(replicas)]
    places = [None if output is None else output / f"seed-{c.seed}" for c in configs]
    for place in places:
        if place is not None:
            RunFolder.check_free(place)
    display = display or Quiet()
    first = prepare(configs[0], display.data)
    if first.trainer.inner.plan.path == "persistent":
        sessions = [first, *(prepare(c, display.data) for c in configs[1:])]
        return _side_by_side(sessions, places, root, display, stop)
    done: list[Replica] = []
    lost: list[str] = []
    for each, place in zip(configs, places, strict=True):
        session = first if each is configs[0] else prepare(each, display.data)
        try:
            with run.begun(session, place, root=root, display=display, stop=stop) as recorder:
                done.append((recorder.folder, session, run.train(recorder)))
        except Diverged as error:
            lost.append(f"seed {each.seed}: {error}")
    return _all(done, lost)


def _all(done: list[Replica], lost: list[str]) -> list[Replica]:
    if lost:
        raise TrainingError(f"{len(lost)} of {len(done) + len(lost)} replicas diverged: {'; '.join(lost)}")
    return done


def _side_by_side(
    sessions: list[Session], places: list[Path | None], root: Path, display: Display, stop: threading.Event | None
) -> list[Replica]:
    """Every block of steps of all that still train is one launch; the first of them is shown."""
    with contextlib.ExitStack() as stack:
        recorders = []
        for i, (session, place) in enumerate(zip(sessions, places, strict=True)):
            shown = display if i == 0 else Quiet()
            recorders.append(stack.enter_context(run.begun(session, place, root=root, display=shown, stop=stop)))
            run.announce(recorders[-1])
        group = _Group(recorders)
        group.train()
    if group.stopped:
        raise Stopped(f"stopped; go on with `aevb-engine resume` of {', '.join(group.stopped)}")
    return _all(group.done, group.lost)


class _Group:
    """Runs that train in step, each with a loop of its own."""

    def __init__(self, recorders: list[Recorder]) -> None:
        self.live: dict[Recorder, Blocks] = {
            r: blocks(r.session.trainer, r.progress, **run.loop_options(r)) for r in recorders
        }
        self.wanted: dict[Recorder, int] = {}  # steps until each wants to look
        self.done: list[Replica] = []
        self.lost: list[str] = []
        self.stopped: list[str] = []

    def train(self) -> None:
        """To the end of all."""
        for recorder, loop in list(self.live.items()):
            self._go_on(recorder, partial(next, loop))
        members: list[Recorder] = []
        while self.live:
            if members != list(self.live):
                members = list(self.live)
                launch = _launch(members)
            steps = min(self.wanted[r] for r in members)
            began = time.perf_counter()
            for recorder in members:
                recorder.session.trainer.begin(steps)
            launch(steps)
            rows: dict[Recorder, Any] = {}
            for recorder in members:
                self._go_on(recorder, partial(self._finish, recorder, steps, rows))
            seconds = time.perf_counter() - began
            for recorder, found in rows.items():
                self._go_on(recorder, partial(self.live[recorder].send, (found, seconds)))

    def _finish(self, recorder: Recorder, steps: int, rows: dict[Recorder, Any]) -> int:
        rows[recorder] = recorder.session.trainer.finish(steps)
        return self.wanted[recorder]

    def _go_on(self, recorder: Recorder, act: Callable[[], int]) -> None:
        """A replica takes a step of its loop, which may be its last."""
        try:
            with run.failures(recorder):
                try:
                    self.wanted[recorder] = act()
                    return
                except StopIteration as end:
                    ended = end.value
                    recorder.save(is_best=False)
            del self.live[recorder]
            self.done.append((recorder.folder, recorder.session, run.conclude(recorder, ended)))
        except Diverged as error:
            del self.live[recorder]
            self.lost.append(f"seed {recorder.session.config.seed}: {error}")
        except Stopped:
            self.stopped.append(str(recorder.folder.path))


def _launch(recorders: list[Recorder]) -> Callable[[int], None]:
    """Enqueues steps of all."""
    replays: list[Any] = [r.session.trainer.inner.replay for r in recorders]
    try:
        together: Callable[[int], None] = replays[0].together(replays[1:])
        return together
    except BackendError as error:  # not equal, or too many for the device
        recorders[0].display.note(f"{error}; the replicas' kernels are launched one after the other")

    def each(steps: int) -> None:
        for replay in replays:
            replay.run(steps)

    return each


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """One record of all: each result, and mean and standard deviation of the test bound over the seeds."""
    found: dict[str, Any] = {"schema": run.SCHEMA, "replicas": results}
    bounds = [r["test_bound"] for r in results if r["test_bound"] is not None]
    if len(bounds) == len(results):
        found["test_bound"] = float(np.mean(bounds))
        found["test_bound_sd"] = float(np.std(bounds, ddof=1)) if len(bounds) > 1 else None
    return found
