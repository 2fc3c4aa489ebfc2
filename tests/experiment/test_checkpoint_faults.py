"""Checkpoints under failing and dying systems: no committed one is ever lost."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import textwrap
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb_engine.errors import StorageError
from aevb_engine.experiment import log
from aevb_engine.experiment.checkpoint import Checkpoint, CheckpointStore

CALLS = ("open", "write", "fsync", "replace", "unlink")


class Killed(BaseException):
    """Stands for the end of the process: no handler of the program may see it as an error."""


def make(step: int, tag: int = 0) -> Checkpoint:
    return Checkpoint(step, {"theta": np.full(2000, step + tag / 8)}, {"tag": tag})


def prepare(folder: Path) -> CheckpointStore:
    store = CheckpointStore(folder, keep=2)
    store.save(make(100), best=True, score=1.0)
    store.save(make(200))
    store.save(make(300))
    return store


def state(folder: Path) -> tuple[int, int]:
    """Steps of newest and best, whose content must be the one of their step."""
    store = CheckpointStore(folder, keep=2)
    newest, best = store.newest(), store.best()
    assert newest is not None
    assert best is not None
    for found in (newest, best):
        assert np.all(found.arrays["theta"] == found.step + found.meta["tag"] / 8)  # type: ignore[operator]
    return newest.step, best.step


def fault(patch: pytest.MonkeyPatch, n: int, mode: str) -> Counter[str]:
    """Makes the n-th storage call fail: "once", "on" (it and all later), "half" (after half of a write), "kill"."""
    seen: Counter[str] = Counter()

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **options)
            seen["all"] += 1
            seen[name] += 1
            due = seen["all"] == n if mode in ("once", "half") else seen["all"] >= n
            if not due:
                return real(*arguments, **options)
            seen["fired"] += 1
            if name == "write" and mode in ("half", "kill") and seen["fired"] == 1:
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            if mode == "kill":
                raise Killed
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, name, call)

    for name in CALLS:
        wrap(name)
    return seen


@pytest.mark.parametrize("mode", ["once", "on", "half", "kill"])
@pytest.mark.parametrize("step", [400, 300])
def test_every_failing_call_loses_nothing(tmp_path: Path, mode: str, step: int) -> None:
    """step 400 is a new checkpoint, step 300 replaces one that exists."""
    expected: type[BaseException] = Killed if mode == "kill" else StorageError
    calls: Counter[str] = Counter()
    for n in range(1, 200):
        folder = tmp_path / str(n)
        store = prepare(folder)
        assert state(folder) == (300, 100)
        raised = False
        with pytest.MonkeyPatch.context() as patch:
            seen = fault(patch, n, mode)
            try:
                store.save(make(step, tag=1), best=True, score=2.0)
            except expected:
                raised = True
        calls |= seen
        newest, best = state(folder)
        assert newest in (300, step)
        assert best in (100, step)
        if not raised:
            assert (newest, best) == (step, step)
        CheckpointStore(folder, keep=2).save(make(500), best=True, score=3.0)
        assert state(folder) == (500, 500)
        names = [p.name for p in folder.iterdir()]
        assert not [name for name in names if name.endswith(".tmp")]
        assert len(names) == 5, names  # two checkpoints with hash files, best.json
        if not seen["fired"]:
            break
    else:
        pytest.fail("the faults never ended")
    assert all(calls[name] for name in CALLS), calls  # each kind of call was really met


WRITER = textwrap.dedent("""
    import sys
    from pathlib import Path
    import numpy as np
    from aevb_engine.experiment.checkpoint import Checkpoint, CheckpointStore
    from aevb_engine.experiment.log import MetricsLog
    def row(step):
        return [step, step * 0.5, -step, np.sin(step)]
    folder = Path(sys.argv[1])
    import h5py
    print("ready", flush=True)
    store = CheckpointStore(folder / "checkpoints")
    newest = store.newest()
    step = newest.step if newest else 0
    path = folder / "metrics.h5"
    if path.exists():
        log = MetricsLog.resume(path, step)
    else:
        log = MetricsLog.create(path, {"train": ["step", "a", "b", "c"], "eval": ["step", "x"]})
    while True:
        for _ in range(1 + step % 130):
            step += 1
            log.append("train", row(step))
            if step % 10 == 0:
                log.append("eval", [step, 1.0 / step])
        log.commit()
        found = Checkpoint(step, {"theta": np.full(5000, float(step))}, {"step": step})
        store.save(found, best=step % 7 == 0, score=step)
        print(step, flush=True)
