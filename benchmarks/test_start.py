"""Time to start: the import, ``--help``, and everything up to the first training step, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

FIRST_STEP = """
import sys, time
from aevb_engine import bench
workload = bench.WORKLOADS["W2"]
data = bench.draw(workload)
start = time.perf_counter()
bench.trainer(workload, data, 1).advance(1)
sys.stdout.write(str(time.perf_counter() - start))
"""


def python(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


COMMANDS = {"nothing": ("-c", ""), "import": ("-c", "import aevb_engine"), "help": ("-m", "aevb_engine", "--help")}


@pytest.mark.parametrize("command", COMMANDS)
def test_start(benchmark: Any, command: str) -> None:
    """A whole process; the engine's share is what it takes longer than an interpreter that does nothing."""
    arguments = {
        "nothing": ("-c", ""),
        "import": ("-c", "import aevb_engine"),
        "help": ("-m", "aevb_cli.main", "--help"),
    }
    benchmark.pedantic(python, args=arguments[command], rounds=7, warmup_rounds=1)


def test_first_step(benchmark: Any) -> None:
    """``extra_info`` holds the seconds from data in memory to the end of the first step of W2, imports done."""
    seconds: list[float] = []
    benchmark.pedantic(lambda: seconds.append(float(python("-c", FIRST_STEP))), rounds=5, warmup_rounds=1)
    benchmark.extra_info["first_step_ms"] = round(sorted(seconds)[len(seconds) // 2] * 1e3, 1)
