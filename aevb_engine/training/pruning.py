"""Columns that are zero in the whole training set, left out of the encoder's first product.

Where x_j = 0 in every data point, row j of the first weight W adds nothing to x W (LX 21), and row j of dW = x^T dy is
zero: a step on the other columns alone gives the same bound and the same update, as long as the optimizer leaves a
parameter alone whose gradient and state are zero. A border of MNIST is such: 676 of 784 pixels are ever inked. The
data, the decoder and every evaluation keep all columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.model.model import Model
from aevb_engine.objectives.base import Objective
from aevb_engine.operation import Buffer, Operation, Rows, custom
from aevb_engine.training.optimizer import Optimizer

# Multiply-adds saved for each number copied out of the batch, from which on a step gains where products are quick, too.
PAYS = 60


def live_columns(data: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The columns of (N, D) that are not zero in every row, in order."""
    rows = np.ascontiguousarray(data)
    if rows.dtype == np.uint8 and rows.shape[1] % 8 == 0:
        union = np.bitwise_or.reduce(rows.view(np.uint64), axis=0).view(np.uint8)
    elif rows.dtype == np.uint8:
        union = np.bitwise_or.reduce(rows, axis=0)
    else:
        union = (rows != 0).any(axis=0)
    return np.flatnonzero(union)


def pruned(
    model: Model, optimizer: Optimizer, objective: Objective, data: npt.NDArray[Any], decay: float
) -> Pruned | None:
    """The model on the live columns, where that is exact and saves time; None otherwise.

    Not exact: weight decay, which moves weights without a gradient; objectives that encode anything but the data.
    """
    if decay or model.backend.xp is not np or not (optimizer.still_at_zero and objective.encodes_data_only):
        return None
    dim, width = model.parameters.first_weight.shape
    if 2 * width < PAYS:  # not even half of the columns would do
        return None
    columns = live_columns(data)
    live = len(columns)
    return Pruned(model, columns) if live and 2 * width * (dim - live) >= PAYS * live else None


def select_columns(x: Buffer, columns: npt.NDArray[np.int64], live: Buffer) -> Operation:
    """live = x[:, columns], copied by runs of neighbouring columns."""
    ends = np.flatnonzero(np.diff(columns) != 1) + 1
    runs = np.array([(part[0], part[-1] + 1) for part in np.split(columns, ends)])

    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        source, target = x.view(rows), live.view(rows)
        places = np.concatenate([[0], np.cumsum(runs[:, 1] - runs[:, 0])])
        pairs = [
            (target[:, at:to], source[:, lo:hi]) for at, to, (lo, hi) in zip(places, places[1:], runs, strict=False)
        ]

        def run() -> None:
            for into, part in pairs:
                into[...] = part

        return run

    return custom("select_columns", bind, (x,), (live,), runs=runs)


class Pruned:
    """``model``: the same with an encoder that reads ``columns`` alone; flat vectors to and from the whole one."""

    def __init__(self, whole: Model, columns: npt.NDArray[np.int64]) -> None:
        self.columns = columns
        self.model = Model(whole.architecture, whole.likelihood, whole.backend, len(columns))
        self._shape = whole.parameters.first_weight.shape
        self._dead = np.delete(np.arange(self._shape[0]), columns)

    def take(self, whole: npt.NDArray[Any], part: npt.NDArray[Any]) -> None:
        """What belongs to live columns, from a whole flat vector into one of the pruned model."""
        rows, rest = self._split(whole, self._shape[0])
        mine, mine_rest = self._split(part, len(self.columns))
        mine[...] = rows[self.columns]
        mine_rest[...] = rest

    def put(self, part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> None:
        """The way back; entries of columns that are always zero keep what they hold."""
        rows, rest = self._split(whole, self._shape[0])
        mine, mine_rest = self._split(part, len(self.columns))
        rows[self.columns] = mine
        rest[...] = mine_rest

    def left_out(self, whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The entries of a whole flat vector that the pruned model does not have."""
        rest: npt.NDArray[Any] = self._split(whole, self._shape[0])[0][self._dead]
        return rest

    def _split(self, flat: npt.NDArray[Any], rows: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The first weight as a matrix, and all that follows it."""
        end = rows * self._shape[1]
        return flat[:end].reshape(rows, -1), flat[end:]
