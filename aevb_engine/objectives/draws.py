"""Samples x ~ p(x | z) inside a training step: noise and scratch that exist before the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aevb_engine.errors import BackendError
from aevb_engine.model.likelihood import Head, Likelihood
from aevb_engine.objectives.program import NoiseKind, Pass
from aevb_engine.operation import Buffer, Operation, Rows


class StepDraw:
    """The draws that a likelihood's ``sample`` asks for, found by asking it once, as buffers of the pass.

    ``noise`` fills them at every step, each from a stream of its own: "STREAM uniform 0", "STREAM normal 0", ...
    """

    def __init__(self, p: Pass, stream: str) -> None:
        self.likelihood = p.model.likelihood
        dim = p.model.architecture.dim
        asked = _Asked(dim)
        _try(self.likelihood, asked)
        self.numbers: dict[tuple[str, int], Buffer] = {}
        self.noise: list[Operation] = []
        for kind, i in asked.numbers:
            flat = p.ws.many(f"{kind} {i}", dim)
            self.noise += p.draw(flat, f"{stream} {kind} {i}", kind)
            self.numbers[kind, i] = p.cube(flat)
        self.scratch = {i: p.cube(p.ws.many(f"scratch draw {i}", dim)) for i in asked.scratches}

    @property
    def reads(self) -> tuple[Buffer, ...]:
        return tuple(self.numbers.values())

    @property
    def writes(self) -> tuple[Buffer, ...]:
        return tuple(self.scratch.values())

    def view(self, rows: Rows) -> _Bound:
        """The share of a thread: what ``sample`` receives."""
        arrays: dict[tuple[str, int], Any] = {key: buffer.view(rows) for key, buffer in self.numbers.items()}
        arrays |= {("scratch", i): buffer.view(rows) for i, buffer in self.scratch.items()}
        return _Bound(self.likelihood, arrays)


class _Bound:
    def __init__(self, likelihood: Likelihood, arrays: dict[tuple[str, int], Any]) -> None:
        self._likelihood = likelihood
        self._arrays = arrays

    def uniform(self, i: int) -> Any:
        return self._get("uniform", i)

    def normal(self, i: int) -> Any:
        return self._get("normal", i)

    def scratch(self, i: int) -> Any:
        return self._get("scratch", i)

    def _get(self, kind: str, i: int) -> Any:
        found = self._arrays.get((kind, i))
        if found is None:
            raise BackendError(
                f"the decoder {type(self._likelihood).__name__} asks for {kind}({i}) in some samples only; "
                "a training step needs a sample() that always draws the same numbers"
            )
        return found


class _Asked:
    """Notes what one call of ``sample`` asks for."""

    def __init__(self, dim: int) -> None:
        self._shape = (1, 1, dim)
        self.numbers: list[tuple[NoiseKind, int]] = []
        self.scratches: list[int] = []

    def uniform(self, i: int) -> Any:
        return self._number("uniform", i)

    def normal(self, i: int) -> Any:
        return self._number("normal", i)

    def scratch(self, i: int) -> Any:
        if i not in self.scratches:
            self.scratches.append(i)
        return np.zeros(self._shape)

    def _number(self, kind: NoiseKind, i: int) -> Any:
        if (kind, i) not in self.numbers:
            self.numbers.append((kind, i))
        return np.full(self._shape, 0.5)


def _try(likelihood: Likelihood, asked: _Asked) -> None:
    shape = (1, 1, asked._shape[2])
    heads = [_zeros(head, shape) for head in likelihood.heads]
    with np.errstate(all="ignore"):
        likelihood.sample(np, *heads, draw=asked, x=np.zeros(shape))


def _zeros(head: Head, shape: Sequence[int]) -> Any:
    if head.source == "scalar":
        return np.zeros((1, 1, 1))
    return np.zeros((*shape, head.group) if head.group > 1 else shape)
