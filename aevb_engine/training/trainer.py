"""The trainer: steps in blocks, a look at the bound after each, and the exact state to go on from.

Noise, order and rates are functions of the step, so a step can be repeated to the bit: when something stops being
finite, the trainer goes back to its last copy, finds the very step and what failed, and leaves the state before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.backend.base import Plan
from aevb_engine.errors import FileFormatError, TrainingError, UsageError
from aevb_engine.model.model import Model
from aevb_engine.objectives import objective
from aevb_engine.objectives.base import COLUMNS, Objective
from aevb_engine.training.optimizer import Optimizer
from aevb_engine.training.order import Order
from aevb_engine.training.pruning import pruned
from aevb_engine.training.schedule import Schedule
from aevb_engine.training.state import check_state
from aevb_engine.training.step import ResidentRows, TrainingStep

SMALLER_RATE = "try a smaller --lr"
SNAPSHOT = 500  # steps between copies of parameters and state
TRAIN_COLUMNS = ("step", "seen", "bound", "reconstruction", "kl", "lr")


class Diverged(TrainingError):
    """The bound, a gradient, or what is carried from step to step stopped being finite; the trainer holds the state
    before that step."""

    def __init__(self, step: int, what: str, mend: str = SMALLER_RATE) -> None:
        super().__init__(f"step {step}: {what} is not finite; the state after step {step - 1} is kept; {mend}")
        self.step = step
        self.what = what


@dataclass(frozen=True)
class Settings:
    """How to train: see ``aevb-engine run --help`` for each."""

    objective: str | Objective = "elbo"
    samples: int = 1
    batch: int = 100
    lr: float = 0.001
    schedule: Schedule = field(default_factory=Schedule)
    weight_decay: float = 0.0
    seed: int = 0
    threads: int = 1
    plan: Plan = field(default_factory=Plan)
    mend: str = SMALLER_RATE  # what to say where training diverges


@dataclass(frozen=True)
class Tables:
    """What changes between steps, for those from ``first`` on."""

    first: int  # steps done before
    orders: npt.NDArray[np.int64]  # (steps, batch) row numbers
    coefficients: npt.NDArray[Any]  # (steps, numbers) of the optimizer and the objective
    rates: list[float]
    uploaded: list[Any] = field(default_factory=list)  # orders and coefficients on the device already

    def __len__(self) -> int:
        return len(self.rates)


def check_batch(batch: int, count: int) -> None:
    """UsageError for a batch that the training rows do not fill."""
    if not 1 <= batch <= count:
        raise UsageError(f"--batch-size {batch}: must be between 1 and the {count} training rows")


class Trainer:
    """A model, its optimizer and its data, some steps into training."""

    def __init__(self, model: Model, optimizer: Optimizer, data: ResidentRows, settings: Settings) -> None:
        count = int(data.data.array.shape[0])
        check_batch(settings.batch, count)
        self.model = model
        self.data = data
        self.optimizer = optimizer
        self.settings = settings
        self.count = count
        self.objective: Objective = objective(settings.objective)
        self.pruned = pruned(model, optimizer, self.objective, data.data.array, settings.weight_decay)
        self._build()
        self.order = Order(settings.seed, count, settings.batch, self.objective.updates)
        self.step = 0
        self.last = np.empty((0, len(TRAIN_COLUMNS)))  # rows of the last block; where it failed, those before
        self._kept: list[Any] = []  # a copy of the state on the device, after the steps ``_kept_at``
        self._kept_at: int | None = None
        self._now = Tables(0, np.empty((0, 0), np.int64), np.empty((0, 0)), [])  # of the steps under way
        self._ahead: Tables | None = None

    @property
    def block(self) -> int:
        """Steps that ``advance`` takes at most."""
        return self.inner.block

    @property
    def warnings(self) -> list[str]:
        """One line where the chosen path cannot run the step."""
        return self.inner.warnings

    def _build(self) -> None:
        """The step on the model or on its live columns; there ``_whole`` holds the optimizer's state of all columns."""
        settings, model = self.settings, self.model
        self.inner = TrainingStep(
            self.pruned.model if self.pruned else model,
            self.optimizer,
            self.data,
            objective_name=self.objective,
            batch=settings.batch,
            samples=settings.samples,
            seed=settings.seed,
            decay=settings.weight_decay / self.count,
            threads=settings.threads,
            plan=settings.plan,
            columns=self.pruned.columns if self.pruned else None,
        )
        self._whole = [np.zeros_like(model.parameters.theta) for _ in self.inner.state] if self.pruned else []

    def advance(self, steps: int) -> npt.NDArray[np.float64]:
        """Run ``steps`` (at most a block) and return their rows of ``TRAIN_COLUMNS``; raises Diverged."""
        self.begin(steps)
        try:
            self.inner.run(steps, self.step)
            return self.finish(steps)
        except Diverged:
            raise
        except BaseException:  # parameters of the middle of a block belong to no number of steps
            self._back()
            raise

    def begin(self, steps: int) -> None:
        """The first part of ``advance``: all is ready for the steps to be run."""
        if not 1 <= steps <= self.block:
            raise ValueError(f"{steps} steps: a block has 1 to {self.block}")
        self.model.backend.enter()
        if self._kept_at is None or self.step - self._kept_at >= SNAPSHOT:
            self._keep()
        self._fill(steps)

    def finish(self, steps: int) -> npt.NDArray[np.float64]:
        """The last part of ``advance``: the rows of steps that have been run."""
        rows, finite = self._collect(steps)
        if not (np.isfinite(rows[:, self._defined]).all() and finite):
            self._find_divergence(steps)
        self.last = rows
        return rows

    def _run(self, steps: int) -> tuple[npt.NDArray[np.float64], bool]:
        """The rows of the steps, and whether all that is carried is finite."""
        self._fill(steps)
        self.inner.run(steps, self.step)
        return self._collect(steps)

    def _fill(self, steps: int) -> None:
        clock, backend, first = self.inner.clock, self.model.backend, self.step
        tables = self._now = self._tables(first, steps)
        orders, coefficients = tables.uploaded or map(backend.upload, (tables.orders, tables.coefficients))
        clock.orders.array[:steps] = orders[:steps]
        clock.rates.array[:steps] = coefficients[:steps]
        clock.step.array[...] = first
        clock.cursor.array[...] = 0
        if self.pruned:  # between two blocks the whole model's parameters are the ones that count
            self.pruned.take(self.model.parameters.theta, self.inner.model.parameters.theta)

    def _collect(self, steps: int) -> tuple[npt.NDArray[np.float64], bool]:
        settings, clock, backend = self.settings, self.inner.clock, self.model.backend
        first, tables = self.step, self._now
        if self.pruned:
            own, whole = self.inner.model.parameters, self.model.parameters
            self.pruned.put(own.theta, whole.theta)
            self.pruned.put(own.grad, whole.grad)
        self.inner.report()
        if backend.asynchronous:  # the next tables are made and uploaded while the device is at work
            self._ahead = self._tables(first + steps, steps)
            self._ahead.uploaded[:] = backend.upload_beside([self._ahead.orders, self._ahead.coefficients])
        report = backend.download(clock.report.array[: 1 + steps])
        finite = self.inner.check(report[0])
        self.step = first + steps
        out = np.empty((steps, len(TRAIN_COLUMNS)))
        out[:, 0] = np.arange(first + 1, self.step + 1)
        out[:, 1] = -(-out[:, 0] // self.objective.updates) * settings.batch  # a batch is seen once
        out[:, 2:5] = report[1:]
        out[:, 5] = tables.rates[:steps]
        return out, finite

    def _tables(self, first: int, steps: int) -> Tables:
        """Those of the steps, or of more, which were made ahead."""
        if self._ahead is not None and self._ahead.first == first and len(self._ahead) >= steps:
            return self._ahead
        rates = [self.settings.lr * self.settings.schedule(first + i + 1) for i in range(steps)]
        coefficients = [self.inner.coefficients(first + i + 1, lr) for i, lr in enumerate(rates)]
        return Tables(first, self.order.rows(first, steps), np.array(coefficients, self.model.dtype), rates)

    # State --------------------------------------------------------------------------------------------------

    @property
    def seen(self) -> int:
        """Data points of the batches so far."""
        return -(-self.step // self.objective.updates) * self.settings.batch

    @property
    def trained(self) -> int:
        """Parameters that the objective trains."""
        names = {p.parameter.name for p in self.inner.program.pieces}
        return sum(p.hi - p.lo for p in self.model.parameters.named.values() if p.name in names)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Parameters, the optimizer's and the objective's state, by name, as a checkpoint stores them."""
        return dict(zip(self._names(), (self.model.backend.download(a) for a in self._current()), strict=True))

    def restore(self, step: int, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a checkpoint's ``step`` and ``arrays``; FileFormatError where they do not fit, or not finite."""
        check_state(arrays, "the checkpoint")
        if self.pruned and self._moving(arrays):
            self.pruned = None
            self._build()
        for name, target in zip(self._names(), self._live(), strict=True):
            stored = arrays.get(name)
            if stored is None or stored.shape != target.shape or stored.dtype != target.dtype:
                found = "nothing" if stored is None else f"{stored.shape} {stored.dtype}"
                raise FileFormatError(
                    f"the checkpoint's '{name}' is {found}, the model needs {target.shape} {target.dtype}; "
                    "it belongs to another configuration"
                )
            target[...] = self.model.backend.upload(stored)
        self._take()
        self.step = step
        self._kept_at = None

    def _moving(self, arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
        """Whether the state still moves weights of columns left out: those were not always zero."""
        assert self.pruned is not None
        stored = [arrays.get(f"optimizer/{name}") for name in self.optimizer.state]
        size = self.model.parameters.size
        return any(a is not None and a.shape == (size,) and self.pruned.left_out(a).any() for a in stored)

    def _names(self) -> list[str]:
        optimizer, objective = self.optimizer.state, self.inner.program.state
        return ["theta", *(f"optimizer/{name}" for name in optimizer), *(f"objective/{name}" for name in objective)]

    def _live(self) -> list[Any]:
        state = (buffer.array for buffer in self.inner.program.state.values())
        return [self.model.parameters.theta, *(self._whole if self.pruned else self.inner.state), *state]

    def _take(self) -> None:
        """The optimizer's state from the whole vectors into the pruned step."""
        if self.pruned:
            for whole, part in zip(self._whole, self.inner.state, strict=True):
                self.pruned.take(whole, part)

    def _current(self) -> list[Any]:
        """The same, with what the pruned step holds of the optimizer's state."""
        if self.pruned:
            for part, whole in zip(self.inner.state, self._whole, strict=True):
                self.pruned.put(part, whole)
        return self._live()

    def _keep(self) -> None:
        """Copy the state, on the device."""
        self._kept_at = None  # until the copy is whole
        live = self._current()
        if not self._kept:
            self._kept = [self.model.backend.empty(a.shape, a.dtype) for a in live]
        for target, source in zip(self._kept, live, strict=True):
            target[...] = source
        self._kept_at = self.step

    def _back(self) -> None:
        assert self._kept_at is not None
        self.step = self._kept_at
        for target, stored in zip(self._live(), self._kept, strict=True):
            target[...] = stored
        self._take()

    # Divergence ---------------------------------------------------------------------------------------------

    @property
    def _defined(self) -> list[int]:
        """Places of TRAIN_COLUMNS that hold numbers under this objective."""
        missing = set(COLUMNS) - set(self.objective.columns)
        return [i for i, column in enumerate(TRAIN_COLUMNS) if column not in missing]

    def _find_divergence(self, steps: int) -> None:
        """Repeat from the last copy, step by step, up to the first that is not finite; leave the state before it."""
        end = self.step
        self._back()
        found = None
        while found is None and self.step < end:
            found = self._not_finite(self._run(1)[0][0])
        what, mend = found or ("what is carried from step to step", self.settings.mend)
        bad = self.step
        self._back()
        good = [self.last[:0]]
        while self.step < bad - 1:
            good.append(self._run(min(self.block, bad - 1 - self.step))[0])
        rows = np.concatenate(good)
        self.last = rows[rows[:, 0] > end - steps]
        raise Diverged(bad, what, mend)

    def _not_finite(self, row: npt.NDArray[np.float64]) -> tuple[str, str] | None:
        """What is not finite after a step, and the mend."""
        mend = self.settings.mend
        for place in (4, 3, 2):
            column, value = TRAIN_COLUMNS[place], row[place]
            if place in self._defined and not np.isfinite(value):
                return f"the {column} of the batch ({value})", mend
        for name, parameter in self.model.parameters.named.items():
            for kind, buffer in (("gradient of", parameter.grad), ("parameter", parameter.theta)):
                if not np.isfinite(self.model.backend.download(buffer.array)).all():
                    return f"the {kind} {name}", mend
        for name, array in self.arrays().items():
            places = np.flatnonzero(~np.isfinite(array))
            if not places.size:
                continue
            owner, _, state = name.partition("/")
            if owner == "objective":
                return f"the objective's '{state}'", mend
            parameter = next(p for p in self.model.parameters.named.values() if p.lo <= places[0] < p.hi)
            gradient = float(np.abs(self.model.backend.download(parameter.grad.array)).max())
            if mend == SMALLER_RATE:  # which would not help: the rate comes after it
                mend = "rescale the data, or take out a value far from the others, or use --precision float64"
            what = f"the optimizer's '{state}' of {parameter.name} (gradients reach {gradient:.3g})"
            return what, mend
        return None
