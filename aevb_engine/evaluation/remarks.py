"""What a training came to, beside what needs no latent variables, and what is amiss with it, in words.

A bound says little alone: here stand independent columns and probabilistic PCA on the same rows, the number of latent
units in use, and whether the curve had come to rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.evaluation.baselines import ppca
from aevb_engine.evaluation.latent import latent_use
from aevb_engine.model.columns import ENOUGH
from aevb_engine.model.model import Model
from aevb_engine.model.start import columns_read, head_values, log_prob
from aevb_engine.training.step import resident

LEAST_STEPS = 200  # of a training that is found fault with
MOST_ROWS = 2000  # that are judged
MOST_COLUMNS = 1000  # of a covariance
CLIMB = 0.1  # of what was gained over independent columns, by doubling the steps: worth a longer training
LEAST_CLIMB = 0.2  # nats
GAP = 0.25  # of the same, between training and held-out rows
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Judged:
    """A model that was trained, with the rows that it is judged by.

    ``rows`` (M, D) host rows, ``scale * row`` the data, with their ``bounds`` (M,) in nats, called ``name`` in words;
    ``train`` (N, D) with ``train_scale``; ``train_bound`` the mean of the last batches of so many ``steps``.
    ``course`` (n, 2): steps and bounds on the way. ``steady``: the part of the steps before the learning rate begins to
    fall.
    """

    model: Model
    rows: Array
    bounds: Array
    name: str
    train: Array
    train_bound: float
    steps: int
    course: Array
    scale: float = 1.0
    train_scale: float = 1.0
    steady: float = 1.0
    paper_start: bool = False
    best_step: int | None = None  # where rows that were held out have chosen one


@dataclass(frozen=True)
class Remarks:
    """``active`` latent units of the model's; the mean log p of independent columns and of probabilistic PCA on the
    judged rows, in nats a data point (None where there is none); and ``lines``, what is amiss, each with its mend."""

    active: int
    independent: float | None
    linear: float | None
    lines: list[str]


def remarks(judged: Judged) -> Remarks:
    """Look at no more than 2,000 rows; few steps are found no fault with."""
    model, every = judged.model, -(-len(judged.rows) // MOST_ROWS)
    rows, bounds = judged.rows[::every], judged.bounds[::every]
    bound = float(bounds.mean())
    use = latent_use(model, resident(model, rows, judged.scale))
    independent = _independent(judged, rows)
    linear = _linear(judged, rows)
    if judged.steps < LEAST_STEPS:
        return Remarks(use.active, independent, linear, [])
    latent = model.architecture.latent
    lines = [*_units(use.active, latent), *_below(judged, bound, independent, linear)]
    if independent is not None:
        gained = max(bound, judged.train_bound) - independent
        lines += _gap(judged, bounds, gained)
        lines += _climbs(judged, gained)
    return Remarks(use.active, independent, linear, lines)


def _independent(judged: Judged, rows: Array) -> float | None:
    """The mean log p of rows under the likelihood with the same heads for all, fitted to the training rows."""
    likelihood, units = judged.model.likelihood, judged.model.likelihood.units
    values = head_values(likelihood, columns_read(likelihood, judged.train, judged.train_scale))
    if units is not None:
        found = log_prob(likelihood, values, units.inward(rows, np.float64, judged.scale))
    else:
        found = log_prob(likelihood, values, rows, judged.scale)
    mean = float(found.mean())
    return mean if np.isfinite(mean) else None


def _linear(judged: Judged, rows: Array) -> float | None:
    """Probabilistic PCA with as many latent dimensions, for densities of real data."""
    dim = rows.shape[1]
    support = judged.model.likelihood.support
    if support.kind != "real" or support.measure != "density" or not 2 <= dim <= MOST_COLUMNS:
        return None
    few = judged.train[:: -(-len(judged.train) // ENOUGH)]
    if len(few) <= dim:  # a covariance of fewer rows than columns has no inverse to trust
        return None
    latent, units = judged.model.architecture.latent, judged.model.likelihood.units
    if units is None:
        mean = float(ppca(few, latent, scale=judged.train_scale).score(rows, judged.scale).mean())
    else:
        fit = ppca(units.inward(few, np.float64, judged.train_scale), latent)
        mean = float(fit.score(units.inward(rows, np.float64, judged.scale)).mean()) - units.log_spread
    return mean if np.isfinite(mean) else None


def _units(active: int, latent: int) -> Sequence[str]:
    if active == latent:
        return []
    if active == 0:
        return [
            f"none of the {latent} latent units is active: z says nothing of x, and the model is one of independent "
            "columns; train longer, or start with --initial glorot"
        ]
    return [f"{latent - active} of {latent} latent units are inactive: as good with --latent-dim {active}"]


def _below(judged: Judged, bound: float, independent: float | None, linear: float | None) -> Sequence[str]:
    other = "start with --initial glorot" if judged.paper_start else "with another --lr"
    mend = f"train longer, or {other}"
    said = f"the {judged.name} bound {bound:,.2f} is below"
    if independent is not None and not bound >= independent:
        return [f"{said} {independent:,.2f} of independent columns, a model without z; {mend}"]
    if linear is not None and not bound >= linear:
        near = independent is not None and linear - bound < max(CLIMB * (linear - independent), LEAST_CLIMB)
        return [
            f"{said} {linear:,.2f} of probabilistic PCA, a linear model; "
            + ("on these data it does as well" if near else mend)
        ]
    return []


def _gap(judged: Judged, bounds: Array, gained: float) -> Sequence[str]:
    gap = judged.train_bound - float(bounds.mean())
    error = float(bounds.std()) / np.sqrt(len(bounds))
    if not (gap > GAP * gained > 0 and gap > 5 * error):
        return []
    mend = "hold rows out with --validation 0.1, which keeps the best step, or train for less"
    if judged.best_step is not None:
        mend = f"step {judged.best_step:,}, the best for the validation rows, is what counts"
    return [f"the {judged.name} bound is {gap:,.1f} nats below that of the training rows: the model overfits; {mend}"]


def _climbs(judged: Judged, gained: float) -> Sequence[str]:
    """By the last doubling of the steps at a constant rate: falling rates raise the bound whenever they come."""
    course = judged.course
    if len(course) < 8 or gained <= 0:
        return []
    last = judged.steady * float(course[-1, 0])
    now, before = _around(course, last), _around(course, last / 2)
    climb = now - before
    if not climb > max(CLIMB * gained, LEAST_CLIMB):
        return []
    return [
        f"the bound still climbed, by {climb:,.1f} nats when the steps doubled to {last:,.0f}: train longer, such as "
        "twice as many --epochs"
    ]


def _around(course: Array, step: float) -> float:
    """The mean of what is near a step, within a tenth of it; else the nearest."""
    distance = np.abs(course[:, 0] - step)
    near = distance <= max(0.1 * step, float(distance.min()))
    return float(course[near, 1].mean())
