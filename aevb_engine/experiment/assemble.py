"""From data to a model that fits them: the units that it reads them in, and the parameters that it starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.data.dataset import Dataset
from aevb_engine.data.given import Given
from aevb_engine.errors import DataError
from aevb_engine.experiment.config import RunConfig
from aevb_engine.model.columns import Columns
from aevb_engine.model.likelihood import Likelihood
from aevb_engine.model.model import Model
from aevb_engine.model.standardized import Standardized
from aevb_engine.model.start import columns_read, start_heads
from aevb_engine.model.units import Units, far_from_unit, units_of
from aevb_engine.training.trainer import SMALLER_RATE

LARGEST = {"float32": 1e18, "float64": 1e150}  # whose square still is a number
Rows = npt.NDArray[Any]


@dataclass(frozen=True)
class Facts:
    """What a model keeps of its data: the units it reads them in, the log-variance of their unit there, whether all of
    them lie in [0, 1], and how they were given."""

    units: Units | None = None
    log_variance_unit: float = 0.0
    unit_interval: bool = False
    notes: list[str] = field(default_factory=list)  # worth saying
    warnings: list[str] = field(default_factory=list)
    mend: str = SMALLER_RATE  # of a run that diverges
    given: Given = field(default_factory=Given)  # the unit that rows are given in

    def adapt(self, likelihood: Likelihood) -> Likelihood:
        """The likelihood for these data; ``likelihood`` itself is changed."""
        likelihood.adapt(log_variance_unit=self.log_variance_unit, unit_interval=self.unit_interval)
        return Standardized(likelihood, self.units) if self.units is not None else likelihood

    def meta(self) -> dict[str, Any]:
        """For a checkpoint, beside ``arrays``."""
        known = {"log_variance_unit": self.log_variance_unit, "unit_interval": self.unit_interval}
        return {**known, "given": self.given.meta()}

    def arrays(self) -> dict[str, Rows]:
        """For a checkpoint."""
        return {} if self.units is None else {"units/shift": self.units.shift, "units/spread": self.units.spread}

    @staticmethod
    def stored(meta: Any, arrays: Any) -> Facts:
        """From a checkpoint; KeyError, TypeError or ValueError where it holds none."""
        shift, spread = arrays.get("units/shift"), arrays.get("units/spread")
        units = None
        if shift is not None or spread is not None:
            sound = shift.shape == spread.shape == (int(meta["dim"]),)
            if not (sound and np.isfinite(shift).all() and np.isfinite(spread).all() and (spread > 0).all()):
                raise ValueError("its units are no units of columns")
            units = Units(shift.astype(np.float64), spread.astype(np.float64))
        given = Given.stored(meta.get("given"))
        return Facts(units, float(meta["log_variance_unit"]), bool(meta["unit_interval"]), given=given)


def facts_of(dataset: Dataset, train: Rows, likelihood: Likelihood, config: RunConfig) -> Facts:
    """Of the training rows, which have been checked. DataError where their squares are beyond the precision.

    Columns of real data far from unit scale are standardized, each by its mean and standard deviation (pixels, of
    images or of 8 bits, all by the same), unless ``standardize`` forbids it or the start is the paper's.
    """
    plain = Facts(None, dataset.log_variance_unit, dataset.unit_interval, given=Given.of(dataset))
    wanted = config.standardize
    if likelihood.support.kind != "real" or dataset.dynamic:
        if wanted == "always":
            raise DataError(
                f"--standardize always: the decoder takes {likelihood.support.kind} data as they are; leave it out"
            )
        return plain
    columns = Columns.of(train, dataset.scale)
    far = far_from_unit(columns)
    if wanted == "always" and not likelihood.any_unit:
        raise DataError("--standardize always: the decoder's means are bound to the data's unit; leave out one of them")
    automatic = wanted == "auto" and far and likelihood.any_unit and config.initial != "normal"
    if wanted == "always" or automatic:
        alike = dataset.image_shape is not None or dataset.log_variance_unit != 0 or train.dtype == np.uint8
        units = units_of(columns, alike)
        unit = dataset.log_variance_unit  # where the data have one of their own, else their spread is it
        shift = unit - 2 * math.log(units.spread[0]) if unit else 0.0
        notes = [f"{far}: standardized; bounds and outputs are in their own units"] if automatic else []
        return replace(plain, units=units, log_variance_unit=shift, unit_interval=False, notes=notes)
    check_squares(train, dataset.scale, None, config.dtype)
    if far is None:
        return plain
    mend = "use --standardize always" if likelihood.any_unit else "rescale the data"
    line = f"{far}: far from unit scale, where training is slow or diverges; {mend}"
    return replace(plain, warnings=[line], mend=f"the data are far from unit scale: {mend}")


def check_squares(train: Rows, scale: float, units: Units | None, dtype: str) -> None:
    """DataError where the square of a number that the model reads of ``scale * train`` is beyond ``dtype``."""
    ends = np.stack([train.min(axis=0), train.max(axis=0)]).astype(np.float64) * scale
    shift, spread = (units.shift, units.spread) if units is not None else (0.0, 1.0)
    largest = np.abs((ends - shift) / spread).max(axis=0)
    column = int(largest.argmax())
    if largest[column] > LARGEST[dtype]:
        row = np.abs(train[:, column] * scale - np.broadcast_to(shift, largest.shape)[column]).argmax()
        mend = "" if units is not None else ", or use --standardize always"
        raise DataError(
            f"the data reach {float(train[row, column]) * scale:.3g} (column {column}, from 0): their squares are "
            f"beyond {dtype}; rescale them, or take out that row{mend}"
        )


def initialize(model: Model, train: Rows, dataset: Dataset, config: RunConfig) -> None:
    """The parameters that training starts from: N(0, 0.01^2) all of them, or weights by fan and heads at the data."""
    model.parameters.initialize(config.seed, config.initial)
    if config.initial == "normal":
        return
    start_heads(model, columns_read(model.likelihood, train, dataset.train_scale))
