"""What is evaluated and how: the subject, the plan, and what keeps the numbers from being compared with others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from aevb_engine.errors import UsageError
from aevb_engine.evaluation.methods import METHODS, check_method
from aevb_engine.model.model import Model

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a model, the rows of a split, and the training rows that baselines are fitted to.

    ``rows`` (N, D) are host rows, ``scale * row`` is what the model sees. ``train`` may be intensities 0..255 that
    training draws 0 and 1 from (``train_scale`` 1/255).
    """

    model: Model
    rows: Array
    train: Array
    scale: float = 1.0
    train_scale: float = 1.0
    encoder: bool = True  # False: nothing has trained q(z | x) as a density
    binarize: str = "none"
    objective: str = "elbo"
    beta: float = 1.0  # weight of the KL term in what was trained
    other_scale: tuple[str, float] | None = None
    true_log_prob: Callable[[Array], Array] | None = None

    @property
    def measure(self) -> str:
        """mass or density."""
        return self.model.likelihood.support.measure

    @property
    def lattice(self) -> bool:
        """A density of whole numbers."""
        return self.measure == "density" and self.rows.dtype.kind in "uib"


@dataclass(frozen=True)
class Plan:
    """What to do: methods by name (None: is, or ais without an encoder), samples by method, rows, optional parts.

    ``temperatures``: of ``ais`` and of the bracket; None is their default.
    """

    methods: tuple[str, ...] | None = None
    samples: Mapping[str, int] = field(default_factory=dict)
    temperatures: int | None = None
    rows: int | None = None
    seed: int = 0
    threads: int = 1
    bracket: bool = False
    baselines: bool = True

    def chosen(self, subject: Subject) -> tuple[str, ...]:
        """The methods, the default for this subject included."""
        return self.methods if self.methods is not None else ("is" if subject.encoder else "ais",)

    def check(self, subject: Subject) -> None:
        """UsageError for what cannot be done with this subject."""
        for name in (*self.chosen(subject), *self.samples):
            check_method(name)
        latent = subject.model.architecture.latent
        for name in self.chosen(subject):
            most = METHODS[name].most_latent
            if most is not None and latent > most:
                raise UsageError(
                    f"--method {name}: meaningless in {latent} latent dimensions (limit {most}); use is or ais"
                )
            if METHODS[name].needs_encoder and not subject.encoder:
                others = ", ".join(n for n, m in METHODS.items() if not m.needs_encoder)
                raise UsageError(
                    f"--method {name}: objective {subject.objective} trains no q(z | x) to sample from; use {others}"
                )
        for name, count in self.samples.items():
            if count < 1:
                raise UsageError(f"--samples {count}: at least 1 is needed")
            if name not in self.chosen(subject):
                raise UsageError(f"--samples {name}={count}: add --method {name}")
        if self.temperatures is not None:
            if self.temperatures < 1:
                raise UsageError(f"--temperatures {self.temperatures}: at least 1 is needed")
            if "ais" not in self.chosen(subject) and not self.bracket:
                raise UsageError(f"--temperatures {self.temperatures}: add --method ais or --bracket")
        count = len(subject.rows)
        if self.rows is not None and not 1 <= self.rows <= count:
            raise UsageError(f"--rows {self.rows}: the split has {count} rows; use 1 to {count}")


def other_scale(subject: Subject) -> dict[str, Any] | None:
    """What to add to a log-density to express it on the data's other scale."""
    if subject.other_scale is None or subject.measure != "density":
        return None
    name, shift = subject.other_scale
    return {"name": name, "add": shift}


BINARIZED = {
    "threshold": "pixels are thresholded at one half: such numbers compare with each other only, not with drawn pixels",
    "static": "pixels are one fixed draw from this seed: another draw, such as published fixed binarizations, moves "
    "means by some tenths of a nat",
    "dynamic": "training draws pixels anew at each step; these rows are one fixed draw from the seed",
}


def comparability(subject: Subject) -> list[str]:
    """What keeps these numbers from being compared with others."""
    notes = []
    if subject.measure == "mass" and subject.binarize in BINARIZED:
        notes.append(BINARIZED[subject.binarize])
    if subject.lattice:
        notes.append(
            "a density evaluated on whole numbers without dequantization: it compares among models of these data only, "
            "has no bound from above, and gives no bits per dimension"
        )
    if subject.measure == "density":
        other = other_scale(subject)
        notes.append(
            "a density depends on the unit of the data"
            + (f": add {other['add']:,.1f} nats for the {other['name']} scale" if other else "")
        )
    if not subject.encoder:
        notes.append(
            f"objective {subject.objective} trains no q(z | x): no bound, no importance sampling, no active units"
        )
    if subject.beta != 1:
        notes.append(
            f"trained with beta = {subject.beta:g}: the bound here has beta = 1 and compares with others, the "
            "objective of training does not"
        )
    return notes
