"""Marginal log-likelihood by importance sampling from the encoder (Burda et al. 2015, section 5), in bounded memory.

log p(x) is estimated from below in expectation by L_K(x) = log 1/K sum_k p(x, z_k) / q(z_k | x). Samples come in
chunks; a running maximum and sum carry the log-mean-exp over them, and of the weights only the 3 sqrt K largest are
kept, for k-hat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from aevb_engine.evaluation.blocks import bind, block, chunk
from aevb_engine.evaluation.estimate import Estimate, RunningWeights
from aevb_engine.kernels.noise import Noise
from aevb_engine.model.model import Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.objectives.iwae import Iwae
from aevb_engine.objectives.program import Pass
from aevb_engine.operation import Buffer, Operation, Rows, custom
from aevb_engine.training.step import Clock, ResidentRows, read_batch

SAMPLES_AT_ONCE = 250
ROWS_OF_A_BLOCK = 1024  # the encoder takes the data points of a block at once: more of them than of chains
ROWS_AT_ONCE = 2000  # decoded rows of one pass: a few arrays of this many rows and the data's width


class ImportanceSampler:
    """L_K of resident rows (N, D); noise is a function of (seed, data row, sample), whatever the chunks and threads.

    On one machine so are the results, to the last bit (``blocks``), but where the rows do not fill a block; there and
    elsewhere they differ by rounding.
    """

    def __init__(self, model: Model, data: ResidentRows, samples: int, *, seed: int = 0, threads: int = 1) -> None:
        if samples < 1:
            raise ValueError(f"{samples} samples: at least one is needed")
        self.model = model
        self.samples = samples
        self.count = int(data.data.array.shape[0])
        self.chunk = min(samples, SAMPLES_AT_ONCE)
        size = min(block(self.chunk, ROWS_OF_A_BLOCK), self.count)
        self.batch = chunk(self.count, size, ROWS_AT_ONCE // self.chunk, size * threads)
        self.ws = ws = Workspace(model.backend, self.batch, self.chunk, model.dtype)
        self.clock = clock = Clock(ws, 1, 0)
        one_pass = Pass(model, ws, gradient=False)
        one_pass.noise = [draw_by_sample(ws, clock, one_pass.eps, seed)]
        program = Iwae().build(one_pass)
        rows = [*read_batch(ws, clock, one_pass.x, data, seed), *program.rows]
        self.phases = [
            [model.backend.bind(program.prepare, Rows(0, self.batch))],
            bind(model.backend, rows, self.batch, size, threads, [ws.many("logw")]),
        ]

    def run(self, progress: Callable[[int, int], None] | None = None) -> Estimate:
        """L_K of each row in nats, with the effective sample size, k-hat and standard error of its weights."""
        backend, clock = self.model.backend, self.clock
        parts = []
        for lo in range(0, self.count, self.batch):
            n = min(self.batch, self.count - lo)
            wanted = np.minimum(np.arange(lo, lo + self.batch), self.count - 1)
            clock.index.array[...] = backend.upload(wanted)
            clock.row.array[...] = lo
            running = RunningWeights(n, self.samples)
            for first in range(0, self.samples, self.chunk):
                clock.step.array[...] = first
                backend.run(self.phases, 1)
                logw = backend.download(self.ws.many("logw").array).reshape(self.batch, self.chunk)
                running.add(logw[:n, : self.samples - first].astype(np.float64))
            parts.append(running.estimate())
            if progress is not None:
                progress(lo + n, self.count)
        return Estimate.joined(parts)


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

    facts: dict[str, Any] = {"seed": seed, "stream": "importance", "step": clock.step, "row": clock.row, "eps": cube}
    return custom("noise_by_sample", bind, (clock.step, clock.row), (eps,), **facts)
