"""L^B, the bound with its KL term in closed form (LX 9, 25; KW 7, 10)."""

from __future__ import annotations

from typing import ClassVar

from aevb_engine.kernels.bound import difference, mean_of_samples
from aevb_engine.kernels.kl import kl, kl_backward
from aevb_engine.objectives.base import Objective
from aevb_engine.objectives.program import Pass, Program
from aevb_engine.operation import Operation, operation


class Elbo(Objective):
    """L^B(x) = 1/L sum_l log p(x | z_l) - KL(q(z | x) || N(0, I)) (LX 9; KW 7)."""

    summary: ClassVar[str] = "L^B, the KL term in closed form"
    encodes_data_only: ClassVar[bool] = True

    def build(self, p: Pass) -> Program:
        program = Program(prepare=p.model.decoder.prepare(p.ws, p.model.parameters), rows=elbo_rows(p))
        if p.gradient:
            p.weight.array[...] = -1 / (p.ws.batch * p.ws.samples)
            program.rows += p.backward([], [self.kl_gradient(p)])
            program.pieces = p.gradients()
        return program

    def kl_gradient(self, p: Pass) -> Operation:
        """The gradient of the mean KL by (mu, logvar), added to dlatent."""
        dmu, dlogvar = p.model.encoder.halves(p.ws, "dlatent")
        return operation(kl_backward, p.mu, p.sigma, 1 / p.ws.batch, p.scratch(p.sigma), dmu, dlogvar)


def elbo_rows(p: Pass) -> list[Operation]:
    """x to the reconstruction, KL and L^B of every data point."""
    divergence, reconstruction, bound = (p.ws.one(name) for name in ("kl", "reconstruction", "bound"))
    return [
        *p.encode_and_decode([operation(kl, p.mu, p.logvar, p.scratch(p.sigma), divergence)]),
        operation(mean_of_samples, p.cube(p.logp), reconstruction),
        operation(difference, reconstruction, divergence, bound),
    ]
