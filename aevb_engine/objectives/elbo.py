"""L^B, the bound with its KL term in closed form (LX 9, 25; KW 7, 10)."""

from __future__ import annotations

from aevb_engine.kernels.bound import difference, mean_of_samples
from aevb_engine.kernels.kl import kl, kl_backward
from aevb_engine.objectives.program import Pass, Program
from aevb_engine.operation import operation


def elbo(p: Pass) -> Program:
    """L^B(x) = 1/L sum_l log p(x | z_l) - KL(q(z | x) || N(0, I))."""
    ws, batch = p.ws, p.ws.batch
    divergence, reconstruction, bound = ws.one("kl"), ws.one("reconstruction"), ws.one("bound")
    scratch = p.scratch(p.sigma)
    program = Program(prepare=p.model.decoder.prepare(ws, p.model.parameters))
    program.rows = [
        *p.encode_and_decode([operation(kl, p.mu, p.logvar, p.sigma, scratch, divergence)]),
        operation(mean_of_samples, p.cube(p.logp), reconstruction),
        operation(difference, reconstruction, divergence, bound),
    ]
    if p.gradient:
        p.weight.array[...] = -1 / (batch * ws.samples)
        dmu, dlogvar = p.model.encoder.halves(ws, "dlatent")
        divergence_gradient = operation(kl_backward, p.mu, p.sigma, 1 / batch, scratch, dmu, dlogvar)
        program.rows += p.backward([], [divergence_gradient])
        program.pieces = p.gradients()
    return program
