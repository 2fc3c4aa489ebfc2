"""The autoencoder without noise (LX 11-17): z is the encoder's mean, and nothing is asked of q(z | x)."""

from __future__ import annotations

from typing import ClassVar, Literal

from aevb_engine.errors import UsageError
from aevb_engine.kernels.bound import mean_of_samples
from aevb_engine.kernels.rows import fill, scale
from aevb_engine.kernels.squares import squared_error_backward
from aevb_engine.model.likelihood import Likelihood
from aevb_engine.objectives.base import Objective
from aevb_engine.objectives.program import Pass, Program
from aevb_engine.operation import Operation, operation


class Autoencoder(Objective):
    """Minus the loss of x under decoder(encoder(x)): z = mu, no noise, no KL term (LX 11-17).

    ``loss``: "nll", the decoder's -log p(x | z = mu), for any decoder (cross-entropy of a Bernoulli one); or "squared",
    sum_d (x_d - mean_d)^2 with the mean of p(x | z = mu), for decoders that offer ``mean_backward``. Recorded is
    reconstruction = log p(x | z = mu) in nats for both. q(z | x) is a point, so there is no KL and no bound; the half
    of the encoder's head that gives logvar gets a gradient of zero.
    """

    summary: ClassVar[str] = "z = mu, no noise, no KL term: not a bound"
    encodes_data_only: ClassVar[bool] = True
    is_bound = False
    columns: ClassVar[tuple[str, ...]] = ("reconstruction",)
    held_out_by_itself: ClassVar[bool] = True

    def __init__(self, *, loss: Literal["nll", "squared"] = "nll") -> None:
        self.loss = loss

    def build(self, p: Pass) -> Program:
        model, ws, theta = p.model, p.ws, p.model.parameters
        if ws.samples != 1:
            raise UsageError(f"--samples {ws.samples}: the autoencoder's z is one point a data point; use 1")
        p.undefined("bound", "kl")
        squared = self.loss == "squared" and p.gradient
        program = Program(prepare=model.decoder.prepare(ws, theta))
        program.rows = [
            *model.encoder.forward(ws, theta, p.encoder_input),
            operation(scale, p.mu, 1.0, p.z),
            *model.decoder.forward(ws, theta, p.z),
            *(_squared_error(p) if squared else ()),
            model.decoder.log_prob(ws, theta, p.x, p.gradient and not squared),
            operation(mean_of_samples, p.cube(p.logp), ws.one("reconstruction")),
        ]
        if p.gradient:
            p.weight.array[...] = -1 / ws.batch
            program.rows += _backward(p)
            program.pieces = p.gradients()
        return program

    def remarks(self, batch: int, count: int) -> list[str]:
        return [
            "the objective autoencoder is not a bound: reconstruction is log p(x | z = mu), and there is no KL term"
        ]


def _squared_error(p: Pass) -> list[Operation]:
    """The gradient of -sum_d (x_d - mean_d)^2 by the decoder's heads."""
    model, ws, theta = p.model, p.ws, p.model.parameters
    likelihood = model.likelihood
    if type(likelihood).mean_backward is Likelihood.mean_backward:
        raise UsageError(
            f"objective.loss=squared: the decoder {type(likelihood).__name__} offers no mean_backward; use loss=nll"
        )
    mean, dmean = (ws.many(name, model.architecture.dim) for name in ("x mean", "dx mean"))
    return [
        model.decoder.mean(ws, theta),
        operation(squared_error_backward, p.x, mean, dmean),
        model.decoder.mean_backward(ws, theta, dmean),
    ]


def _backward(p: Pass) -> list[Operation]:
    """From the row weights to every layer's gradient, straight through z = mu."""
    model, ws, theta = p.model, p.ws, p.model.parameters
    dz = ws.many("dz", p.latent)
    dmu, dlogvar = model.encoder.halves(ws, "dlatent")
    return [
        *model.decoder.backward_data(ws, theta, p.weight, dz),
        *model.decoder.weigh_rows(ws, p.weight, p.z),
        operation(scale, dz, 1.0, dmu),
        operation(fill, 0.0, dlogvar),
        *model.encoder.backward_data(ws, theta),
    ]
