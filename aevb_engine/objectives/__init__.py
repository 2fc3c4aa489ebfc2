"""What training ascends: each file builds the operations of one objective, found by name like any plugin."""

from __future__ import annotations

from collections.abc import Mapping

from aevb_engine import registry
from aevb_engine.blame import fault
from aevb_engine.objectives.base import Objective
from aevb_engine.objectives.elbo import Elbo
from aevb_engine.objectives.program import Pass, Program


def objective(name: str | Objective, options: Mapping[str, object] | None = None) -> Objective:
    """The objective registered under ``name``, with its options; an objective is returned as it is."""
    if isinstance(name, Objective):
        return name
    made: Objective = registry.create("objective", name, options, Objective)
    return made


def built(chosen: Objective, p: Pass) -> Program:
    """What the objective builds; BackendError where that is no Program."""
    program = chosen.build(p)
    if not isinstance(program, Program):
        raise fault(chosen, f"build returns a {type(program).__name__}, not a Program")
    return program


def remarks(chosen: Objective, batch: int, count: int) -> list[str]:
    """What it says of a training with such batches of ``count`` data points; BackendError where that is no lines."""
    lines = chosen.remarks(batch, count)
    if not isinstance(lines, (list, tuple)) or not all(isinstance(line, str) for line in lines):
        raise fault(chosen, f"remarks returns {lines!r}; a list of lines is needed")
    return list(lines)


def held_out(trained: Objective) -> Objective | None:
    """What judges held-out data: L^B, whatever was trained; None where there is no encoder to take it with."""
    if trained.held_out_by_itself:
        return trained
    return Elbo() if trained.has_encoder else None
