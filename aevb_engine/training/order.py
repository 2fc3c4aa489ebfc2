"""Minibatch order: batches run on through a stream of permutations, each a function of (seed, epoch) alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.kernels.noise import Noise


def permutation(seed: int, epoch: int, n: int, stream: str = "order") -> npt.NDArray[np.int64]:
    """A permutation of 0 .. n - 1: the ranks of n 64-bit words of the noise."""
    words = np.empty((1, 1, 4 * -(-n // 2)), np.uint32)
    Noise(np, seed, stream).words(epoch, 0, words)
    return np.argsort(words.reshape(-1).view(np.uint64)[:n], kind="stable")


class Order:
    """Rows of any range of steps: step s takes positions (s // updates) * batch .. of the endless stream of
    permutations; a batch stays for ``updates`` steps."""

    def __init__(self, seed: int, n: int, batch: int, updates: int = 1) -> None:
        self.seed, self.n, self.batch, self.updates = seed, n, batch, updates
        self._epochs: dict[int, npt.NDArray[np.int64]] = {}

    def rows(self, step: int, count: int) -> npt.NDArray[np.int64]:
        """(count, batch) row numbers of steps ``step`` .. ``step + count - 1`` (counted from 0)."""
        if self.updates > 1:
            visits = np.arange(step, step + count) // self.updates
            first, last = int(visits[0]), int(visits[-1])
            return self._batches(first, last - first + 1)[visits - first]
        return self._batches(step, count)

    def _batches(self, step: int, count: int) -> npt.NDArray[np.int64]:
        position = np.arange(step * self.batch, (step + count) * self.batch)
        epoch, offset = np.divmod(position, self.n)
        out = np.empty(position.size, np.int64)
        wanted = range(int(epoch[0]), int(epoch[-1]) + 1)
        self._epochs = {e: self._epochs[e] if e in self._epochs else permutation(self.seed, e, self.n) for e in wanted}
        for e in wanted:
            at = epoch == e
            out[at] = self._epochs[e][offset[at]]
        return out.reshape(count, self.batch)


def split(n: int, fraction: float, seed: int, contiguous: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Training and validation rows: a random part, or the last block where neighbouring rows are alike."""
    held = max(1, round(fraction * n))
    if contiguous:
        rows = np.arange(n)
        return rows[: n - held], rows[n - held :]
    rows = permutation(seed, 0, n, "validation")
    return np.sort(rows[held:]), np.sort(rows[:held])
