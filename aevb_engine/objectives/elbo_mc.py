"""L^A, the bound with every term by Monte Carlo (LX 7; KW 6)."""

from __future__ import annotations

from typing import ClassVar

from aevb_engine.kernels.bound import mean_of_samples
from aevb_engine.objectives.base import Objective
from aevb_engine.objectives.importance import importance_backward, log_densities, log_importance_weights
from aevb_engine.objectives.program import Pass, Program
from aevb_engine.operation import operation


class ElboMc(Objective):
    """L^A(x) = 1/L sum_l [log p(x | z_l) + log p(z_l) - log q(z_l | x)] (LX 7; KW 6)."""

    summary: ClassVar[str] = "L^A, every term by Monte Carlo"
    encodes_data_only: ClassVar[bool] = True

    def build(self, p: Pass) -> Program:
        ws = p.ws
        program = Program(prepare=p.model.decoder.prepare(ws, p.model.parameters))
        program.rows = [
            *p.encode_and_decode(log_densities(p)),
            *log_importance_weights(p),
            operation(mean_of_samples, p.cube(ws.many("logw")), ws.one("bound")),
        ]
        if p.gradient:
            p.weight.array[...] = -1 / (ws.batch * ws.samples)
            program.rows += importance_backward(p)
            program.pieces = p.gradients()
        return program
