"""Hamiltonian Monte Carlo chains on rows of a data set, a chunk of one shape at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.evaluation.blocks import bind, block, chunk, whole
from aevb_engine.model.model import Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.operation import Rows
from aevb_engine.rewrite import read_by
from aevb_engine.sampling.hmc import Hmc
from aevb_engine.training.step import Clock, ResidentRows, read_batch

Array = npt.NDArray[Any]
ROWS_AT_ONCE = 2000  # decoded rows of one pass, as in importance sampling


def rows_at_once(count: int, rows: int, size: int, threads: int) -> int:
    """Data points of a chunk where each takes as much memory as ``rows`` decoded rows, in blocks of ``size``.

    At least a block a thread.
    """
    return chunk(count, size, ROWS_AT_ONCE // rows, size * threads)


class Chains:
    """``chains`` chains on each of ``batch`` data points, moved together on the model's backend.

    ``put`` chooses the data rows, ``from_prior`` or ``from_points`` sets the state, ``move`` makes one transition.
    Noise depends on (seed, stream, number of the move, data row, chain) alone, and products are of one shape
    (``blocks``): on one machine a chain is the same to the last bit for every number of threads, chunk and number of
    rows. Another machine, BLAS, precision, numba or none, or a GPU round otherwise: there a chain is another after some
    moves, as after a change of the seed. On a GPU a block is a chunk, so that the number of rows matters as well.
    ``batch`` is rounded up to whole blocks.
    """

    def __init__(
        self,
        model: Model,
        data: ResidentRows,
        batch: int,
        chains: int,
        *,
        leapfrog_steps: int,
        seed: int,
        stream: str,
        threads: int = 1,
        size: int = 0,
    ) -> None:
        """``size``: data points of a block, for this number of chains where it is not given."""
        size = size or block(chains)
        self.model, self.chains = model, chains
        self.batch = batch = whole(batch, size)
        self.count = int(data.data.array.shape[0])
        self.ws = ws = Workspace(model.backend, batch, chains, model.dtype)
        self.clock = clock = Clock(ws, 1, 0)
        x = ws.one("x", model.architecture.dim)
        self.hmc = hmc = Hmc(
            model, ws, x, leapfrog_steps=leapfrog_steps, seed=seed, step=clock.step, row=clock.row, stream=stream
        )
        backend = model.backend
        everything = Rows(0, batch)
        start, move = hmc.start(), hmc.transition()
        host = [hmc.z, hmc.logp, hmc.probability]
        self._read = [[backend.bind([*hmc.prepare(), *read_batch(ws, clock, x, data, seed)], everything)]]
        self._prior = [[backend.bind(hmc.from_prior(), everything)]]
        self._start = [bind(backend, start, batch, size, threads, [*host, *read_by([move])])]
        self._move = [bind(backend, move, batch, size, threads, [*host, *read_by([start])])]
        self._step = 0

    def put(self, lo: int) -> None:
        """Data rows ``lo`` .. of the chunk; the last chunk repeats its last row. Moves are counted anew."""
        wanted = np.minimum(np.arange(lo, lo + self.batch), self.count - 1)
        self.clock.index.array[...] = self.model.backend.upload(wanted)
        self.clock.row.array[...] = lo
        self._step = 0
        self._run(self._read)

    def from_prior(self) -> None:
        """z ~ N(0, I)."""
        self._run(self._prior)
        self._run(self._start)

    def from_points(self, z: Array) -> None:
        """Every chain of a data point at its z (n, Z); those behind the last repeat it."""
        self.hmc.z.array[...] = self.model.backend.upload(self._rows(z).astype(self.model.dtype))
        self._run(self._start)

    def _rows(self, values: Array) -> Array:
        """From (n, ...) of the data points to the rows of all chains."""
        rows: Array = np.repeat(values[np.minimum(np.arange(self.batch), len(values) - 1)], self.chains, axis=0)
        return rows

    def move(self, beta: float, step_size: Array) -> None:
        """One transition at inverse temperature ``beta`` with the step sizes (n,) of the data points."""
        self.hmc.beta.array[...] = beta
        sizes = self._rows(step_size).astype(self.model.dtype)
        self.hmc.step_size.array[...] = self.model.backend.upload(sizes)
        self._run(self._move)
        self._step += 1

    def logp(self) -> npt.NDArray[np.float64]:
        """log p(x | z) (B, L) of the present state."""
        return self._table(self.hmc.logp)

    def acceptance(self) -> npt.NDArray[np.float64]:
        """Mean acceptance probability (B,) of the last move over the chains."""
        mean: npt.NDArray[np.float64] = self._table(self.hmc.probability).mean(axis=1)
        return mean

    def z(self) -> npt.NDArray[np.float64]:
        """(B, L, Z)"""
        return self._table(self.hmc.z)

    def _table(self, buffer: Any) -> npt.NDArray[np.float64]:
        flat = self.model.backend.download(buffer.array).astype(np.float64)
        return flat.reshape(self.batch, self.chains, *flat.shape[1:])

    def _run(self, phases: Any) -> None:
        self.clock.step.array[...] = self._step
        self.model.backend.run(phases, 1)
