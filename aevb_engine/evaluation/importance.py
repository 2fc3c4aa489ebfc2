"""Marginal log-likelihood by importance sampling from the encoder (Burda et al. 2015, section 5), in bounded memory.

log p(x) is estimated from below in expectation by L_K(x) = log 1/K sum_k p(x, z_k) / q(z_k | x). Samples come in
chunks; a running maximum and sum carry the log-mean-exp over them, so that K costs time but no memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.kernels.noise import Noise
from aevb_engine.model.model import Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.objectives.iwae import Iwae
from aevb_engine.objectives.program import Pass
from aevb_engine.operation import Buffer, Operation, Rows, custom
from aevb_engine.training.step import Clock, ResidentRows, read_batch, shares

SAMPLES_AT_ONCE = 250
ROWS_AT_ONCE = 2000  # decoded rows of one pass: a few arrays of this many rows and the data's width


class ImportanceSampler:
    """L_K of resident rows (N, D); noise is a function of (seed, data row, sample), whatever the chunks and threads."""

    def __init__(self, model: Model, data: ResidentRows, samples: int, *, seed: int = 0, threads: int = 1) -> None:
        if samples < 1:
            raise ValueError(f"{samples} samples: at least one is needed")
        self.model = model
        self.samples = samples
        self.count = int(data.data.array.shape[0])
        self.chunk = min(samples, SAMPLES_AT_ONCE)
        self.batch = min(self.count, max(threads, ROWS_AT_ONCE // self.chunk))
        self.ws = ws = Workspace(model.backend, self.batch, self.chunk, model.dtype)
        self.clock = clock = Clock(ws, 1, 0)
        one_pass = Pass(model, ws, gradient=False)
        one_pass.noise = [draw_by_sample(ws, clock, one_pass.eps, seed)]
        program = Iwae().build(one_pass)
        rows = [*read_batch(ws, clock, one_pass.x, data, seed), *program.rows]
        bind = model.backend.bind
        self.phases = [
            [bind(program.prepare, Rows(0, self.batch))],
            [bind(rows, share) for share in shares(self.batch, threads)],
        ]

    def run(self, progress: Callable[[int, int], None] | None = None) -> npt.NDArray[np.float64]:
        """(N, 2): L_K in nats and the effective sample size (sum w)^2 / sum w^2 of each row, 1 to K."""
        out = np.empty((self.count, 2))
        backend, clock = self.model.backend, self.clock
        for lo in range(0, self.count, self.batch):
            n = min(self.batch, self.count - lo)
            wanted = np.minimum(np.arange(lo, lo + self.batch), self.count - 1)
            clock.index.array[...] = backend.upload(wanted)
            clock.row.array[...] = lo
            running = RunningWeights(n)
            for first in range(0, self.samples, self.chunk):
                clock.step.array[...] = first
                backend.run(self.phases, 1)
                logw = backend.download(self.ws.many("logw").array).reshape(self.batch, self.chunk)
                running.add(logw[:n, : self.samples - first].astype(np.float64))
            out[lo : lo + n, 0] = running.log_mean()
            out[lo : lo + n, 1] = running.effective_samples()
            if progress is not None:
                progress(lo + n, self.count)
        return out


class RunningWeights:
    """Sums of w and w^2 relative to the largest log-weight so far, one row a data point."""

    def __init__(self, rows: int) -> None:
        self.largest = np.full(rows, -np.inf)
        self.total = np.zeros(rows)
        self.squares = np.zeros(rows)
        self.count = 0

    def add(self, logw: npt.NDArray[np.float64]) -> None:
        """Take in a chunk of log-weights (rows, samples)."""
        largest = np.maximum(self.largest, logw.max(axis=1))
        shift = np.exp(self.largest - largest)
        weights = np.exp(logw - largest[:, None])
        self.total = self.total * shift + weights.sum(axis=1)
        self.squares = self.squares * shift**2 + (weights**2).sum(axis=1)
        self.largest = largest
        self.count += logw.shape[1]

    def log_mean(self) -> npt.NDArray[np.float64]:
        """log 1/K sum w."""
        mean: npt.NDArray[np.float64] = self.largest + np.log(self.total / self.count)
        return mean

    def effective_samples(self) -> npt.NDArray[np.float64]:
        """(sum w)^2 / sum w^2."""
        return self.total**2 / self.squares


def draw_by_sample(ws: Workspace, clock: Clock, eps: Buffer, seed: int) -> Operation:
    """eps of samples ``step`` .. of the data rows ``row`` ..: the sample takes the step's place in the counter."""
    cube = ws.by_sample(eps)

    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        out = cube.view(rows)
        count, samples, columns = out.shape
        noise = Noise(xp, seed, "importance")
        block = xp.empty((samples, count, 4 * -(-columns // 4)), dtype=xp.float32)
        step, row = clock.step.array, clock.row.array

        def run() -> None:
            noise.normal(int(step[0]), int(row[0]) + rows.lo, block)
            out[...] = block[:, :, :columns].transpose(1, 0, 2)

        return run

    facts = {"seed": seed, "stream": "importance", "step": clock.step, "row": clock.row, "eps": cube}
    return custom("noise_by_sample", bind, (clock.step, clock.row), (eps,), **facts)
