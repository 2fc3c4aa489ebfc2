"""The ways to run the steps of training on W1 to W5: eager, captured graph, persistent kernel.

Promised for each path: the gradient of the first step to 1e-5 of the CPU's by norm, the bounds of 50 steps to 1e-3
nats, the same bits in a resumed run; the same bits from graph and persistent kernel, and from replicas side by side and
alone. Measured: microseconds a step with tables filled and metrics read as in training, and on the device alone, in
float32 and with products in TF32; the paper's MNIST run of 60,000 steps; replicas; and, projected from a stretch, the
whole schedule of Burda et al. ``figures`` are rows of ``aevb_engine/cuda/measured.py``.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from parity import BOUND, GRADIENT, bits, relative, session
from result import Record, say
from section import Options
from timing import Clock
from workloads import trainer, workloads

PATHS = ("eager", "graph", "persistent")
PAPER = {"hidden": (100,), "latent_dim": 2, "optimizer": "adagrad", "lr": 0.02}
PAPER_STEPS = 60_000
# Burda, Grosse & Salakhutdinov (2016, section 5), one stochastic layer, k = 1: 3^i passes over the data at the learning
# rate 0.001 * 10^(-i/7), i = 0 .. 7; Adam with eps 1e-4.
BURDA = {"hidden": (200, 200), "latent_dim": 50, "optimizer": "adam", "lr": 0.001, "batch_size": 20,
         "initial": "glorot", "optimizer_options": {"eps": 1e-4}}  # fmt: skip
BURDA_PASSES = [3**i for i in range(8)]
BURDA_PASS = 60_000 // 20  # steps, of MNIST's training rows
BURDA_SECONDS = 4.0  # of the stretch that is timed


def run(record: Record, options: Options) -> None:
    from aevb_engine.backend.cupy import CupyBackend

    backend = CupyBackend()
    for name in workloads(options.small):
        promises(record, backend, name, options)
    clock = Clock(backend)
    found: dict[str, Any] = {}
    for name in workloads(options.small):
        found[name] = {}
        for products in ("fp32",) if options.small and name != "W3" else ("fp32", "tf32"):
            for path in PATHS:
                if options.left() < 20 and not options.small:
                    record.note(left_out=f"{name} {path} {products} and what follows: no time left")
                    break
                question = partial(measure, clock, backend, name, path, products, options)
                found[name][f"{path} {products}"] = attempt(question)
                record.note(workloads=found, figures=figures(found))
        fast = {kind: f["wall_us"] for kind, f in found[name].items() if "wall_us" in f}
        say(f"  {name}: " + ", ".join(f"{kind} {us:.1f} us" for kind, us in fast.items()))
    record.attempt("paper", lambda: paper(options))
    record.attempt("replicas", lambda: replicas(record, clock, backend, options))
    record.attempt("burda", lambda: burda(options))
    backend.close()


def attempt(question: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = question()
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"[:500]}
    return found


def plan(path: str, products: str = "fp32") -> Any:
    from aevb_engine.backend.base import Plan

    return Plan(path, products, strict="this section measures it")


def promises(record: Record, backend: Any, name: str, options: Options) -> None:
    """Every path against the CPU, and the two replayed ones against each other."""
    from aevb_engine.backend.numpy import NumpyBackend

    steps = 3 if options.small else 50
    cpu = trainer(name, NumpyBackend(1), options.small)
    rows = cpu.advance(1)
    gradient = cpu.model.parameters.grad.astype(np.float64)
    rows = np.concatenate([rows, cpu.advance(steps - 1)])[:, 2]
    arrays: dict[str, Any] = {}
    for path in PATHS:
        backend.enter()
        made = trainer(name, backend, options.small, plan=plan(path))
        first = made.advance(1)
        error = relative(gradient, backend.download(made.model.parameters.grad).astype(np.float64))
        record.check(f"{name}, {path}: relative error of the gradient", error <= GRADIENT, error, GRADIENT)
        found = np.concatenate([first, made.advance(steps - 1)])[:, 2]
        apart = float(np.abs(found - rows).max())
        record.check(f"{name}, {path}: difference of a bound in {steps} steps", apart <= BOUND, apart, BOUND)
        arrays[path] = made.arrays()
        begun, resumed = (trainer(name, backend, options.small, plan=plan(path)) for _ in range(2))
        begun.advance(steps // 3)
        resumed.restore(steps // 3, begun.arrays())
        resumed.advance(steps - steps // 3)
        _same(record, f"{name}, {path}: numbers with other bits in a resumed run", arrays[path], resumed.arrays())
    _same(record, f"{name}: numbers with other bits, graph and persistent", arrays["graph"], arrays["persistent"])


def _same(record: Record, what: str, a: dict[str, Any], b: dict[str, Any]) -> None:
    different = sum(int((bits(a[n]) != bits(b[n])).sum()) for n in a)
    record.check(what, different == 0, different, 0)


def measure(clock: Clock, backend: Any, name: str, path: str, products: str, options: Options) -> dict[str, Any]:
    """Microseconds of a step, as in training and of the device alone."""
    from aevb_engine.training.plan import multiply_adds

    backend.enter()
    start = time.perf_counter()
    made = trainer(name, backend, options.small, plan=plan(path, products))
    made.advance(2)
    ready = time.perf_counter() - start
    block, rounds = (2, 2) if options.small else (min(500, made.block), 9)
    for _ in range(2):
        made.advance(block)
    wall = [clock.wall(lambda: made.advance(block)) / block for _ in range(rounds)]
    settings = made.settings
    found = {
        "wall_us": _us(wall),
        "block": block,
        "ready_seconds": round(ready, 2),
        "multiply_adds": multiply_adds(made.model, settings.batch * settings.samples),
    }
    replay = made.inner.replay
    if replay is not None:
        found |= {k: getattr(replay, k) for k in ("kernels", "blocks") if hasattr(replay, k)}

        def again() -> None:
            made.inner.clock.cursor.array[...] = 0
            made.inner.run(block)

        found["device_us"] = _us([clock.device(again, 2e-3) / block for _ in range(rounds)])
    return found


def _us(times: Any) -> float:
    return round(float(np.median(times)) * 1e6, 2)


def figures(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table by which the path is chosen."""
    return [
        {"path": kind.split()[0], "multiply_adds": f["multiply_adds"], "microseconds": f["wall_us"],
         "products": kind.split()[1]}
        for kinds in found.values() for kind, f in kinds.items() if "wall_us" in f
    ]  # fmt: skip


