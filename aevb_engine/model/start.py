"""Where a decoder's heads start: at the independent columns that fit the training rows best.

Biases drawn around zero leave the data's mean to z: latent dimensions are spent on what is the same in all rows, or
none is used at all. Started here, the bound begins where a model without z ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.blame import fault
from aevb_engine.errors import suggest
from aevb_engine.model.columns import ENOUGH, Columns
from aevb_engine.model.likelihood import Head, Likelihood
from aevb_engine.model.model import Model

ITERATIONS = 200
FIRST_STEP, GROW, SHRINK = 0.1, 1.2, 0.5  # Riedmiller & Braun 1993
NUMBERS = 200_000  # of the sample that are used
CHUNK = 500
Array = npt.NDArray[Any]


def start_heads(model: Model, columns: Columns) -> None:
    """Set the biases of affine heads, and per_dim and scalar heads themselves, to ``head_values``."""
    likelihood, parameters = model.likelihood, model.parameters
    for head, values in head_values(likelihood, columns).items():
        name = f"decoder.{head.name}"
        target = parameters[f"{name}.bias" if head.source == "affine" else name]
        start = (values / head.scale).reshape(target.shape).astype(model.dtype)
        target.theta.array[...] = model.backend.upload(start)


def head_values(likelihood: Likelihood, columns: Columns) -> dict[Head, Array]:
    """By head, as the likelihood receives it, (D,), (D, K) or (1,): what it says itself, or else the maximum-likelihood
    fit of columns that are independent of each other.

    BackendError where the plugin's own values have another shape or are not finite.
    """
    own, plugin = likelihood.start(columns), getattr(likelihood, "inner", likelihood)  # of a standardized one
    if own is None:
        return fitted(likelihood, columns.sample)
    if not isinstance(own, Mapping):
        raise fault(plugin, f"start returns a {type(own).__name__}; values by the name of the head are needed")
    known = {head.name for head in likelihood.heads}
    for name in own:
        if name not in known:
            raise fault(plugin, f"start: there is no head '{name}': {suggest(str(name), known)}")
    found = {}
    for head in likelihood.heads:
        shape = _shape(head, len(columns.mean))
        try:
            values = np.asarray(own.get(head.name, 0.0), np.float64)
        except (TypeError, ValueError):
            raise fault(plugin, f"start: head {head.name} is no array of numbers") from None
        if values.ndim and values.shape != shape:
            raise fault(plugin, f"start: head {head.name} has shape {values.shape}; {shape} is needed")
        if not np.isfinite(values).all():
            raise fault(plugin, f"start: head {head.name} is not finite; clip what has no limit")
        found[head] = np.broadcast_to(values, shape)
    return found


def fitted(likelihood: Likelihood, rows: Array) -> dict[Head, Array]:
    """The heads, the same for every row, under which ``rows`` (n, D) are most probable; zeros where none is found.

    Ascent by the signs of the likelihood's own gradient (resilient propagation: Riedmiller & Braun 1993). Each number
    has a step of its own, so that columns of any unit are found.
    """
    heads, dim = likelihood.heads, rows.shape[1]
    rows = rows[: max(20, NUMBERS // dim)]
    values = [np.zeros(_shape(head, dim)) for head in heads]
    steps = [np.full(v.shape, FIRST_STEP) for v in values]
    before = [np.zeros(v.shape) for v in values]
    first = last = -np.inf
    with np.errstate(all="ignore"):
        for i in range(ITERATIONS):
            last, gradients = _gradients(likelihood, rows, values)
            first = last if i == 0 else first
            for value, step, old, gradient in zip(values, steps, before, gradients, strict=True):
                turned = old * gradient
                step *= np.where(turned > 0, GROW, np.where(turned < 0, SHRINK, 1.0))
                gradient[turned < 0] = 0  # wait for one step after a turn
                value += np.sign(gradient) * step
                old[...] = gradient
        last, _ = _gradients(likelihood, rows, values)
    good = np.isfinite(last) and not last < first and all(np.isfinite(v).all() for v in values)
    return {head: v if good else np.zeros(v.shape) for head, v in zip(heads, values, strict=True)}


def log_prob(likelihood: Likelihood, values: Mapping[Head, Array], rows: Array, scale: float = 1.0) -> Array:
    """log p (N,) in nats of rows (N, D), ``scale * row`` as the model sees them, where the heads are the same for all
    of them: independent columns."""
    found = []
    for lo in range(0, len(rows), CHUNK):
        x = rows[lo : lo + CHUNK].astype(np.float64)[:, None] * scale
        logp = np.empty(x.shape[:2])
        with np.errstate(all="ignore"):
            likelihood.log_prob(np, x, *_received(values, len(x)), logp=logp, scratch=_scratch(likelihood, x))
        found.append(logp[:, 0])
    return np.concatenate(found)


def columns_read(likelihood: Likelihood, rows: Array, scale: float) -> Columns:
    """Columns of some of ``scale * rows`` (N, D) as a model with this likelihood reads them."""
    few, units = rows[:: -(-len(rows) // ENOUGH)], likelihood.units
    found = Columns.of(few, scale) if units is None else Columns.of(units.inward(few, np.float64, scale))
    return replace(found, count=len(rows))


def _shape(head: Head, dim: int) -> tuple[int, ...]:
    if head.source == "scalar":
        return (1,)
    return (dim,) if head.group == 1 else (dim, head.group)


def _received(values: Mapping[Head, Array], rows: int) -> list[Array]:
    """The heads in the shapes that the likelihood is promised."""
    return [
        np.repeat(v[None, None], rows, axis=0) if head.source == "affine" else v[None, None]
        for head, v in values.items()
    ]


def _scratch(likelihood: Likelihood, x: Array) -> list[Array]:
    return [np.empty(x.shape) for _ in range(likelihood.scratch)]


def _gradients(likelihood: Likelihood, rows: Array, values: list[Array]) -> tuple[float, list[Array]]:
    """Mean log p of the rows (n, D), and its derivative by each head's numbers; 0 where that is not finite."""
    heads = dict(zip(likelihood.heads, values, strict=True))
    x = rows[:, None]
    logp = np.empty(x.shape[:2])
    dim = rows.shape[1]
    wide = [np.empty((len(x), 1, dim) if h.group == 1 else (len(x), 1, dim, h.group)) for h in heads]
    likelihood.log_prob_and_backward(
        np, x, *_received(heads, len(x)), logp=logp, dheads=wide, scratch=_scratch(likelihood, x)
    )
    gradients = []
    for head, d in zip(heads, wide, strict=True):
        mean = np.asarray(d.sum() if head.source == "scalar" else d[:, 0].sum(axis=0)).reshape(_shape(head, dim))
        gradients.append(np.where(np.isfinite(mean), mean, 0.0) / len(x))
    return float(logp.mean()), gradients
