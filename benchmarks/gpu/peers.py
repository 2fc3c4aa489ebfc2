"""PyTorch and JAX on W1 and W2: the same data, batches, initial parameters and learning rates, each in its own process.

Noise is each framework's own. Compared are microseconds a step and the held-out bound after the same number of steps
(of W5, L_5); products are in full float32 everywhere, and JAX is measured with its default precision, too (TF32 on such
devices). ``times_the_best_peer``: how many times as fast as the best peer in full float32 each path of this engine is;
``left_out``: what the time did not reach. ``more_peers.py`` has the other workloads, with fewer rounds;
``peer_check.py`` holds the models against this engine's gradients on the CPU.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from result import Record, say
from section import Options
from setting import HERE, absent
from timing import Clock

STEPS = 1000
PATHS = ("eager", "graph", "persistent")
LOWER = "JAX scan, default precision"  # which may be TF32
CHILDREN = {  # name: (package, script, mode, seconds at most)
    "PyTorch eager": ("torch", "peer_torch.py", "eager", 50),
    "PyTorch CUDA graph": ("torch", "peer_torch.py", "graph", 50),
    "JAX scan": ("jax", "peer_jax.py", "highest", 50),
    "PyTorch compiled": ("torch", "peer_torch.py", "compiled", 100),
    LOWER: ("jax", "peer_jax.py", "default", 50),
}
WORK: dict[str, dict[str, Any]] = {
    "W1": {"hidden": (100,), "latent_dim": 2, "optimizer": "adagrad", "lr": 0.02},
    "W2": {"hidden": (500,), "latent_dim": 20, "optimizer": "adam", "lr": 0.001},
    "W3": {
        "hidden": (200,), "latent_dim": 5, "optimizer": "adam", "lr": 0.001,
        "decoder": "gaussian", "decoder_options": {"mean": "linear", "min_logvar": None},
        "dataset": "simulated-normal", "dataset_options": {"train": 100, "test": 20},  # replaced by ``grey``
    },
    "W4": {"hidden": (500,), "latent_dim": 20, "optimizer": "adam", "lr": 0.001, "batch_size": 1000},
    "W5": {
        "hidden": (200, 200), "latent_dim": 50, "optimizer": "adam", "lr": 0.001, "batch_size": 20,
        "objective": "iwae", "samples": 5,
    },
}  # fmt: skip
TEST_ROWS = 400  # of W3


def run(record: Record, options: Options) -> None:
    compare(record, options, ("W1",) if options.small else ("W1", "W2"), 2 if options.small else 9)


def compare(record: Record, options: Options, names: tuple[str, ...], rounds: int) -> None:
    """Everyone on the workloads, with so many rounds of steps timed."""
    figures: dict[str, Any] = {who: {} for who in (*(f"this engine, {path}" for path in PATHS), *CHILDREN)}

    def note() -> None:
        left_out = [f"{who}, {name}" for who in figures for name in names if name not in figures[who]]
        record.note(
            figures=figures, times_the_best_peer=times_the_best_peer(figures), steps=STEPS, rounds=rounds,
            left_out=left_out,
        )  # fmt: skip

    files = {name: options.work / f"peer-{name}.npz" for name in names}
    for name in names:
        for path in PATHS:
            who = figures[f"this engine, {path}"]
            _enter(who, name, partial(ours, name, files[name], options, path, rounds), options)
            note()
    for who, (package, script, mode, seconds) in CHILDREN.items():
        told = " ".join(names)
        there = [f"{n}={f}" for n, f in files.items() if f.exists()]
        if absent([package]):
            found: dict[str, Any] = {f"error {told}": f"{package} is not installed"}
        elif not there or options.left() < 15:
            found = {f"error {told}": "no time left"}
        else:
            out = options.work / f"{who} {names[0]}.json"
            command = [sys.executable, str(HERE / script), mode, str(out), *there]
            found = child(command, out, min(seconds, options.left() - 5), told)
        for workload, figure in found.items():
            line = figure if isinstance(figure, str) else f"{figure['us_per_step']} us, bound {figure['bound']:.2f}"
            say(f"  {who}, {workload}: {line.splitlines()[-1]}")
        figures[who] |= found
        note()


def times_the_best_peer(figures: dict[str, Any]) -> dict[str, Any]:
    """By workload: the best peer in full float32, and how many times as fast each path of this engine is."""
    out: dict[str, Any] = {}
    times = {
        (who, name): f["us_per_step"] for who, found in figures.items() for name, f in found.items()
        if isinstance(f, dict)
    }  # fmt: skip
    for name in sorted({name for _, name in times}):
        peers = {who: us for (who, n), us in times.items() if n == name and who in CHILDREN and who != LOWER}
        if peers:
            best = min(peers, key=lambda who: peers[who])
            paths = {path: times.get((f"this engine, {path}", name)) for path in PATHS}
            out[name] = {"best_peer": best} | {path: round(peers[best] / us, 2) for path, us in paths.items() if us}
    return out


def _enter(figures: dict[str, Any], name: str, question: Any, options: Options) -> None:
    """The figure, or under another name why there is none; the rest goes on."""
    if options.left() < 20 and not options.small:
        figures[f"error {name}"] = "no time left"
        return
    try:
        figures[name] = question()
    except Exception as error:
        figures[f"error {name}"] = f"{type(error).__name__}: {error}"[:500]


def child(command: list[str], out: Path, seconds: float, names: str) -> dict[str, Any]:
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
    return found | ({f"error {names}": problem} if problem else {})


def grey(name: str, small: bool) -> Any:
    """What replaces the loaded data: of W3 grey rows drawn as for the benchmarks on the CPU, some of them held out."""
    if name != "W3":
        return None

    def change(dataset: Any) -> Any:
        from aevb_engine import bench
        from aevb_engine.data.dataset import Dataset

        workload = bench.WORKLOADS["W3"]
        train = 200 if small else workload.rows
        rows = bench.draw(replace(workload, rows=train + TEST_ROWS, dim=40 if small else workload.dim))
        return Dataset("drawn grey rows", rows[:train], rows[train:])

    return change


def begun(backend: str, name: str, options: Options, config: dict[str, Any]) -> Any:
    """This engine on the workload, before the first step."""
    from parity import session

    made = session(backend, options, {**WORK[name], "steps": STEPS, **config}, grey(name, options.small))
    if made.dataset.scale != 1 or made.dataset.dynamic or made.trainer.step:
        raise ValueError(f"{made.dataset.name}: the peers read the rows as they are")
    return made


def leave(made: Any, name: str, file: Path, rounds: int) -> None:
    """The task for the peers."""
    config = made.config
    parameters = {n: made.backend.download(p.theta.array) for n, p in made.model.parameters.named.items()}
    np.savez(
        file,
        train=made.dataset.train,
        test=made.dataset.test,
        orders=made.trainer.order.rows(0, config.steps),
        lr=np.float64(config.lr),
        latent=np.int64(config.latent_dim),
        samples=np.int64(config.samples),
        depth=np.int64(len(config.hidden)),
        rounds=np.int64(rounds),
        gaussian=np.bool_(config.decoder == "gaussian"),
        optimizer=np.array(config.optimizer),
        **{f"parameter {i}": a for i, a in enumerate(parameters.values())},
    )


def ours(name: str, file: Path, options: Options, path: str, rounds: int) -> dict[str, Any]:
    """This engine on the workload; leaves the task for the peers in ``file``."""
    from parity import train

    made = begun("gpu", name, options, {"trainer": path})
    trainer, steps = made.trainer, made.config.steps
    if not file.exists():
        leave(made, name, file, rounds)
    train(made, steps)
    bound = float((made.test_k or made.test).run()[:, 0].mean())
    made.backend.enter()
    block = 5 if options.small else min(500, trainer.block)
    clock = Clock(made.backend)
    times = [clock.wall(lambda: trainer.advance(block)) / block for _ in range(rounds)]
    made.backend.close()
    return {
        "us_per_step": round(float(np.median(times)) * 1e6, 2),
        "bound": bound,
        "steps": steps,
        "trainer": made.config.trainer,
        "dataset": made.dataset.name,
    }
