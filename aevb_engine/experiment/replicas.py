"""A run from several seeds, with varied options: side by side in one kernel where possible, else one after the other.

Each replica is a run of its own, with its folder, that `resume` goes on with alone, to the same bits.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aevb_engine.backend.replay import Together, grouped
from aevb_engine.errors import BackendError, Stopped, TrainingError
from aevb_engine.experiment import ranking, run
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.folder import RunFolder
from aevb_engine.experiment.run import Display, Quiet, Recorder
from aevb_engine.experiment.session import Session, prepare
from aevb_engine.experiment.vary import Planned, plan
from aevb_engine.training.loop import Blocks, blocks
from aevb_engine.training.trainer import Diverged

Told = Callable[[RunFolder, Session, dict[str, Any]], None]


@dataclass
class Ended:
    """What has come of the runs: folder and result of each that reached its end, a line for each that did not.

    ``lost`` are the latter: run, seed and what is varied of each.
    """

    runs: list[tuple[RunFolder, dict[str, Any]]]
    diverged: list[str]
    lost: list[dict[str, Any]] = field(default_factory=list)

    def check(self) -> None:
        """TrainingError where some diverged."""
        if self.diverged:
            count = len(self.runs) + len(self.diverged)
            raise TrainingError(f"{len(self.diverged)} of {count} replicas diverged: {'; '.join(self.diverged)}")


def start(
    config: RunConfig,
    replicas: int | None,
    output: Path | None = None,
    *,
    vary: Mapping[str, Sequence[str]] | None = None,
    root: Path = Path("runs"),
    display: Display | None = None,
    stop: threading.Event | None = None,
    ended: Told | None = None,
) -> Ended:
    """Train from the seeds ``config.seed``, ``config.seed + 1``, ... with every combination of the values of ``vary``.

    Folders are ``output/lr-0.01-seed-3`` or names of their own. A result holds what is ``varied`` in it. A replica that
    diverges does not end the others. Stopped as soon as one is. ``ended`` is called with each that has ended; nothing
    of its session is kept afterwards, however many there are.
    """
    vary = vary or {}
    runs = plan(config, replicas, vary)
    places = [None if output is None else output / r.folder for r in runs]
    for place in places:
        RunFolder.check_place(place, root)
    display = display or Quiet()
    sessions = _prepared(runs, display)
    trained = _Trained(ended)
    side = [i for i, session in sessions.items() if session.trainer.inner.plan.path == "persistent"]
    if side:
        _side_by_side({i: (runs[i], sessions[i], places[i]) for i in side}, trained, root, display, stop)
    for i, each in enumerate(runs):
        if i in side:
            continue
        session = sessions.pop(i, None) or prepare(each.config, display.data)
        try:
            with run.begun(session, places[i], root=root, display=display, stop=stop) as recorder:
                result = run.train(recorder)
            trained.add(i, recorder.folder, session, result)
        except Diverged as error:
            trained.lost[i] = recorder.folder, f"{each.label}: {error}"
        except Stopped as error:
            later = [r.label for j, r in enumerate(runs) if j > i and j not in side]
            raise Stopped(f"{error}" + (f"; not begun: {'; '.join(later)}" if later else "")) from None
        finally:
            session.backend.close()
    lost = [(runs[i], *trained.lost[i]) for i in sorted(trained.lost)]
    done = [(runs[i], *trained.done[i]) for i in sorted(trained.done)]
    gone: list[dict[str, Any]] = [
        {"run": str(f.path), "status": "diverged", "seed": r.config.seed} | ({"varied": dict(r.varied)} if vary else {})
        for r, f, _ in lost
    ]
    ended_well = [(f, {**result, "varied": dict(r.varied)} if vary else result) for r, f, result in done]
    return Ended(ended_well, [line for *_, line in lost], gone)


def _prepared(runs: list[Planned], display: Display) -> dict[int, Session]:
    """The first, and all that can train side by side.

    One of each combination is prepared in any case: what cannot is known before anything is created.
    """
    kept: dict[int, Session] = {}
    before: tuple[str, ...] | None = None
    for i, each in enumerate(runs):
        if each.texts != before or i - 1 in kept:
            session = prepare(each.config, display.data)
            if i == 0 or session.trainer.inner.plan.path == "persistent":
                kept[i] = session
        before = each.texts
    return kept


class _Trained:
    """What has come of the runs, by their numbers."""

    def __init__(self, ended: Told | None) -> None:
        self.done: dict[int, tuple[RunFolder, dict[str, Any]]] = {}
        self.lost: dict[int, tuple[RunFolder, str]] = {}
        self.stopped: list[str] = []
        self._ended = ended

    def add(self, number: int, folder: RunFolder, session: Session, result: dict[str, Any]) -> None:
        if self._ended is not None:
            self._ended(folder, session, result)
        self.done[number] = folder, result


def _side_by_side(
    members: dict[int, tuple[Planned, Session, Path | None]],
    trained: _Trained,
    root: Path,
    display: Display,
    stop: threading.Event | None,
) -> None:
    """Every block of steps of all that still train is one launch; the first of them is shown."""
    with contextlib.ExitStack() as stack:
        recorders: dict[Recorder, tuple[int, str]] = {}
        for i, (planned, session, place) in members.items():
            shown = Quiet() if recorders else display
            recorder = stack.enter_context(run.begun(session, place, root=root, display=shown, stop=stop))
            recorders[recorder] = i, planned.label
            run.announce(recorder)
        group = _Group(recorders, trained)
        group.train()
    for number, recorder, result in group.results:  # what is done with them would keep the others waiting
        trained.add(number, recorder.folder, recorder.session, result)
    if trained.stopped:
        raise Stopped(f"stopped; go on with `aevb-engine resume` of {', '.join(trained.stopped)}")


class _Group:
    """Runs that train in step, each with a loop of its own."""

    def __init__(self, recorders: dict[Recorder, tuple[int, str]], trained: _Trained) -> None:
        self.recorders, self.trained = recorders, trained
        self.live: dict[Recorder, Blocks] = {
            r: blocks(r.session.trainer, r.progress, **run.loop_options(r)) for r in recorders
        }
        self.wanted: dict[Recorder, int] = {}  # steps until each wants to look
        self.results: list[tuple[int, Recorder, dict[str, Any]]] = []

    def train(self) -> None:
        """To the end of all."""
        launches = _Launches(list(self.live))
        for recorder, loop in list(self.live.items()):
            self._go_on(recorder, partial(next, loop))
        members: list[Recorder] = []
        while self.live:
            if members != list(self.live):
                members = list(self.live)
                launch = launches.of(members)
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
            number, _ = self.recorders[recorder]
            with run.failures(recorder):
                self.results.append((number, recorder, run.conclude(recorder, ended)))
        except Diverged as error:
            del self.live[recorder]
            number, label = self.recorders[recorder]
            self.trained.lost[number] = recorder.folder, f"{label}: {error}"
        except Stopped:
            self.trained.stopped.append(str(recorder.folder.path))


class _Launches:
    """How the steps of all are enqueued: as few launches as kernels in common allow, compiled once."""

    def __init__(self, recorders: list[Recorder]) -> None:
        self._display = recorders[0].display
        self._groups: list[tuple[set[Recorder], Together | None]] = []
        for numbers in grouped([_replay(r) for r in recorders]):
            group = [recorders[i] for i in numbers]
            joint = None
            try:
                joint = Together([_replay(r) for r in group])
            except BackendError as error:
                self._note(error)
            self._groups.append((set(group), joint))

    def of(self, recorders: list[Recorder]) -> Callable[[int], None]:
        """Enqueues steps of those that still train."""
        calls: list[Callable[[int], None]] = []
        for group, joint in self._groups:
            live = [_replay(r) for r in recorders if r in group]
            try:
                if joint is not None and live:
                    calls.append(joint.launch(live))
                    continue
            except BackendError as error:  # too many for the device
                self._note(error)
            calls += [replay.run for replay in live]

        def launch(steps: int) -> None:
            for call in calls:
                call(steps)

        return launch

    def _note(self, error: BackendError) -> None:
        self._display.note(f"{error}; the replicas' kernels are launched one after the other")


def _replay(recorder: Recorder) -> Any:
    return recorder.session.trainer.inner.replay


def summary(results: list[dict[str, Any]], lost: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """One record of all: each result, and mean and standard deviation of the test bound over the seeds.

    Where options are varied, ``combinations`` holds these of each, ranked.
    """
    found: dict[str, Any] = {"schema": run.SCHEMA, "replicas": results}
    if not any("varied" in each for each in (*results, *lost)):
        bound = ranking.means(results)
        return {**found, **{name: bound[name] for name in ("test_bound", "test_bound_sd") if name in bound}}
    return {**found, **ranking.ranked(results, lost)}
