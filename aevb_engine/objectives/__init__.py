"""What training ascends: each file builds the operations of one objective, found by name like any plugin."""

from __future__ import annotations

from collections.abc import Mapping

from aevb_engine import registry
from aevb_engine.objectives.base import Objective
from aevb_engine.objectives.elbo import Elbo


def objective(name: str | Objective, options: Mapping[str, object] | None = None) -> Objective:
    """The objective registered under ``name``, with its options; an objective is returned as it is."""
    if isinstance(name, Objective):
        return name
    made: Objective = registry.create("objective", name, options, Objective)
    return made


def held_out(trained: Objective) -> Objective | None:
    """What judges held-out data: L^B, whatever was trained; None where there is no encoder to take it with."""
    if trained.held_out_by_itself:
        return trained
    return Elbo() if trained.has_encoder else None
