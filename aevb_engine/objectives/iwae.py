"""The importance-weighted bound L_k (Burda, Grosse & Salakhutdinov 2015, eq. 8 and 14)."""

from __future__ import annotations

from typing import ClassVar

from aevb_engine.kernels.bound import importance_row_weights, log_mean_exp
from aevb_engine.objectives.base import Objective
from aevb_engine.objectives.importance import importance_backward, log_densities, log_importance_weights
from aevb_engine.objectives.program import Pass, Program
from aevb_engine.operation import operation


class Iwae(Objective):
    """L_k(x) = log 1/k sum_l w_l, w = p(x, z) / q(z | x); row weights are normalised w (Burda et al. 8, 14)."""

    summary: ClassVar[str] = "L_k, the importance-weighted bound"
    encodes_data_only: ClassVar[bool] = True

    def build(self, p: Pass) -> Program:
        ws = p.ws
        bound = ws.one("bound")
        logw = p.cube(ws.many("logw"))
        weight = p.cube(p.weight)
        program = Program(prepare=p.model.decoder.prepare(ws, p.model.parameters))
        program.rows = [
            *p.encode_and_decode(log_densities(p)),
            *log_importance_weights(p),
            operation(log_mean_exp, logw, weight, bound),
        ]
        if p.gradient:
            factor = -1 / (ws.batch * ws.samples)
            program.rows.append(operation(importance_row_weights, logw, bound, factor, weight))
            program.rows += importance_backward(p)
            program.pieces = p.gradients()
        return program
