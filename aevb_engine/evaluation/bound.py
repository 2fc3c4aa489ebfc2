"""The bound of every row of a data set, in blocks of one shape; results do not depend on the number of threads.

Of fewer rows than a block the results differ from those among more by rounding, in the last bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aevb_engine.evaluation.blocks import bind, block, chunk
from aevb_engine.evaluation.estimate import standard_error
from aevb_engine.model.model import Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.objectives import built, objective
from aevb_engine.objectives.base import Objective
from aevb_engine.objectives.program import Pass
from aevb_engine.operation import Rows
from aevb_engine.training.step import Clock, ResidentRows, draw_noise, read_batch

EVALUATION_BATCH = 500


class Evaluator:
    """Bounds of resident rows (N, D) under one objective; built once, run as often as wanted.

    The noise is the stream "eval" with the row's number in the data set: the same draw at every evaluation, so that
    two evaluations differ by the model alone.
    """

    def __init__(
        self,
        model: Model,
        data: ResidentRows,
        *,
        objective_name: str | Objective = "elbo",
        samples: int = 1,
        seed: int = 0,
        threads: int = 1,
        batch: int = EVALUATION_BATCH,
    ) -> None:
        self.count = int(data.data.array.shape[0])
        size = min(block(samples), batch, self.count)
        self.batch = chunk(self.count, size, batch, size * threads)
        self.model = model
        self.ws = ws = Workspace(model.backend, self.batch, samples, model.dtype)
        self.clock = Clock(ws, 1, 0)
        one_pass = Pass(model, ws, gradient=False)
        one_pass.noise = [draw_noise(self.clock, one_pass.eps, seed, "eval", ahead=False)]
        program = built(objective(objective_name), one_pass)
        rows = [
            *read_batch(ws, self.clock, one_pass.x, data, seed),
            *program.rows,
        ]
        self._found = [ws.one(name) for name in ("bound", "reconstruction", "kl")]
        self.phases = [
            [model.backend.bind(program.prepare, Rows(0, self.batch))],
            bind(model.backend, rows, self.batch, size, threads, self._found),
        ]

    def run(self, draw: int = 0) -> npt.NDArray[np.float64]:
        """(N, 3): bound, reconstruction and kl of each row in nats; ``draw`` counts independent draws of the noise."""
        backend = self.model.backend
        out = np.empty((self.count, 3))
        for lo in range(0, self.count, self.batch):
            n = min(self.batch, self.count - lo)
            wanted = np.minimum(np.arange(lo, lo + self.batch), self.count - 1)  # the last chunk repeats its last row
            self.clock.index.array[...] = backend.upload(wanted)
            self.clock.row.array[...] = lo
            self.clock.step.array[...] = draw
            backend.run(self.phases, 1)
            for j, source in enumerate(self._found):
                out[lo : lo + n, j] = backend.download(source.array)[:n]
        return out


def draw_error(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """The standard deviation of a mean bound over its noise alone, by the bounds (N,) of the same rows in two draws.

    Rows are drawn independently, and half the squared difference of two draws has the variance of one as its mean:
    Var(mean) = sum_i (a_i - b_i)^2 / (2 N^2). It says how far the figure would move with other noise, the standard
    error over rows how far with other rows.
    """
    with np.errstate(invalid="ignore"):  # inf - inf
        return float(np.sqrt(0.5 * np.square(one - other).sum()) / len(one))


def summary(rows: npt.NDArray[np.float64]) -> dict[str, float]:
    """Means over data points, and the standard error of the mean bound."""
    with np.errstate(invalid="ignore"):  # inf - inf
        bound, reconstruction, kl = (float(v) for v in rows.mean(axis=0))
    return {"bound": bound, "reconstruction": reconstruction, "kl": kl, "bound_se": standard_error(rows[:, 0])}
