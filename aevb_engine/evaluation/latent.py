"""How much each latent dimension is used: its KL from the prior, and active units (Burda et al. 2015, section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aevb_engine.evaluation.blocks import bind, block, chunk
from aevb_engine.model.model import Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.training.step import Clock, ResidentRows, read_batch

ACTIVE = 0.01  # Burda et al. 2015: a unit is active where its variance is above this
BATCH = 500

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LatentUse:
    """By latent dimension (Z,): mean KL(q(z_j | x) || N(0, 1)) in nats, and Var over x of E[z_j | x]."""

    kl: Array
    variance: Array
    rows: int

    @property
    def active(self) -> int:
        """Number of dimensions with Var_x(E[z_j | x]) > 0.01."""
        return int((self.variance > ACTIVE).sum())


class RunningMoments:
    """Mean and sum of squared deviations of columns, chunk by chunk in float64 (Chan, Golub & LeVeque 1983)."""

    def __init__(self, columns: int) -> None:
        self.count = 0
        self.mean = np.zeros(columns)
        self.squares = np.zeros(columns)

    def add(self, rows: npt.NDArray[np.floating]) -> None:
        """Take in rows (n, columns)."""
        chunk = np.asarray(rows, np.float64)
        n = len(chunk)
        mean = chunk.mean(axis=0)
        total, shift = self.count + n, mean - self.mean
        self.squares += ((chunk - mean) ** 2).sum(axis=0) + shift**2 * (self.count * n / total)
        self.mean += shift * (n / total)
        self.count = total

    def variance(self, ddof: int = 0) -> Array:
        """Sum of squared deviations over count - ddof; NaN where nothing is left to divide by."""
        left = self.count - ddof
        return self.squares / left if left > 0 else np.full_like(self.squares, np.nan)


def latent_use(model: Model, data: ResidentRows, *, seed: int = 0, threads: int = 1, batch: int = BATCH) -> LatentUse:
    """KL_j = mean over x of (mu_j^2 + sigma_j^2 - 1 - log sigma_j^2) / 2 and Var_x(mu_j) of resident rows (N, D).

    The variance is over the rows given (divided by N). Memory is that of one batch.
    """
    count = int(data.data.array.shape[0])
    size = min(block(1), batch, count)
    batch = chunk(count, size, batch, size * threads)
    ws = Workspace(model.backend, batch, 1, model.dtype)
    clock = Clock(ws, 1, 0)
    x = ws.one("x", model.architecture.dim)
    operations = [*read_batch(ws, clock, x, data, seed), *model.encoder.forward(ws, model.parameters, x)]
    mu, logvar = model.encoder.halves(ws, "latent")
    phases = [bind(model.backend, operations, batch, size, threads, [mu, logvar])]
    means, divergences = (RunningMoments(model.architecture.latent) for _ in range(2))
    for lo in range(0, count, batch):
        n = min(batch, count - lo)
        clock.index.array[...] = model.backend.upload(np.minimum(np.arange(lo, lo + batch), count - 1))
        clock.row.array[...] = lo
        model.backend.run(phases, 1)
        m, v = (model.backend.download(b.array)[:n].astype(np.float64) for b in (mu, logvar))
        means.add(m)
        divergences.add(0.5 * (m**2 + np.maximum(np.expm1(v) - v, 0)))
    return LatentUse(divergences.mean, means.variance(), count)
