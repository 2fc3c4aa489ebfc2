"""Bounds on log p(x): each file builds the operations of one of them."""

from __future__ import annotations

from collections.abc import Callable

from aevb_engine.errors import UsageError, suggest
from aevb_engine.objectives.elbo import elbo
from aevb_engine.objectives.elbo_mc import elbo_mc
from aevb_engine.objectives.iwae import iwae
from aevb_engine.objectives.program import Pass, Program

OBJECTIVES: dict[str, Callable[[Pass], Program]] = {"elbo": elbo, "elbo-mc": elbo_mc, "iwae": iwae}


def objective(name: str) -> Callable[[Pass], Program]:
    """The builder of a bound by name."""
    if name not in OBJECTIVES:
        raise UsageError(f"unknown objective '{name}': {suggest(name, OBJECTIVES)}")
    return OBJECTIVES[name]
