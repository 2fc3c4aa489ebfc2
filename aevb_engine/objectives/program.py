"""What an objective builds: the operations of one batch, and the parts every bound shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from aevb_engine.kernels.reparameterize import reparameterize, reparameterize_backward
from aevb_engine.model.mlp import GradientPiece
from aevb_engine.model.model import Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.operation import Buffer, Operation, operation
from aevb_engine.sampling.noise import normal_noise, uniform_noise


@dataclass
class Program:
    """Operations by phase: ``prepare`` once, ``rows`` split over data points, ``pieces`` split over parameters.

    Every objective leaves, a data point, ``bound``, ``reconstruction`` and ``kl`` (B,) in nats, NaN where it has none.
    Where a batch stays for several updates, ``visit`` (split over data points) comes before the rows of the first of
    them, and ``leave`` runs once after these rows. ``state`` is what a resumed run needs, by name.
    """

    prepare: list[Operation] = field(default_factory=list)
    rows: list[Operation] = field(default_factory=list)
    pieces: list[GradientPiece] = field(default_factory=list)
    visit: list[Operation] = field(default_factory=list)
    leave: list[Operation] = field(default_factory=list)
    state: dict[str, Buffer] = field(default_factory=dict)


NoiseKind = Literal["normal", "uniform"]


@dataclass(frozen=True)
class Feed:
    """What training gives an objective beside the batch."""

    count: int  # data points N
    seed: int
    index: Buffer  # (B,) rows of the data that are the batch
    step: Buffer  # (1,) steps before this one; batches before this one where a batch stays for several steps
    row: Buffer  # (1,) number of the batch's first row in the noise
    coefficients: Buffer  # this step's numbers of ``Objective.coefficients``


class Pass:
    """A batch on its way through the model: named buffers of the workspace and shared stretches of operations."""

    def __init__(self, model: Model, ws: Workspace, gradient: bool) -> None:
        self.model = model
        self.ws = ws
        self.gradient = gradient
        self.noise: list[Operation] = []  # fills eps; without it eps stays as it is
        self.feed: Feed | None = None  # training only
        z = model.architecture.latent
        self.latent = z
        self.x = ws.one("x", model.architecture.dim)
        inputs = model.encoder.mlp.inputs  # fewer where columns that are always zero are left out
        self.encoder_input = self.x if inputs == model.architecture.dim else ws.one("x live", inputs)
        self.eps = ws.many("eps", z)
        self.z = ws.many("z", z)
        self.logp = ws.many("logp")
        self.weight = ws.many("weight")
        self.mu, self.logvar = model.encoder.halves(ws, "latent")
        self.sigma = ws.one("sigma", z)

    def cube(self, buffer: Buffer) -> Buffer:
        """A sample buffer as (B, L, ...)."""
        return self.ws.by_sample(buffer)

    def scratch(self, buffer: Buffer) -> Buffer:
        """A narrow scratch array shaped like ``buffer``."""
        shape = buffer.array.shape[1:]
        make = self.ws.many if buffer.array.shape[0] == self.ws.batch * self.ws.samples else self.ws.one
        return make(f"scratch {'x'.join(map(str, shape))} of {buffer.array.shape[0]}", *shape)

    def draw(self, buffer: Buffer, stream: str, kind: NoiseKind = "normal") -> list[Operation]:
        """Fresh noise into ``buffer`` at every step; outside training it stays as it is."""
        if self.feed is None:
            return []
        make = normal_noise if kind == "normal" else uniform_noise
        return [make(self.feed.step, self.feed.row, buffer, self.feed.seed, stream, True)]

    def coefficients(self, otherwise: Sequence[float]) -> Buffer:
        """This step's numbers of the objective; outside training those given."""
        if self.feed is not None:
            return self.feed.coefficients
        table = self.ws.table("coefficients", len(otherwise))
        table.array[...] = self._upload(otherwise)
        return table

    def undefined(self, *names: str) -> None:
        """Columns that the objective does not have: NaN for good."""
        for name in names:
            self.ws.one(name).array[...] = float("nan")

    def _upload(self, numbers: Sequence[float]) -> Any:
        return self.model.backend.upload(np.array(numbers, self.model.dtype))

    def encode_and_decode(self, latent: list[Operation]) -> list[Operation]:
        """x -> q(z | x) -> z -> log p(x | z), with the gradient by the heads where one is wanted.

        ``latent`` is what the bound takes from (mu, logvar, z) alone.
        """
        model, ws, theta = self.model, self.ws, self.model.parameters
        return [
            *model.encoder.forward(ws, theta, self.encoder_input),
            *self.noise,
            operation(reparameterize, self.mu, self.sigma, self.cube(self.eps), self.cube(self.z)),
            *latent,
            *model.decoder.forward(ws, theta, self.z),
            model.decoder.log_prob(ws, theta, self.x, self.gradient),
        ]

    def backward(self, prior: list[Operation], latent: list[Operation]) -> list[Operation]:
        """From the row weights to every layer's gradient; ``prior`` acts on dz, ``latent`` on (dmu, dlogvar)."""
        model, ws, theta = self.model, self.ws, self.model.parameters
        dz = ws.many("dz", self.latent)
        dmu, dlogvar = model.encoder.halves(ws, "dlatent")
        cubes = (self.cube(dz), self.sigma, self.cube(self.eps), self.cube(self.scratch(dz)))
        return [
            *model.decoder.backward_data(ws, theta, self.weight, dz),
            *model.decoder.weigh_rows(ws, self.weight, self.z),
            *prior,
            operation(reparameterize_backward, *cubes, dmu, dlogvar),
            *latent,
            *model.encoder.backward_data(ws, theta),
        ]

    def gradients(self) -> list[GradientPiece]:
        """The gradient of every parameter, from what ``backward`` left."""
        model, ws, theta = self.model, self.ws, self.model.parameters
        return [
            *model.encoder.backward_params(ws, theta, self.encoder_input),
            *model.decoder.backward_params(ws, theta, self.weight, self.z),
        ]
