"""The bound of every row of a data set, in chunks of one shape; results do not depend on the chunks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aevb_engine.evaluation.estimate import standard_error
from aevb_engine.model.model import Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.objectives import built, objective
from aevb_engine.objectives.base import Objective
from aevb_engine.objectives.program import Pass
from aevb_engine.operation import Rows
from aevb_engine.training.step import Clock, ResidentRows, draw_noise, read_batch, shares

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
        self.batch = min(batch, self.count)
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
        bind = model.backend.bind
        self.phases = [
            [bind(program.prepare, Rows(0, self.batch))],
            [bind(rows, share) for share in shares(self.batch, threads)],
        ]

    def run(self) -> npt.NDArray[np.float64]:
        """(N, 3): bound, reconstruction and kl of each row in nats."""
        backend = self.model.backend
        out = np.empty((self.count, 3))
        sources = [self.ws.one(name).array for name in ("bound", "reconstruction", "kl")]
        for lo in range(0, self.count, self.batch):
            n = min(self.batch, self.count - lo)
            wanted = np.minimum(np.arange(lo, lo + self.batch), self.count - 1)  # the last chunk repeats its last row
            self.clock.index.array[...] = backend.upload(wanted)
            self.clock.row.array[...] = lo
            backend.run(self.phases, 1)
            for j, source in enumerate(sources):
                out[lo : lo + n, j] = backend.download(source)[:n]
        return out


def summary(rows: npt.NDArray[np.float64]) -> dict[str, float]:
    """Means over data points, and the standard error of the mean bound."""
    with np.errstate(invalid="ignore"):  # inf - inf
        bound, reconstruction, kl = (float(v) for v in rows.mean(axis=0))
    return {"bound": bound, "reconstruction": reconstruction, "kl": kl, "bound_se": standard_error(rows[:, 0])}
