"""The importance-weighted bound L_k (Burda, Grosse & Salakhutdinov 2015, eq. 8 and 14)."""

from __future__ import annotations

from aevb_engine.kernels.bound import importance_row_weights, log_mean_exp
from aevb_engine.objectives.importance import importance_backward, log_densities, log_importance_weights
from aevb_engine.objectives.program import Pass, Program
from aevb_engine.operation import operation


def iwae(p: Pass) -> Program:
    """L_k(x) = log 1/k sum_l w_l, w = p(x, z) / q(z | x); each row's weight is its normalised w."""
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
        program.rows.append(operation(importance_row_weights, logw, bound, -1 / (ws.batch * ws.samples), weight))
        program.rows += importance_backward(p)
        program.pieces = p.gradients()
    return program
