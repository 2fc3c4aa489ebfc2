"""Time on the device and on the host.

``busy`` puts a kernel on the stream that does nothing for a while: what is enqueued meanwhile then runs back to back,
and the events around it give the device's own time, however slow the host launches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from setting import HERE

QUEUE = 450  # launches that may be pending without the host being held up: the driver holds about a thousand kernels


class Clock:
    """Events and the waiting kernel on one backend's stream. With the double of CuPy, the host's clock."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.xp, self.stream = backend, backend.xp, backend.stream
        self.real = self.xp.__version__ != "double"
        self.functions: dict[str, Any] = {}
        if self.real:
            module = self.xp.RawModule(code=(HERE / "device.cu").read_text(encoding="utf-8"))
            self.functions = {n: module.get_function(n) for n in ("spin", "empty", "wide")}
            self.functions["empty"]((1,), (1,), ())  # loads the module: not while a stream is being captured

    def busy(self, seconds: float) -> None:
        """Keep the stream from anything else for so long."""
        if self.real:
            self.backend.enter()
            self.functions["spin"]((1,), (1,), (np.int64(seconds * 1e9),))

    def device(self, work: Callable[[], Any], ahead: float = 0.0) -> float:
        """Seconds of the device for ``work``; ``ahead``: how long the host may take to enqueue it."""
        if not self.real:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        first, last = self.xp.cuda.Event(), self.xp.cuda.Event()
        self.backend.enter()
        if ahead:
            self.busy(ahead)
        first.record(self.stream)
        work()
        last.record(self.stream)
        last.synchronize()
        return float(self.xp.cuda.get_elapsed_time(first, last)) * 1e-3

    def wall(self, work: Callable[[], Any]) -> float:
        """Seconds until the device has done it."""
        self.stream.synchronize()
        start = time.perf_counter()
        work()
        self.stream.synchronize()
        return time.perf_counter() - start

    def back_to_back(self, call: Callable[[], Any], times: int, rounds: int = 5) -> float:
        """Median seconds of the device for one ``call``, launched ``times`` in a row behind a busy stream."""
        times, rounds = (times, rounds) if self.real else (1, 1)

        def repeat() -> None:
            self.backend.enter()
            for _ in range(times):
                call()

        enqueue = self.wall(repeat)  # warm, and an upper bound of the host's part
        return float(np.median([self.device(repeat, 1.5 * enqueue + 1e-3) for _ in range(rounds)])) / times
