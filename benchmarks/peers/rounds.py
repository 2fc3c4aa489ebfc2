"""Rounds: every engine in its own process, one at a time, in turns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from child import Child, pinned

from aevb_engine import bench, registry

STEPS = {"W1": 400, "W2": 200, "W3": 300, "W4": 20, "W5": 200}  # in a block: about half a second
# Steps after which bounds are compared, where the rounds end before training has settled.
UNTIL = {"W3": 4000, "W4": 240, "W5": 4000}
EVALUATED = "W2"  # the model whose log-likelihoods are estimated too, and that is trained beside a busy process
BUSY_CORES, BUSY_STEPS = 2, 100


def measure(name: str, data: Path, cores: int, engines: list[str], rounds: int) -> dict[str, Any]:
    """All engines on one workload: seconds a step, the products' seconds, bounds, memory and start."""
    run: dict[str, Any] = {"workload": name, "cores": cores, "threads": cores, "steps": STEPS[name]}
    run["load"] = os.getloadavg()
    found: dict[str, dict[str, Any]] = {}
    run["engines"] = found
    children: dict[str, Child] = {}
    try:
        for engine in engines:
            children[engine] = Child(engine, specification(name), data, cores)
            found[engine] = {**children[engine].hello, "seconds": [], "bounds": []}
        for number in range(rounds + 1):  # the first only warms up
            for engine in turn(engines, number):
                answer = children[engine].ask(f"block {STEPS[name]}")
                found[engine]["bounds"] += answer["bounds"]
                if number:
                    found[engine]["seconds"].append(answer["seconds"] / STEPS[name])
                    if engine == "ours":
                        run.setdefault("floor", []).append(children[engine].ask("floor")["seconds"])
        for engine, child in children.items():
            found[engine] |= child.ask("facts")
            missing = UNTIL.get(name, 0) - len(found[engine]["bounds"])
            if missing > 0:
                found[engine]["bounds"] += child.ask(f"block {missing}")["bounds"]
            reached(found[engine])
        few = [e for e in engines if e != "compile"]
        if name == EVALUATED:
            evaluate(few, children, found, min(rounds, 3))
        if name == EVALUATED and cores == BUSY_CORES:
            with busy(cores):
                for number in range(min(rounds, 3)):
                    for engine in turn(few, number):
                        seconds = children[engine].ask(f"block {BUSY_STEPS}")["seconds"] / BUSY_STEPS
                        found[engine].setdefault("busy_seconds", []).append(seconds)
    finally:
        for child in children.values():
            child.close()
    return run


def turn(engines: list[str], number: int) -> list[str]:
    """The engines, each round from another one on."""
    start = number % len(engines)
    return engines[start:] + engines[:start]


def specification(name: str) -> dict[str, Any]:
    """The workload as a peer needs it, which does not import the engine."""
    w = bench.WORKLOADS[name]
    return {
        "name": name, "dim": w.dim, "hidden": w.hidden, "latent": w.latent, "optimizer": w.optimizer, "batch": w.batch,
        "decoder": w.decoder, "objective": w.objective, "samples": w.samples,
        "lr": registry.create("optimizer", w.optimizer).default_lr,
    }  # fmt: skip


def reached(found: dict[str, Any]) -> None:
    """The mean bound of the last tenth of the steps, in place of every step's."""
    bounds = found.pop("bounds")
    last = bounds[-max(1, len(bounds) // 10) :]
    found |= {"trained_steps": len(bounds), "bound_steps": len(last), "bound": float(np.mean(last))}


def evaluate(engines: list[str], children: dict[str, Child], found: dict[str, Any], rounds: int) -> None:
    """Log-likelihoods of a few rows by importance sampling, and the most memory after them."""
    for number in range(rounds + 1):
        for engine in turn(engines, number):
            answer = children[engine].ask("evaluate")
            if number:
                found[engine].setdefault("evaluation_seconds", []).append(answer["seconds"])
                found[engine]["log_likelihood"] = answer["log_likelihood"]
    for engine in engines:
        found[engine]["evaluation_peak_bytes"] = children[engine].ask("facts")["peak_bytes"]


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """A process on each core that never waits."""
    pin = "import os; hasattr(os, 'sched_setaffinity') and os.sched_setaffinity(0, {})\nwhile True: pass"
    chosen = pinned(cores) or [None] * cores
    others = [
        subprocess.Popen([sys.executable, "-c", pin.format([c] if c is not None else "range(64)")]) for c in chosen
    ]
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()