""")


def kill_once(folder: Path, draw: random.Random, *, after_one: bool = False) -> int:
    """Starts or resumes a writer, kills it at a random moment, checks what it had committed; the newest step.

    ``after_one``: not before a first checkpoint, however slow the machine.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    first = child.stdout.readline()
    head = child.stdout.readline() if after_one else ""
    time.sleep(draw.uniform(0.0, 0.5))
    child.kill()
    tail, errors = child.communicate()
    output = head + tail
    assert first == "ready\n", errors
    assert child.returncode == -9, errors
    lines = output.splitlines()
    whole = lines if output.endswith("\n") else lines[:-1]
    committed = int(whole[-1]) if whole else 0
    store = CheckpointStore(folder / "checkpoints")
    newest = store.newest()
    assert store.warnings == []
    step = newest.step if newest else 0
    assert step >= committed
    if newest is not None:
        assert np.all(newest.arrays["theta"] == step)
    if (folder / "metrics.h5").exists():
        tables = log.read_safely(folder / "metrics.h5")
        train, evaluation = tables["train"][1], tables["eval"][1]
        assert len(train) >= step
        steps = np.arange(1.0, len(train) + 1)
        expected = np.stack([steps, steps * 0.5, -steps, np.sin(steps)], 1)
        assert np.array_equal(train[:, :3], expected[:, :3])
        assert np.allclose(train[:, 3], expected[:, 3])
        assert len(evaluation) >= step // 10
        assert np.array_equal(evaluation[:, 1], 1.0 / evaluation[:, 0])
    else:
        assert step == 0
    return step


def kill_many(folder: Path, seed: int, kills: int) -> int:
    folder.mkdir()
    draw, reached = random.Random(seed), 0
    for life in range(kills):
        step = kill_once(folder, draw, after_one=life == kills - 1)
        assert step >= reached  # nothing committed in any earlier life is lost
        reached = step
    return reached


def kill_in_two_lanes(folder: Path, kills: int) -> None:
    with ThreadPoolExecutor(2) as pool:
        reached = list(pool.map(lambda lane: kill_many(folder / str(lane), lane, kills // 2), range(2)))
    assert min(reached) > 0


def test_killed_writers_lose_nothing(tmp_path: Path) -> None:
    kill_in_two_lanes(tmp_path, 12)


@pytest.mark.slow
def test_many_killed_writers_lose_nothing(tmp_path: Path) -> None:
    kill_in_two_lanes(tmp_path, 200)


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """The limit on the size of a file fails the write in the middle, as a full disk does."""
    code = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        import numpy as np
        from aevb_engine.errors import StorageError
        from aevb_engine.experiment.checkpoint import Checkpoint, CheckpointStore
        store = CheckpointStore(Path(sys.argv[1]))
        store.save(Checkpoint(1, {"x": np.ones(10)}, {}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            store.save(Checkpoint(2, {"x": np.ones(100_000)}, {}))
        except StorageError as error:
            sys.exit(f"{error}")
    """)
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert child.returncode == 1
    assert child.stderr.startswith("cannot write ")
    assert child.stderr.count("\n") == 1
    store = CheckpointStore(tmp_path)
    assert store.steps() == [1]
    assert store.newest() is not None
    assert not list(tmp_path.glob(".*"))
