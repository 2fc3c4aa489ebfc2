"""Inside the steps of a block nothing is allocated and the host never waits for the device.

Allocations are counted by a hook of the memory pool. Waiting is found by keeping the stream busy for a third of a
second and enqueueing steps behind it: a host that waits anywhere in a step cannot come back before the stream is free.
Both checks are shown to fail when there is something to find.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from result import Record
from section import Options
from timing import QUEUE, Clock
from workloads import trainer, workloads

HOLD = 0.3  # seconds


def run(record: Record, options: Options) -> None:
    from aevb_engine.backend.base import Plan
    from aevb_engine.backend.cupy import CupyBackend

    backend = CupyBackend()
    clock = Clock(backend)
    watch = Device(clock) if clock.real else Double(clock)
    for path in ("graph", "persistent", "eager"):
        for name in workloads(options.small):
            made = trainer(name, backend, options.small, plan=Plan(path, strict="it is promised to"))
            steps = Steps(made, 3 if options.small else 20)
            allocations = watch.allocations(steps.prepared())
            record.check(f"{name}, {path}: allocations in {steps.count} steps", allocations == 0, allocations, 0)
            waits = watch.waits(steps.prepared())
            record.check(f"{name}, {path}: {steps.count} steps are enqueued without waiting", not waits, not waits)
    noticed = watch.waits(steps.prepared(read=True))
    record.check("a host that reads is noticed", noticed, noticed)
    count = watch.allocations(lambda: backend.empty((1000,), "f4"))
    record.check("an allocation is noticed", count > 0, count)
    backend.close()


class Steps:
    """As many steps as the queue takes."""

    def __init__(self, trainer: Any, most: int) -> None:
        trainer.advance(2)
        self.step = trainer.inner
        launches = sum(len(share) for phase in self.step.phases for share in phase) or 1  # of a step
        self.count = max(1, min(most, QUEUE // launches))

    def prepared(self, read: bool = False) -> Callable[[], Any]:
        """The steps from the start of the tables; ``read``: the host looks at a number of theirs."""
        self.step.clock.cursor.array[...] = 0
        return self._read if read else self._run

    def _run(self) -> None:
        self.step.run(self.count)

    def _read(self) -> None:
        self._run()
        int(self.step.clock.cursor.array[0])


class Device:
    """Watches a real device."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def allocations(self, work: Callable[[], Any]) -> int:
        """How often the pool is asked for memory; the bytes it holds must not grow either."""
        xp = self.clock.xp

        class Count(xp.cuda.MemoryHook):  # type: ignore[misc, name-defined]
            name = "count"
            asked = 0

            def malloc_preprocess(self, **told: Any) -> None:
                Count.asked += 1

        pool = xp.get_default_memory_pool()
        before = pool.total_bytes()
        with Count():
            work()
        self.clock.stream.synchronize()
        return Count.asked + int(pool.total_bytes() != before)

    def waits(self, work: Callable[[], Any]) -> bool:
        """Whether the host comes back only when the stream has become free."""
        self.clock.stream.synchronize()
        self.clock.busy(HOLD)
        start = time.perf_counter()
        work()
        taken = time.perf_counter() - start
        idle = bool(self.clock.stream.done)
        self.clock.stream.synchronize()
        return idle or taken > 0.8 * HOLD


class Double:
    """The same questions to the double of CuPy, which counts."""

    def __init__(self, clock: Clock) -> None:
        self.counts = clock.xp.counts

    def allocations(self, work: Callable[[], Any]) -> int:
        return self._counted("allocations", work)

    def waits(self, work: Callable[[], Any]) -> bool:
        return self._counted("reads", work) > 0

    def _counted(self, what: str, work: Callable[[], Any]) -> int:
        before = self.counts[what]
        work()
        return int(self.counts[what] - before)
