"""A worker process as its parent sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).resolve().parent / "worker.py"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
STEERING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # they replace what OpenBLAS finds out about the processor


def environment(engine: str, threads: int) -> dict[str, str]:
    """This process's environment with so many threads and nothing that steers BLAS; loops for ``jit`` alone."""
    found = {k: v for k, v in os.environ.items() if k not in STEERING}
    return found | dict.fromkeys(THREADS, str(threads)) | {"AEVB_JIT": "1" if engine == "jit" else "0"}


def pinned(cores: int) -> list[int]:
    """The last of the cores that this process may use; none where they cannot be chosen."""
    return sorted(os.sched_getaffinity(0))[-cores:] if hasattr(os, "sched_getaffinity") else []


class Child:
    """Started, and ready for commands."""

    def __init__(self, engine: str, workload: dict[str, Any], data: Path, cores: int) -> None:
        self.engine = engine
        given = {"engine": engine, "workload": workload, "data": str(data), "threads": cores, "cores": pinned(cores)}
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(given)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(engine, cores),
        )  # fmt: skip
        self.hello = self._read()

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.engine} ended with exit code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.communicate()
