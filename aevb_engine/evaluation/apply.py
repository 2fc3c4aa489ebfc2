"""Encode, decode, reconstruct and sample with a trained model, any number of rows in bounded memory."""

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


class Draw:
    """Noise for ``Likelihood.sample``: substream i of a stream for each kind of number, shaped (rows, 1, D)."""

    def __init__(self, xp: Any, seed: int, row: int, shape: tuple[int, int], dtype: Any) -> None:
        self.xp, self.seed, self.row, self.shape, self.dtype = xp, seed, row, shape, dtype

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
        getattr(Noise(np, self.seed, f"sample {kind}"), kind)(i, self.row, out)
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
    return _decode(model, z, None)


def sample(model: Model, n: int, seed: int = 0) -> Array:
    """n draws x ~ p(x | z), z ~ N(0, I), (n, D)."""
    return _decode(model, prior(model, n, seed), seed)


def prior(model: Model, n: int, seed: int = 0) -> Array:
    """n draws z ~ N(0, I), (n, Z)."""
    z = np.empty((1, n, model.architecture.latent), np.float32)
    Noise(np, seed, "prior").normal(0, 0, z)
    draws: Array = z[0]
    return draws


def reconstruct(model: Model, x: Array) -> Array:
    """Mean of p(x | z) at z = mean of q(z | x), (N, D)."""
    return decode(model, encode(model, x)[0])


def _decode(model: Model, z: Array, seed: int | None) -> Array:
    decoder, dim = model.decoder, model.architecture.dim
    out = []
    for lo in range(0, len(z), CHUNK):
        part = z[lo : lo + CHUNK]
        ws = Workspace(model.backend, len(part), 1, model.dtype)
        latent = ws.many("z", model.architecture.latent)
        latent.array[...] = model.backend.upload(part.astype(model.dtype))
        operations = decoder.prepare(ws, model.parameters) + decoder.forward(ws, model.parameters, latent)
        if seed is None:
            operations.append(decoder.mean(ws, model.parameters))
            result = ws.many("x mean", dim)
        else:
            draw = Draw(model.backend.xp, seed, lo, (len(part), dim), model.dtype)
            operations.append(decoder.sample(ws, model.parameters, draw))
            result = ws.many("draw", dim)
        _run(model, ws, operations)
        out.append(model.backend.download(result.array))
    units, found = model.likelihood.units, np.concatenate(out)
    return found if units is None else units.outward(found)


def _read(model: Model, x: Array) -> Array:
    """Rows (N, D) in the data's own units as the model reads them."""
    units = model.likelihood.units
    return x.astype(model.dtype) if units is None else units.inward(x, model.dtype)


def _run(model: Model, ws: Workspace, operations: list[Operation]) -> None:
    model.backend.run([[model.backend.bind(operations, Rows(0, ws.batch))]], 1)
