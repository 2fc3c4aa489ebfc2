"""The decoder plugin: how log p(x | parameters) and its gradient follow from the decoder's heads.

The engine owns the layers. A likelihood names its heads and supplies row-independent array code: permuting or
splitting the rows changes nothing. Shapes: x (B, 1, D); an affine head (B, L, D), or (B, L, D, K) with ``group=K``;
a per_dim head (1, 1, D[, K]); a scalar head (1, 1, 1); log_prob (B, L) in nats a data point with its normalising
constant.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from aevb_engine.errors import DataError, suggest
from aevb_engine.model.columns import Columns
from aevb_engine.model.units import Units

SOURCES = ("affine", "per_dim", "scalar")
KINDS = ("binary", "unit", "real", "count", "codes")
MEASURES = ("mass", "density")


@dataclass(frozen=True)
class Head:
    """One parameter array of the likelihood.

    ``source``: "affine" from the last hidden layer, "per_dim" one free number a column, "scalar" one for all.
    ``scale``: the likelihood receives scale times the affine map; the factor is folded into narrow arrays. Gradients
    are returned with respect to what was received.
    """

    name: str
    group: int = 1
    source: Literal["affine", "per_dim", "scalar"] = "affine"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.name.isidentifier():  # its parameters are decoder.NAME.weight, a hidden layer's decoder.1.weight
            raise ValueError(f"head '{self.name}': the name must be an identifier")
        if self.source not in SOURCES:
            raise ValueError(f"head {self.name}: source '{self.source}': {suggest(self.source, SOURCES)}")
        if self.scale != 1 and self.source != "affine":
            raise ValueError(f"head {self.name}: scale is for affine heads, not {self.source}")
        if self.group != 1 and self.source == "scalar":
            raise ValueError(f"head {self.name}: a scalar head has no group")


@dataclass(frozen=True)
class Support:
    """The values a likelihood accepts, and whether it gives them a mass or a density."""

    kind: Literal["binary", "unit", "real", "count", "codes"]
    measure: Literal["mass", "density"]
    levels: int = 0  # number of codes

    def __post_init__(self) -> None:
        for what, value, known in (("kind", self.kind, KINDS), ("measure", self.measure, MEASURES)):
            if value not in known:
                raise ValueError(f"support: {what} '{value}': {suggest(value, known)}")

    def check(self, x: npt.NDArray[Any], what: str) -> None:
        """DataError where rows of ``x`` (N, D), as the model sees them, lie outside."""
        low, high = float(x.min()), float(x.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"{what} holds NaN or infinite values; remove or impute them")
        if self.kind == "real":
            return
        if self.kind == "unit":
            good = low >= 0 and high <= 1
        elif self.kind == "binary":
            good = low >= 0 and high <= 1 and bool(((x == 0) | (x == 1)).all())
        else:
            top = np.inf if self.kind == "count" else self.levels - 1
            good = low >= 0 and high <= top and bool((x == np.floor(x)).all())
        if not good:
            found = f"{what} holds values between {low:g} and {high:g}; the decoder takes"
            takes, mend, python = {
                "binary": (
                    "0 and 1 only", ": use --binarize threshold, static or dynamic",
                    ': aevb.binarize(x, "threshold") makes them so',
                ),
                "unit": ("values in [0, 1]", ": rescale the data (--scale unit)", ": rescale the rows"),
                "count": ("counts 0, 1, 2, ...", "", ""),
                "codes": (f"codes 0 to {self.levels - 1}", "", ""),
            }[self.kind]  # fmt: skip
            raise DataError(f"{found} {takes}{mend}", python=f"{found} {takes}{python}")


class Likelihood(ABC):
    """Base class of decoder plugins; keyword-only constructor parameters are the options ``-o decoder.KEY=VALUE``."""

    summary: ClassVar[str] = ""
    heads: tuple[Head, ...]
    support: Support
    scratch: int = 1  # arrays of shape (B, L, D) that log_prob and log_prob_backward may overwrite
    cuda: str | None = None
    units: Units | None = None  # by which the model reads the data (``Standardized``)

    def check_declared(self) -> None:
        """TypeError or ValueError where an attribute is not what is said of it here."""
        if not isinstance(self.heads, (tuple, list)) or not all(isinstance(h, Head) for h in self.heads):
            raise TypeError(f"heads is {self.heads!r}; a tuple of Head is needed")
        names = [h.name for h in self.heads]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"heads are {names}; one or more, each with a name of its own, are needed")
        if not isinstance(self.support, Support):
            raise TypeError(f"support is {self.support!r}; a Support is needed")
        if not isinstance(self.scratch, Integral) or self.scratch < 0:
            raise ValueError(f"scratch is {self.scratch!r}; a number of arrays is needed")

    @property
    def any_unit(self) -> bool:
        """Whether the data may be read in other units: so with every density of real numbers, unless its parameters
        are bound to a unit (a mean between 0 and 1)."""
        return self.support.kind == "real" and self.support.measure == "density"

    def scalar(self, exp: Any, log1p: Any) -> Callable[..., tuple[Any, ...]] | None:
        """One column on float32 numbers, for a compiled loop: f(x, *heads) gives (log p, *dheads); optional.

        ``exp`` and ``log1p`` (of numbers in [0, 1]) run in vectors, as a library's would not. Constants are written
        ``np.float32(...)`` outside f: a bare number would make everything double.
        """
        return None

    def adapt(self, *, log_variance_unit: float, unit_interval: bool) -> None:  # noqa: B027 - a hook, not a duty
        """Called once, before anything is built, with what is known of the data: the log-variance of their unit (0 for
        data of unit scale, 2 ln 255 for raw 8-bit) and whether all of them lie in [0, 1]."""

    def start(self, columns: Columns) -> Mapping[str, Any] | None:
        """Where the heads start, by name, as ``log_prob`` receives them: (D,), (D, K) or a number; 0 for one left out.

        Sound values are those of independent columns: the logit of the mean, say. None: the engine finds them by the
        likelihood's own gradient on ``columns.sample``.
        """
        return None

    @abstractmethod
    def log_prob(self, xp: Any, x: Any, *heads: Any, logp: Any, scratch: Sequence[Any]) -> None:
        """logp (B, L): sum over the columns of log p(x_d | heads_d)."""

    @abstractmethod
    def log_prob_backward(self, xp: Any, x: Any, *heads: Any, dheads: Sequence[Any], scratch: Sequence[Any]) -> None:
        """dheads (B, L, D[, K]): derivative of log p(x | heads) by each head; row weights are the engine's."""

    def log_prob_and_backward(
        self, xp: Any, x: Any, *heads: Any, logp: Any, dheads: Sequence[Any], scratch: Sequence[Any]
    ) -> None:
        """Both at once; override where they share work."""
        self.log_prob(xp, x, *heads, logp=logp, scratch=scratch)
        self.log_prob_backward(xp, x, *heads, dheads=dheads, scratch=scratch)

    @abstractmethod
    def mean(self, xp: Any, *heads: Any, mean: Any) -> None:
        """mean (B, L, D) of p(x | heads)."""

    def mean_backward(self, xp: Any, *heads: Any, dmean: Any, dheads: Sequence[Any]) -> None:
        """dheads for a given dmean (B, L, D); needed by the squared-error autoencoder only."""
        raise NotImplementedError(f"{type(self).__name__} offers no mean_backward")

    def deviation(self, xp: Any, *heads: Any, deviation: Any) -> None:
        """deviation (B, L, D): the standard deviation of each column under p(x | heads); optional."""
        raise NotImplementedError(f"{type(self).__name__} offers no deviation")

    @abstractmethod
    def sample(self, xp: Any, *heads: Any, draw: Any, x: Any) -> None:
        """x (B, L, D) ~ p(x | heads), from ``draw.uniform(i)`` and ``draw.normal(i)``, i = 0, 1, ... (B, L, D).

        ``draw.scratch(i)`` are arrays to overwrite. Wake-sleep samples in every step: always ask for the same numbers,
        and allocate nothing large (what is allocated costs time there, and no more).
        """