def replicas(record: Record, clock: Clock, backend: Any, options: Options) -> dict[str, Any]:
    """Microseconds of a step of all of so many replicas in one launch, of the first workload; the bits of the last."""
    backend.enter()
    name = next(iter(workloads(options.small)))
    found: dict[str, Any] = {"workload": name}
    steps = 3 if options.small else 200
    alone = trainer(name, backend, options.small, plan=plan("persistent"))
    alone.advance(steps)
    for count in (2,) if options.small else (1, 2, 4, 8, 16):
        made = [trainer(name, backend, options.small, plan=plan("persistent")) for _ in range(count)]
        launch = made[0].inner.replay.together([m.inner.replay for m in made[1:]])

        def block(made: Any = made, launch: Any = launch) -> None:
            for each in made:
                each.begin(steps)
            launch(steps)
            for each in made:
                each.finish(steps)

        block()
        what = f"{name}: numbers with other bits, alone and as one of {count} replicas"
        _same(record, what, alone.arrays(), made[-1].arrays())
        seconds = [clock.wall(block) / steps for _ in range(2 if options.small else 7)]
        found[str(count)] = {"wall_us": _us(seconds), "us_per_replica": round(_us(seconds) / count, 2)}
    return found


def paper(options: Options) -> dict[str, Any]:
    """Seconds of the paper's run and its bound on the test rows; the eager path for a tenth of the steps."""
    found: dict[str, Any] = {}
    for path in PATHS:
        if options.left() < 10 and not options.small:
            found[path] = "no time left"
            continue
        steps = PAPER_STEPS if path != "eager" else PAPER_STEPS // 10
        start = time.perf_counter()
        made = session("gpu", options, {**PAPER, "steps": steps, "trainer": path})
        steps = made.config.steps  # fewer where all is small
        ready = time.perf_counter() - start
        start = time.perf_counter()
        while made.trainer.step < steps:
            made.trainer.advance(min(made.trainer.block, steps - made.trainer.step))
        seconds = time.perf_counter() - start
        found[path] = {"trainer": made.config.trainer, "dataset": made.config.dataset, "steps": steps,
                       "ready_seconds": round(ready, 3), "seconds": round(seconds, 3),
                       "test_bound": float(made.test.run()[:, 0].mean())}  # fmt: skip
        say(f"  {made.config.dataset}, {path}: {steps} steps in {seconds:.1f} s")
        made.backend.close()
    return found


def burda(options: Options) -> dict[str, Any]:
    """Microseconds a step of a stretch as in training, without evaluation; the schedule's seconds are a product."""
    ends = np.cumsum(BURDA_PASSES) * BURDA_PASS
    schedule = f"steps:{','.join(map(str, ends[:-1]))}:{10 ** (-1 / 7)!r}"
    total = int(ends[-1])
    found: dict[str, Any] = {
        "projected": "projected_seconds = us_per_step * schedule_steps; the schedule itself was not run",
        "schedule_steps": total, "passes": sum(BURDA_PASSES), "lr_schedule": schedule,
    }  # fmt: skip
    for path in PATHS:
        if options.left() < 30 and not options.small:
            found[path] = "no time left"
            continue
        made = session("gpu", options, {**BURDA, "steps": total, "lr_schedule": schedule, "trainer": path})
        trainer = made.trainer
        block = 2 if options.small else trainer.block
        for _ in range(2):
            trainer.advance(block)
        first, start, seconds = trainer.step, time.perf_counter(), 0.0
        while seconds < (0 if options.small else BURDA_SECONDS) or trainer.step == first:
            trainer.advance(block)
            seconds = time.perf_counter() - start
        steps = trainer.step - first
        found[path] = {"trainer": made.config.trainer, "dataset": made.config.dataset,
                       "objective": made.config.objective, "measured_steps": steps,
                       "measured_seconds": round(seconds, 3),
                       "us_per_step": round(seconds / steps * 1e6, 2),
                       "projected_seconds": round(seconds / steps * total, 1)}  # fmt: skip
        say(f"  Burda et al., {path}: {total} steps would take {seconds / steps * total:.0f} s (from {steps} steps)")
        made.backend.close()
    return found
