"""Whole training steps as launches of texts, on host arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np

from aevb_engine.cuda.own import own
from aevb_engine.cuda.stages import Member, members
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.session import Session, prepare
from aevb_engine.operation import Operation, Rows
from aevb_engine.training import trainer

SMALL: dict[str, Any] = {"hidden": (8,), "latent_dim": 2, "batch_size": 6, "steps": 20, "seed": 3}


def session(case: dict[str, Any]) -> Session:
    """A run of a case on host arrays, with every column of the data: a GPU leaves none out."""
    with mock.patch.object(trainer, "pruned", return_value=None):
        return prepare(RunConfig(backend="cpu", threads=1, **case))


def operations(s: Session) -> list[Operation]:
    """The operations of one step, in order."""
    step = s.trainer.inner
    (parameters,) = step.parameters
    return [*step.first, *step.visit, *parameters, *step.leave]


def members_of(s: Session) -> list[Member]:
    """The launches of one step, in order."""
    return members(own(operations(s)), Rows(0, s.trainer.inner.ws.batch))


class Memory:
    """All that a step writes, ready for its first step: can be put back and compared."""

    def __init__(self, s: Session, step: Sequence[Member]) -> None:
        inner = s.trainer.inner
        clock = inner.clock
        rng = np.random.default_rng(s.config.seed)
        clock.orders.array[...] = rng.integers(0, len(s.dataset.train), clock.orders.array.shape)
        for i, row in enumerate(clock.rates.array):
            row[...] = inner.coefficients(i + 1, 0.01)
        clock.cursor.array[...] = clock.step.array[...] = 0
        self._arrays = [a for m in step for a, written in m.arrays() if written]
        self._kept = [a.copy() for a in self._arrays]

    def restore(self) -> None:
        for array, kept in zip(self._arrays, self._kept, strict=True):
            array[...] = kept

    def bytes(self) -> bytes:
        return b"".join(a.tobytes() for a in self._arrays)
