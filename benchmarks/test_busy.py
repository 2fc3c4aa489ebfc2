"""Steps while other work takes cores: processes, threads, the caller alone, and the choice among them by time.

python -m pytest benchmarks/test_busy.py --benchmark-only
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from aevb_engine import bench

THREADS = 2
WAYS = ("processes", "threads", "alone", "chosen")
ROUNDS = int(os.environ.get("AEVB_BENCH_ROUNDS", "9"))
SECONDS = 0.5  # of a way in a round
GLYPHS = bench.Workload(784, (200,), 2, "adam")
SPIN = "import os; os.sched_setaffinity(0, {{{}}})\nwhile True: pass"

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes to cores")


@contextmanager
def taken(cores: int) -> Iterator[None]:
    """So many cores, the last ones, have a process that never waits."""
    chosen = sorted(os.sched_getaffinity(0))[-cores:] if cores else []
    others = [subprocess.Popen([sys.executable, "-c", SPIN.format(core)]) for core in chosen]
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()


def pace(trainer: Any, seconds: float) -> float:
    """Seconds a step, over about so many seconds."""
    began, steps = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        trainer.advance(10)
        steps += 10
    return (time.perf_counter() - began) / steps


@pytest.mark.parametrize("cores", [0, 1, 2])
@pytest.mark.parametrize("name", ["W1", "W2", "W3", "glyphs"])
def test_busy(benchmark: Any, monkeypatch: pytest.MonkeyPatch, name: str, cores: int) -> None:
    """``extra_info``: us a step of every way, medians over interleaved rounds, and the best fixed one over choice."""
    workload = GLYPHS if name == "glyphs" else bench.WORKLOADS[name]
    data = bench.draw(workload)
    trainers = {}
    for way in WAYS:
        if way == "chosen":
            monkeypatch.delenv("AEVB_WORKERS", raising=False)
        else:
            monkeypatch.setenv("AEVB_WORKERS", way)
        trainers[way] = bench.trainer(workload, data, THREADS)
        trainers[way].advance(20)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    with taken(cores):
        for _ in range(4):  # the choice finds its way
            pace(trainers["chosen"], SECONDS)
        for _ in range(ROUNDS):
            for way in WAYS:
                times[way].append(pace(trainers[way], SECONDS))
        benchmark.pedantic(trainers["chosen"].advance, args=(20,), rounds=10)
    for trainer in trainers.values():
        trainer.model.backend.close()
    median = {way: float(np.median(found)) for way, found in times.items()}
    benchmark.extra_info |= {way: round(seconds * 1e6) for way, seconds in median.items()}
    best = min(median[way] for way in WAYS if way != "chosen")
    benchmark.extra_info["best_over_chosen"] = round(best / median["chosen"], 2)
    benchmark.extra_info["least"] = {way: round(min(found) * 1e6) for way, found in times.items()}
