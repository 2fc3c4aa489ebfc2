"""PyTorch and JAX on W1 and W2: the same data, batches, initial parameters and learning rates, each in its own process.

Noise is each framework's own. Compared are microseconds a step and the held-out bound after the same number of steps;
products are in full float32 everywhere, and JAX is measured with its default precision, too (TF32 on such devices).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from result import Record, say
from section import Options
from setting import HERE, absent
from timing import Clock
from workloads import current

STEPS = 1000
CHILDREN = {  # name: (package, script, mode, seconds at most)
    "PyTorch eager": ("torch", "peer_torch.py", "eager", 50),
    "PyTorch CUDA graph": ("torch", "peer_torch.py", "graph", 50),
    "JAX scan": ("jax", "peer_jax.py", "highest", 50),
    "PyTorch compiled": ("torch", "peer_torch.py", "compiled", 100),
    "JAX scan, default precision": ("jax", "peer_jax.py", "default", 50),
}
WORK = {
    "W1": {"hidden": (100,), "latent_dim": 2, "optimizer": "adagrad", "lr": 0.02},
    "W2": {"hidden": (500,), "latent_dim": 20, "optimizer": "adam", "lr": 0.001},
}


def run(record: Record, options: Options) -> None:
    files = {name: options.work / f"peer-{name}.npz" for name in WORK}
    figures: dict[str, Any] = {}
    for path in ("eager", "graph", "persistent"):
        figures[f"this engine, {path}"] = {n: ours(n, files[n], options, path) for n in WORK}
        record.note(figures=figures, steps=STEPS)
    for name, (package, script, mode, seconds) in CHILDREN.items():
        if absent([package]):
            figures[name] = {"error": f"{package} is not installed"}
        elif options.left() < 15:
            figures[name] = {"error": "no time left"}
        else:
            out = options.work / f"{name}.json"
            command = [sys.executable, str(HERE / script), mode, str(out), *(f"{n}={f}" for n, f in files.items())]
            figures[name] = child(command, out, min(seconds, options.left() - 5))
        for workload, figure in figures[name].items():
            told = figure if isinstance(figure, str) else f"{figure['us_per_step']} us, bound {figure['bound']:.2f}"
            say(f"  {name}, {workload}: {told.splitlines()[-1]}")
        record.note(figures=figures)


def child(command: list[str], out: Path, seconds: float) -> dict[str, Any]:
    """What it wrote, and how it ended if not well."""
    problem = ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        if done.returncode:
            problem = done.stderr[-2000:].strip() or f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        problem = f"not done in {seconds:.0f} s"
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(out.read_text(encoding="utf-8"))
    return found | ({"error": problem} if problem else {})


def ours(name: str, file: Path, options: Options, path: str) -> dict[str, Any]:
    """This engine on the workload; leaves the task for the peers in ``file``."""
    from parity import session, train

    config = {**WORK[name], "steps": STEPS, "trainer": path}
    made = session("gpu", options, config)
    trainer = made.trainer
    steps = made.config.steps
    parameters = {n: made.backend.download(p.theta.array) for n, p in made.model.parameters.named.items()}
    np.savez(
        file,
        train=made.dataset.train,
        test=made.dataset.test,
        orders=trainer.order.rows(0, steps),
        lr=np.float64(made.config.lr),
        latent=np.int64(made.config.latent_dim),
        optimizer=np.array(made.config.optimizer),
        **{f"parameter {i}": a for i, a in enumerate(parameters.values())},
    )
    train(made, steps)
    bound = float(made.test.run()[:, 0].mean())
    current(made.backend)
    block = 5 if options.small else min(500, trainer.block)
    clock = Clock(made.backend)
    times = [clock.wall(lambda: trainer.advance(block)) / block for _ in range(2 if options.small else 15)]
    return {
        "us_per_step": round(float(np.median(times)) * 1e6, 2),
        "bound": bound,
        "steps": steps,
        "trainer": made.config.trainer,
    }
