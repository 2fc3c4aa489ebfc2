"""The workloads of the benchmarks, their data, and the time of a step beside its matrix products alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import threadpoolctl

from aevb_engine import registry
from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.model.model import Architecture, Model
from aevb_engine.operation import Buffer
from aevb_engine.training.step import ResidentRows
from aevb_engine.training.trainer import Settings, Trainer


@dataclass(frozen=True)
class Workload:
    """A model, how it is trained, and the size of its data; hidden layers are tanh."""

    dim: int
    hidden: tuple[int, ...]
    latent: int
    optimizer: str
    batch: int = 100
    decoder: str = "bernoulli"
    options: dict[str, Any] = field(default_factory=dict)  # of the decoder
    objective: str = "elbo"
    samples: int = 1
    rows: int = 60_000

    def __str__(self) -> str:
        return f"{'-'.join(map(str, (self.dim, *self.hidden, self.latent)))} batch {self.batch}"


WORKLOADS: dict[str, Workload] = {
    "W1": Workload(784, (100,), 2, "adagrad"),
    "W2": Workload(784, (500,), 20, "adam"),
    "W3": Workload(
        560, (200,), 5, "adam", decoder="gaussian", options={"mean": "linear", "min_logvar": None}, rows=1965
    ),
    "W4": Workload(784, (500,), 20, "adam", batch=1000),
    "W5": Workload(784, (200, 200), 50, "adam", batch=20, objective="iwae", samples=5),
}


def draw(workload: Workload, seed: int = 0) -> npt.NDArray[Any]:
    """Rows (N, D) with two factors behind them, in the form of the data sets that the workloads stand for.

    Bernoulli: uint8, 14 in 100 are ones, and as in MNIST a border that is zero in every row. Gaussian: float32 in
    [0, 1], as grey images of faces. Two factors, so that every seed of training comes to the same bound.
    """
    rng = np.random.default_rng(seed)
    n, d = workload.rows, workload.dim
    loadings = rng.standard_normal((2, d), np.float32)
    if workload.decoder == "gaussian":
        grey = 0.5 + 0.1 * rng.standard_normal((n, 2), np.float32) @ loadings
        grey += 0.1 * rng.standard_normal((n, d), np.float32)
        return np.clip(grey, 0, 1).astype(np.float32)
    inside = np.ones(d, bool)
    side = int(d**0.5)
    if side * side == d:
        inside = np.pad(np.ones((side - 2, side - 2), bool), 1).ravel()
    data = np.empty((n, d), np.uint8)
    for part in np.array_split(data, max(1, n // 5000)):  # the wide draws stay small
        logits = 2 * rng.standard_normal((len(part), 2), np.float32) @ loadings - 3
        uniform = rng.random(part.shape, np.float32)
        part[...] = (uniform * (1 + np.exp(-logits)) < 1) & inside
    return data


def trainer(workload: Workload, data: npt.NDArray[Any], threads: int) -> Trainer:
    """A trainer of one workload on the CPU, not yet started."""
    backend = NumpyBackend(threads)
    likelihood = registry.create("decoder", workload.decoder, workload.options)
    model = Model(Architecture(workload.dim, workload.latent, workload.hidden), likelihood, backend)
    model.parameters.initialize(0)
    optimizer = registry.create("optimizer", workload.optimizer)
    settings = Settings(
        objective=workload.objective,
        samples=workload.samples,
        batch=workload.batch,
        lr=optimizer.default_lr,
        threads=threads,
    )
    return Trainer(model, optimizer, ResidentRows(Buffer("data", data)), settings)


def products(made: Trainer) -> Callable[[], None]:
    """The matrix products of one step: three for each weight, two for the first layer; nothing else."""
    rng = np.random.default_rng(0)
    settings = made.settings
    jobs = []
    for number, parameter in enumerate(p for p in made.model.parameters.named.values() if len(p.shape) == 2):
        k, c = parameter.shape
        rows = settings.batch * (settings.samples if parameter.name.startswith("decoder") else 1)
        x, w, y = (rng.random(shape, np.float32) for shape in ((rows, k), (k, c), (rows, c)))
        dx, dw, dy = (np.empty_like(a) for a in (x, w, y))
        jobs += [(x, w, dy), (x.T, y, dw)]
        if number:  # the data need no gradient
            jobs.append((y, w.T, dx))

    def run() -> None:
        for a, b, out in jobs:
            np.matmul(a, b, out=out)

    return run


def decoder_products(model: Model, rows: int) -> Callable[[], None]:
    """The matrix products that decode so many samples; nothing else."""
    rng = np.random.default_rng(0)
    named = model.parameters.named
    matrices = [p.theta.array for n, p in named.items() if n.startswith("decoder") and len(p.shape) == 2]
    jobs = [(rng.random((rows, len(m)), np.float32), m, np.empty((rows, m.shape[1]), np.float32)) for m in matrices]

    def run() -> None:
        for x, weight, out in jobs:
            np.matmul(x, weight, out=out)

    return run


def floor_seconds(run: Callable[[], None], seconds: float = 0.1) -> float:
    """Median time of the products with BLAS at one thread, repeated for about so many seconds."""
    times: list[float] = []
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        end = time.perf_counter() + seconds
        while len(times) < 5 or time.perf_counter() < end:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return float(np.median(times))


def advance_seconds(made: Trainer, steps: int) -> float:
    """Mean time of a step over so many."""
    start = time.perf_counter()
    for first in range(0, steps, made.block):
        made.advance(min(made.block, steps - first))
    return (time.perf_counter() - start) / steps


@dataclass(frozen=True)
class Timing:
    """Medians over rounds: seconds a step, seconds of its products at one thread, and their ratio within a round."""

    name: str
    threads: int
    step: float
    floor: float
    ratio: float


def measure(names: list[str], threads: int, rounds: int = 7, seconds: float = 0.2) -> Iterator[Timing]:
    """One timing a workload: steps and products take turns, each round about twice so many seconds."""
    for name in names:
        workload = WORKLOADS[name]
        made = trainer(workload, draw(workload), threads)
        try:
            run = products(made)
            floor_seconds(run)
            advance_seconds(made, 20)
            steps = max(5, min(500, int(seconds / advance_seconds(made, 5))))
            pairs = [(advance_seconds(made, steps), floor_seconds(run, seconds)) for _ in range(rounds)]
        finally:
            made.model.backend.close()
        step, floor = (float(np.median(times)) for times in zip(*pairs, strict=True))
        yield Timing(name, threads, step, floor, float(np.median([a / b for a, b in pairs])))
