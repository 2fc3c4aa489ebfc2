"""Encode, decode, reconstruct and sample with a trained model, any number of rows in bounded memory.

Draws are functions of the seed and their number: draws 10, 11, ... are the same whether 0 to 9 come with them or not,
to the bit, since a number has its place in a chunk of fixed size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.kernels.noise import Noise
from aevb_engine.model.model import Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.operation import Operation, Rows

Array = npt.NDArray[Any]
CHUNK = 500
DRAWN = 100  # draws at a time; fewer take as long


class Draw:
    """Noise for ``Likelihood.sample``: substream i of a stream for each kind of number, shaped (rows, 1, D)."""

    def __init__(
        self, xp: Any, seed: int, row: int, shape: tuple[int, int], dtype: Any, stream: str = "sample"
    ) -> None:
        self.xp, self.seed, self.stream = xp, seed, stream
        self.row, self.shape, self.dtype = row, shape, dtype

    def uniform(self, i: int) -> Any:
        """Uniform on [0, 1)."""
        return self._fill(i, "uniform")

    def normal(self, i: int) -> Any:
        """Standard normal."""
        return self._fill(i, "normal")

    def scratch(self, i: int) -> Any:
        """An array to overwrite."""
        return self.xp.empty((self.shape[0], 1, self.shape[1]), self.dtype)

    def _fill(self, i: int, kind: str) -> Any:
        out = np.empty((1, *self.shape), np.float32)
        getattr(Noise(np, self.seed, f"{self.stream} {kind}"), kind)(i, self.row, out)
        return self.xp.asarray(out[0][:, None, :].astype(self.dtype))


def encode(model: Model, x: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of q(z | x), (N, Z) each, for x (N, D)."""
    means, deviations = [], []
    for lo in range(0, len(x), CHUNK):
        part = x[lo : lo + CHUNK]
        ws = Workspace(model.backend, len(part), 1, model.dtype)
        buffer = ws.one("x", model.architecture.dim)
        buffer.array[...] = model.backend.upload(_read(model, part))
        _run(model, ws, model.encoder.forward(ws, model.parameters, buffer))
        means.append(model.backend.download(model.encoder.halves(ws, "latent")[0].array))
        deviations.append(model.backend.download(ws.one("sigma", model.architecture.latent).array))
    return np.concatenate(means), np.concatenate(deviations)


def decode(model: Model, z: Array) -> Array:
    """Mean of p(x | z), (N, D), for z (N, Z)."""
    return _outward(model, _moment(model, z, "mean"))


def deviation(model: Model, z: Array) -> Array:
    """Standard deviation of the columns of p(x | z), (N, D), for z (N, Z); NotImplementedError of the likelihood."""
    found, units = _moment(model, z, "deviation"), model.likelihood.units
    return found if units is None else found * units.spread


def sample(model: Model, n: int, seed: int = 0, first: int = 0) -> Array:
    """n draws x ~ p(x | z), z ~ N(0, I), (n, D); those of the numbers ``first``, ``first`` + 1, ..."""
    return draw(model, prior(model, n, seed, first), seed, first, "sample")


def prior(model: Model, n: int, seed: int = 0, first: int = 0) -> Array:
    """n draws z ~ N(0, I), (n, Z)."""
    z = np.empty((1, n, model.architecture.latent), np.float32)
    Noise(np, seed, "prior").normal(0, first, z)
    draws: Array = z[0]
    return draws


def draw(model: Model, z: Array, seed: int = 0, first: int = 0, stream: str = "draw") -> Array:
    """x ~ p(x | z), (N, D), for z (N, Z), with the noise of the numbers ``first``, ``first`` + 1, ..."""
    decoder, dim = model.decoder, model.architecture.dim
    end = first + len(z)
    out = []
    for lo in range(first - first % DRAWN, end, DRAWN):
        here = slice(max(first - lo, 0), min(end - lo, DRAWN))
        part = np.zeros((DRAWN, z.shape[1]), z.dtype)
        part[here] = z[max(lo - first, 0) : lo - first + DRAWN]
        ws, operations = _forward(model, part)
        numbers = Draw(model.backend.xp, seed, lo, (DRAWN, dim), model.dtype, stream)
        _run(model, ws, [*operations, decoder.sample(ws, model.parameters, numbers)])
        out.append(model.backend.download(ws.many("draw", dim).array)[here])
    return _outward(model, np.concatenate(out))


def reconstruct(model: Model, x: Array) -> Array:
    """Mean of p(x | z) at z = mean of q(z | x), (N, D)."""
    return decode(model, encode(model, x)[0])


def _moment(model: Model, z: Array, name: str) -> Array:
    out = []
    for lo in range(0, len(z), CHUNK):
        ws, operations = _forward(model, z[lo : lo + CHUNK])
        _run(model, ws, [*operations, getattr(model.decoder, name)(ws, model.parameters)])
        out.append(model.backend.download(ws.many(f"x {name}", model.architecture.dim).array))
    return np.concatenate(out)


def _outward(model: Model, x: Array) -> Array:
    """Rows (N, D) that the model reads or gives, in the data's own units."""
    units = model.likelihood.units
    return x if units is None else units.outward(x)


def _read(model: Model, x: Array) -> Array:
    """Rows (N, D) in the data's own units as the model reads them."""
    units = model.likelihood.units
    return x.astype(model.dtype) if units is None else units.inward(x, model.dtype)


def _forward(model: Model, z: Array) -> tuple[Workspace, list[Operation]]:
    """What leads from z (N, Z) to the likelihood's heads."""
    ws = Workspace(model.backend, len(z), 1, model.dtype)
    latent = ws.many("z", model.architecture.latent)
    latent.array[...] = model.backend.upload(z.astype(model.dtype))
    decoder, parameters = model.decoder, model.parameters
    return ws, decoder.prepare(ws, parameters) + decoder.forward(ws, parameters, latent)


def _run(model: Model, ws: Workspace, operations: list[Operation]) -> None:
    model.backend.run([[model.backend.bind(operations, Rows(0, ws.batch))]], 1)
