"""The GPU against the CPU from the same seed: gradients, bounds after a thousand steps and more, and equal bits.

The data are MNIST where ``--data-dir`` is given, else the drawn digits; the paper's run is promised on MNIST only.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from result import Record, say
from section import Options
from workloads import trainer, workloads

GRADIENT = 1e-5  # relative, by norm
BOUND = 1e-3  # nats, after 1,000 steps
PAPER = 0.1  # nats, after 10,000 steps
BLOCK = 50


def run(record: Record, options: Options) -> None:
    gradients(record, options)
    record.note(data=str(_data(options)["dataset"]))
    repeat(record, options)
    large = {"hidden": (500,), "latent_dim": 20, "optimizer": "adam", "steps": 1000}
    trajectory(record, options, "784-500-20 adam", large, BOUND)
    paper = {"hidden": (100,), "latent_dim": 2, "optimizer": "adagrad", "lr": 0.02, "steps": 10_000}
    trajectory(record, options, "784-100-2 adagrad, the paper's", paper, PAPER)


def gradients(record: Record, options: Options) -> None:
    """Of the first step of W1 to W5: the whole vector by norm, and the worst parameter."""
    from aevb_engine.backend.cupy import CupyBackend
    from aevb_engine.backend.numpy import NumpyBackend

    gpu = CupyBackend()
    worst = {}
    for name in workloads(options.small):
        found = []
        for backend in (NumpyBackend(1), gpu):
            made = trainer(name, backend, options.small)
            made.advance(1)
            found.append(backend.download(made.model.parameters.grad).astype(np.float64))
            parameters = made.model.parameters.named
        error = relative(*found)
        each = {n: relative(*(f[p.lo : p.hi] for f in found)) for n, p in parameters.items()}
        worst[name] = max(each.items(), key=lambda item: item[1])
        record.check(f"{name}: relative error of the gradient", error <= GRADIENT, error, GRADIENT)
    record.note(worst_parameter=worst)
    gpu.close()


def relative(expected: Any, actual: Any) -> float:
    size = float(np.linalg.norm(expected))
    return float(np.linalg.norm(actual - expected)) / size if size else float(np.linalg.norm(actual))


def _data(options: Options) -> dict[str, Any]:
    if options.data is not None and not options.small:
        return {"dataset": "mnist", "data_dir": str(options.data), "offline": True}
    if options.small:
        return {"dataset": "simulated-binary", "dataset_options": {"train": 200, "test": 50}}
    return {"dataset": "glyphs", "dataset_options": {"train": 5000, "test": 1000}}


def session(backend: str, options: Options, config: dict[str, Any], change: Any = None) -> Any:
    """A prepared run; ``change``: of its data, once loaded."""
    from aevb_engine.experiment.config import RunConfig
    from aevb_engine.experiment.session import prepare

    given = {"batch_size": 100, "seed": 1, "backend": backend, **_data(options), **config}
    if options.small:
        given |= {
            "hidden": (8,) * len(given["hidden"]),
            "latent_dim": 2,
            "batch_size": 20,
            "steps": min(10, given["steps"]),
        }
    return prepare(RunConfig(**given), change=change)


def train(made: Any, steps: int) -> Any:
    """The bounds of the batches."""
    made.backend.enter()
    out = [made.trainer.advance(min(BLOCK, steps - s))[:, 2] for s in range(0, steps, BLOCK)]
    return np.concatenate(out)


def trajectory(record: Record, options: Options, name: str, config: dict[str, Any], limit: float) -> None:
    """Held-out bound and batch bounds of both backends after the same steps."""
    bounds, batches, seconds = [], [], []
    for backend in ("cpu", "gpu"):
        made = session(backend, options, config)
        steps = made.config.steps
        start = time.perf_counter()
        batches.append(train(made, steps))
        seconds.append(time.perf_counter() - start)
        bounds.append(float(made.test.run()[:, 0].mean()))
        dataset = made.config.dataset
        say(f"  {name} on the {backend}: {bounds[-1]:.4f} nats after {steps} steps, {seconds[-1]:.1f} s")
        made.backend.close()
    difference = abs(bounds[0] - bounds[1])
    what = f"{name}: difference of the bound after {steps} steps, {dataset}"
    record.check(what, difference <= limit, difference, limit)
    apart = np.abs(batches[0] - batches[1])
    record.note(
        **{
            name: {
                "dataset": dataset,
                "steps": steps,
                "test_bound": dict(zip(("cpu", "gpu"), bounds, strict=True)),
                "seconds": dict(zip(("cpu", "gpu"), seconds, strict=True)),
                "largest_difference_of_a_batch": {n: apart[:n].max() for n in (10, 100, 1000, 10_000) if n <= steps},
            }
        }
    )


def repeat(record: Record, options: Options) -> None:
    """The same run twice, and once more in two parts: the same bits of the parameters and of the optimizer's state."""
    steps = 40 if options.small else 300
    config = {"hidden": (500,), "latent_dim": 20, "optimizer": "adam", "steps": steps}
    part = steps // 3 + 7
    first, again, begun, resumed = (session("gpu", options, config) for _ in range(4))
    for made in (first, again):
        train(made, steps)
    train(begun, part)
    kept = begun.trainer.arrays()
    resumed.backend.enter()
    resumed.trainer.restore(part, kept)
    train(resumed, steps - part)
    for name, other in (("two runs", again), ("a run and its resumption", resumed)):
        first.backend.enter()
        expected = first.trainer.arrays()
        other.backend.enter()
        actual = other.trainer.arrays()
        different = sum(int((bits(expected[n]) != bits(actual[n])).sum()) for n in expected)
        record.check(f"{name}: numbers with other bits", different == 0, different, 0)


def bits(array: Any) -> Any:
    return array.view(np.uint32 if array.dtype == np.float32 else np.uint64)
