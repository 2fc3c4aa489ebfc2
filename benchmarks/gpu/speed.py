"""Steps a second of the eager path on W1 to W5 beside the CPU backend, and each launch over its floor.

Per workload: ``wall_us`` with tables filled and metrics read every 50 steps, as in training; ``event_us`` between two
events around 50 steps; ``enqueue_us`` the host's part; ``device_only_us`` the device's part, its queue kept full.
"""

from __future__ import annotations

import time
from typing import Any

import floors
import numpy as np
from machine import smi
from result import Record, say
from section import Options
from timing import QUEUE, Clock
from workloads import trainer, workloads

BLOCK = 50


def run(record: Record, options: Options) -> None:
    from aevb_engine.backend.cupy import CupyBackend

    backend = CupyBackend()
    clock = Clock(backend)
    rates = floors.rates(clock, options.small)
    record.note(rates=rates)
    found: dict[str, Any] = {}
    for name in workloads(options.small):
        found[name] = _device(clock, backend, name, options)
        record.note(workloads=found)
        found[name]["cpu"] = _cpu(name, options)
        say(f"  {name}: {found[name]['gpu']['wall_us']:.1f} us a step, CPU {found[name]['cpu']['wall_us']:.1f}")
        record.note(workloads=found)
        made = trainer(name, backend, options.small)
        made.advance(BLOCK if not options.small else 2)
        found[name]["kernels"] = _kernels(clock, made.inner, rates, options)
        record.note(workloads=found)
    record.note(clocks_after=smi())
    backend.close()


def _device(clock: Clock, backend: Any, name: str, options: Options) -> dict[str, Any]:
    backend.enter()
    made = trainer(name, backend, options.small)
    block, rounds = (2, 2) if options.small else (BLOCK, 15)
    for _ in range(2):
        made.advance(block)
    wall = [clock.wall(lambda: made.advance(block)) / block for _ in range(rounds)]
    step = made.inner

    def again(steps: int) -> None:
        step.run(steps)

    def rewind() -> None:
        step.clock.cursor.array[...] = 0
        clock.stream.synchronize()

    events, enqueue, alone = [], [], []
    items = floors.works(step)
    few = max(1, min(block, QUEUE // len(items)))
    for _ in range(rounds):
        rewind()
        events.append(clock.device(lambda: again(block)) / block)
        rewind()
        if clock.real:
            clock.busy(0.1)
        start = time.perf_counter()
        again(few)
        enqueue.append((time.perf_counter() - start) / few)
        clock.stream.synchronize()
        rewind()
        alone.append(clock.device(lambda: again(few), 2 * few * enqueue[-1] + 1e-3) / few)
    texts = sum(not w.operations for w in items)
    return {
        "gpu": {
            "wall_us": _us(wall),
            "event_us": _us(events),
            "enqueue_us": _us(enqueue),
            "steps_per_second": _rate(wall),
        },
        "device_only_us": _us(alone),
        "launches": {"kernels": texts, "products": len(items) - texts},
        "rounds_wall_us": [round(w * 1e6, 2) for w in wall],
        "memory": backend.memory(),
    }


def _cpu(name: str, options: Options) -> dict[str, Any]:
    """The CPU backend with as many threads as it would choose, and with one."""
    from aevb_engine.backend.cores import physical_cores
    from aevb_engine.backend.numpy import NumpyBackend
    from aevb_engine.experiment.session import choose_threads

    found: dict[str, Any] = {}
    probe = trainer(name, NumpyBackend(1), options.small)
    rows = probe.settings.batch * probe.settings.samples
    chosen = choose_threads(probe.model, rows, physical_cores())
    for threads in sorted({1, chosen}):
        backend = NumpyBackend(threads)
        made = trainer(name, backend, options.small, threads)
        block, rounds = (2, 2) if options.small else (10, 7)
        made.advance(block)
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            made.advance(block)
            times.append((time.perf_counter() - start) / block)
        found[f"{threads} threads"] = _us(times)
        backend.close()
    return {"wall_us": found[f"{chosen} threads"], "threads": chosen, "by_threads_us": found}


def _kernels(clock: Clock, step: Any, rates: dict[str, Any], options: Options) -> list[dict[str, Any]]:
    """Each launch alone, again and again, against its floor; the slowest first."""
    moved = max(rates["copy_bytes_per_second_by_mib"].values())
    out = []
    step.clock.cursor.array[...] = 0
    for work in floors.works(step):
        seconds = clock.back_to_back(work.call, 2 if options.small else 60, 2 if options.small else 3)
        floor = max(work.bytes / moved, work.operations / rates["product_flop_per_second"])
        out.append(
            {
                "name": work.name,
                "us": round(seconds * 1e6, 3),
                "floor_us": round(floor * 1e6, 3),
                "over_floor": round(seconds / floor, 1),
                "bytes": work.bytes,
                "flop": work.operations,
            }
        )
    return sorted(out, key=lambda item: -item["us"])


def _us(times: Any) -> float:
    return round(float(np.median(times)) * 1e6, 2)


def _rate(times: Any) -> float:
    return round(1 / float(np.median(times)), 1)
