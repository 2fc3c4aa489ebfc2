"""All parameters of a model in one flat vector, with named views."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from aevb_engine.backend.base import Backend
from aevb_engine.kernels.noise import Noise
from aevb_engine.operation import Buffer

Initial = Literal["normal", "glorot"]
INITIAL_SD = 0.01  # KW section 5, LX section 5


@dataclass(frozen=True)
class Parameter:
    """A named view: elements ``lo`` to ``hi`` of the flat vector, as ``shape``."""

    name: str
    shape: tuple[int, ...]
    lo: int
    hi: int
    theta: Buffer
    grad: Buffer


class Parameters:
    """``theta`` and ``grad`` (P,), and a :class:`Parameter` for each name; the gradient is of minus the mean bound."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], backend: Backend, dtype: Any) -> None:
        self.backend = backend
        self.dtype = np.dtype(dtype)
        self.size = sum(math.prod(s) for s in shapes.values())
        self.theta = backend.empty((self.size,), dtype)
        self.grad = backend.empty((self.size,), dtype)
        self.named: dict[str, Parameter] = {}
        lo = 0
        for name, shape in shapes.items():
            hi = lo + math.prod(shape)
            views = (
                Buffer(kind + name, flat[lo:hi].reshape(shape)) for kind, flat in (("", self.theta), ("d", self.grad))
            )
            self.named[name] = Parameter(name, shape, lo, hi, *views)
            lo = hi

    def __getitem__(self, name: str) -> Parameter:
        return self.named[name]

    @property
    def first_weight(self) -> Parameter:
        """The weight that meets the data, a row for each column; the flat vector begins with it."""
        return next(iter(self.named.values()))

    def initialize(self, seed: int, how: Initial = "normal") -> None:
        """Draw every parameter from N(0, 0.01^2); or ``glorot``: uniform weights by fan, all else zero."""
        noise = Noise(np, seed, "init")
        for index, parameter in enumerate(self.named.values()):
            rows, columns = (1, *parameter.shape)[-2:]
            draw = np.zeros((1, rows, columns), np.float32)
            if how == "normal":
                noise.normal(index, 0, draw)
                draw *= np.float32(INITIAL_SD)
            elif len(parameter.shape) == 2:
                noise.uniform(index, 0, draw)
                draw -= np.float32(0.5)
                draw *= np.float32(2 * math.sqrt(6 / (rows + columns)))
            parameter.theta.array[...] = self.backend.upload(draw.reshape(parameter.shape).astype(self.dtype))
