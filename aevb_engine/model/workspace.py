"""The buffers of one batch shape. Everything is allocated here, while a step is being built, and nowhere else."""

from __future__ import annotations

from typing import Any

from aevb_engine.backend.base import Backend
from aevb_engine.operation import Buffer


class Workspace:
    """Owns every buffer of a batch of ``batch`` data points with ``samples`` latent samples each.

    ``one(name, *shape)`` has a row a data point, ``many`` a row a sample (row = b * L + l), ``table`` no rows.
    A name asked for again is the same buffer: forward and backward meet by name.
    """

    def __init__(self, backend: Backend, batch: int, samples: int, dtype: Any) -> None:
        self.backend = backend
        self.batch = batch
        self.samples = samples
        self.dtype = dtype
        self.buffers: dict[str, Buffer] = {}
        self._prefix = ""

    def one(self, name: str, *shape: int, dtype: Any = None) -> Buffer:
        """(B, *shape)"""
        return self._get(name, (self.batch, *shape), 1, dtype)

    def many(self, name: str, *shape: int, dtype: Any = None) -> Buffer:
        """(B * L, *shape)"""
        return self._get(name, (self.batch * self.samples, *shape), self.samples, dtype)

    def table(self, name: str, *shape: int, dtype: Any = None) -> Buffer:
        """(*shape)"""
        return self._get(name, shape, 0, dtype)

    def by_sample(self, buffer: Buffer) -> Buffer:
        """A sample buffer (B * L, ...) seen as (B, L, ...); a batch buffer (B, ...) as (B, 1, ...)."""
        per_point = buffer.per_point
        return buffer.reshaped(1, self.batch, per_point, *buffer.array.shape[1:])

    def section(self, name: str, samples: int = 1) -> Workspace:
        """Buffers of the same batch under names of their own, "``name`` ...", for a second pass through the model."""
        part = Workspace(self.backend, self.batch, samples, self.dtype)
        part.buffers, part._prefix = self.buffers, f"{self._prefix}{name} "
        return part

    def _get(self, name: str, shape: tuple[int, ...], per_point: int, dtype: Any) -> Buffer:
        name = self._prefix + name
        known = self.buffers.get(name)
        if known is not None:
            if known.array.shape != shape:
                raise ValueError(f"buffer {name} has shape {known.array.shape}, not {shape}")
            return known
        array = self.backend.empty(shape, self.dtype if dtype is None else dtype)
        buffer = self.buffers[name] = Buffer(name, array, per_point)
        return buffer

    @property
    def nbytes(self) -> int:
        return sum(int(b.array.nbytes) for b in self.buffers.values())
