"""Whole training steps as launches of texts, without a GPU: the products by texts that are as plain as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aevb_engine.cuda.launch import Source, tile
from aevb_engine.cuda.lower import Product, Text, lower
from aevb_engine.cuda.stages import Member, members
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.session import Session, prepare
from aevb_engine.operation import Operation, Rows

SMALL: dict[str, Any] = {"hidden": (8,), "latent_dim": 2, "batch_size": 6, "steps": 20, "seed": 3}

TEXT = """\
extern "C" __global__ void __launch_bounds__(256) aevb_{name}(
    const T* x_, int x_{a}, int x_{b}, const T* w_, int w_{c}, int w_{d}, T* y_, int y_m, int y_n, int size_m,
    int size_n, int size_k)
{{
    for (int m = blockIdx.y * blockDim.y + threadIdx.y; m < size_m; m += gridDim.y * blockDim.y)
        for (int n = blockIdx.x * blockDim.x + threadIdx.x; n < size_n; n += gridDim.x * blockDim.x) {{
            T sum = 0;
            for (int k = 0; k < size_k; k++)
                sum += x_[{a} * x_{a} + {b} * x_{b}] * w_[{c} * w_{c} + {d} * w_{d}];
            y_[m * y_m + n * y_n] = sum;
        }}
}}
"""


def _product(name: str, x: str, w: str) -> Source:
    """A thread an element of y (m, n) = sum over k."""
    text = TEXT.format(name=name, a=x[0], b=x[1], c=w[0], d=w[1])
    return Source(f"aevb_{name}", text, tile("m", "n"))


AFFINE = _product("plain_product", "mk", "kn")
BACKWARD = {
    "affine_backward_data": _product("plain_backward_data", "mk", "nk"),
    "affine_backward_weight": _product("plain_backward_weight", "km", "kn"),
}


def texts(operations: Sequence[Operation]) -> list[Text | Operation]:
    """As ``lower``, with the products by texts."""
    out: list[Text | Operation] = []
    for item in lower(operations):
        if isinstance(item, Product):
            out.append(Text(AFFINE, (item.x, item.weight, item.y)))
        elif isinstance(item, Operation) and item.name in BACKWARD:
            out.append(Text(BACKWARD[item.name], item.arguments))
        else:
            out.append(item)
    return out


def session(case: dict[str, Any]) -> Session:
    """A run of a case on host arrays."""
    return prepare(RunConfig(backend="cpu", threads=1, **case))


def operations(s: Session) -> list[Operation]:
    """The operations of one step, in order."""
    step = s.trainer.inner
    (parameters,) = step.parameters
    return [*step.first, *step.visit, *parameters, *step.leave]


def members_of(s: Session) -> list[Member]:
    from aevb_engine.cuda.own import own

    return members(own(operations(s)), Rows(0, s.trainer.inner.ws.batch))


class Memory:
    """All that a step touches, ready for its first step: can be put back and compared."""

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
