"""The wake-sleep algorithm (Hinton, Dayan, Frey & Neal 1995), which KW section 5 compares with."""

from __future__ import annotations

from typing import ClassVar

from aevb_engine.kernels.gaussian import gaussian_log_density_and_backward
from aevb_engine.kernels.rows import scale
from aevb_engine.model.mlp import GradientPiece
from aevb_engine.objectives.base import Objective
from aevb_engine.objectives.draws import StepDraw
from aevb_engine.objectives.elbo import elbo_rows
from aevb_engine.objectives.program import Pass, Program
from aevb_engine.operation import Operation, operation


class WakeSleep(Objective):
    """Two phases a step, one update of all parameters (Hinton et al. 1995; KW section 5).

    Wake: z ~ q(z | x) of the data; the decoder ascends 1/L sum_l log p(x | z_l), the encoder stays as it is.
    Sleep: z ~ N(0, I), x ~ p(x | z), one dream a data point of the batch; the encoder ascends log q(z | x), the decoder
    stays as it is. The phases have no objective in common: recorded is the bound L^B of the model, which neither
    ascends. Noise: streams "noise" (wake), "sleep" and "sleep x ..." (dreams).
    """

    summary: ClassVar[str] = "wake phase for the decoder, sleep phase for the encoder: not a bound"
    is_bound = False

    def build(self, p: Pass) -> Program:
        program = Program(prepare=p.model.decoder.prepare(p.ws, p.model.parameters), rows=elbo_rows(p))
        if p.gradient:
            rows, pieces = _wake(p)
            dream = Pass(p.model, p.ws.section("sleep"), gradient=False)
            dream.feed = p.feed
            program.prepare += p.model.decoder.prepare(dream.ws, p.model.parameters)
            dream_rows, dream_pieces = _sleep(dream)
            program.rows += rows + dream_rows
            program.pieces = dream_pieces + pieces
        return program

    def remarks(self, batch: int, count: int) -> list[str]:
        return ["the objective wake-sleep is not a bound: the bounds reported are L^B, which neither phase ascends"]


def _wake(p: Pass) -> tuple[list[Operation], list[GradientPiece]]:
    """The gradient of -mean log p(x | z) by the decoder's parameters, z as it was drawn."""
    decoder, ws, theta = p.model.decoder, p.ws, p.model.parameters
    p.weight.array[...] = -1 / (ws.batch * ws.samples)
    rows = [*decoder.backward_data(ws, theta, p.weight, None), *decoder.weigh_rows(ws, p.weight, p.z)]
    return rows, decoder.backward_params(ws, theta, p.weight, p.z)


def _sleep(p: Pass) -> tuple[list[Operation], list[GradientPiece]]:
    """The gradient of -mean log q(z | x) by the encoder's parameters, (z, x) dreamt by the decoder."""
    model, ws, theta = p.model, p.ws, p.model.parameters
    decoder, encoder = model.decoder, model.encoder
    draw = StepDraw(p, "sleep x")
    dmu, dlogvar = encoder.halves(ws, "dlatent")
    dhead = ws.one("dlatent", 2 * p.latent)
    x = ws.many("draw", model.architecture.dim)
    logq, square = ws.one("log posterior"), p.scratch(p.sigma)
    rows = [
        *p.draw(p.z, "sleep"),
        *decoder.forward(ws, theta, p.z),
        *draw.noise,
        decoder.sample(ws, theta, draw),
        *encoder.forward(ws, theta, x),
        operation(gaussian_log_density_and_backward, p.z, p.mu, p.logvar, square, logq, dmu, dlogvar),
        operation(scale, dhead, -1 / ws.batch, dhead),
        *encoder.backward_data(ws, theta),
    ]
    return rows, encoder.backward_params(ws, theta, x)
