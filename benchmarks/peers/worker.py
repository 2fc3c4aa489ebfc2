"""One engine on one workload in its own process: answers commands, a line of JSON each.

``block N`` trains N steps; ``floor`` times the matrix products; ``evaluate`` estimates the log-likelihood of a few
rows; ``facts`` tells the peak memory and what was chosen. The first answer holds the time to import and to the first
step.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

MODULES = {"ours": "ours", "jit": "ours", "torch": "torch_eager", "compile": "torch_compiled", "jax": "jax_scan"}
EVALUATED_ROWS, SAMPLES = 40, 5000


def peak_bytes() -> int:
    """The most memory this process ever held (``ru_maxrss`` would count the process that started this one too), with
    what the processes that it started hold beside it now."""
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 + sum(map(_private_bytes, _children()))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _children() -> list[Path]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        fields = " ".join(_lines(place / "stat")).rpartition(")")[2].split()
        if len(fields) > 1 and int(fields[1]) == os.getpid():
            found.append(place)
    return found


def _private_bytes(place: Path) -> int:
    private = [line.split() for line in _lines(place / "smaps_rollup") if line.startswith("Private_")]
    return sum(int(words[1]) for words in private) * 1024


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # the process has ended
        return []


def blas() -> list[str]:
    """What this process's matrix products run on."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return []
    import threadpoolctl

    keys = ("internal_api", "version", "architecture", "num_threads")
    return [" ".join(str(i.get(k, "")) for k in keys) + " threads" for i in threadpoolctl.threadpool_info()]


def main() -> None:
    spec: dict[str, Any] = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    if spec["cores"]:
        os.sched_setaffinity(0, spec["cores"])
    start = time.perf_counter()
    module = importlib.import_module(MODULES[spec["engine"]])
    imported = time.perf_counter() - start
    import numpy as np

    data = np.load(spec["data"])
    start = time.perf_counter()
    engine = module.Engine(spec["workload"], data, spec["threads"])
    del data
    later = engine.first()
    first = time.perf_counter() - start - later
    answer(import_s=imported, first_step_s=first)
    engine.settle()
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "block":
            start = time.perf_counter()
            bounds = engine.block(int(rest[0]))
            seconds = time.perf_counter() - start
            answer(seconds=seconds, bounds=[round(float(b), 4) for b in bounds])
        elif command == "floor":
            answer(seconds=engine.floor())
        elif command == "evaluate":
            start = time.perf_counter()
            mean = engine.evaluate(EVALUATED_ROWS, SAMPLES)
            answer(seconds=time.perf_counter() - start, log_likelihood=float(mean))
        else:
            answer(peak_bytes=peak_bytes(), note=engine.note, blas=blas())


if __name__ == "__main__":
    main()
