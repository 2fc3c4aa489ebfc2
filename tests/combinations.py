"""Every objective with every decoder, without, with one and with two hidden layers, with one and with more samples.

One training step of each, as array code and as a backend's items in its place: what is left out, and whether all else
is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aevb_engine.memory import Place, Touched
from aevb_engine.operation import Operation, Rows
from aevb_engine.rewrite import read_by
from aevb_engine.training.step import TrainingStep
from aevb_plugins.optimizers.sgd import Sgd
from tests.cuda_on_cpu.catalog import likelihoods

OBJECTIVES: dict[str, dict[str, Any]] = {
    "elbo": {},
    "elbo-mc": {},
    "iwae": {},
    "beta": {"beta": 2.0, "warmup": 3},
    "autoencoder": {},
    "autoencoder squared": {"loss": "squared"},
    "wake-sleep": {},
    "mcem": {"leapfrogs": 2, "updates": 2},
}
SHORT = ("bernoulli", "gaussian")  # decoders of one and of two heads, of scale 1/2 and 1
DEPTHS: tuple[tuple[int, ...], ...] = ((), (4,), (5, 3))
BATCH = 6
PASSING = {"dz"}  # changed in place on the way back, or used as it would be
STEPS = 3  # of mcem the third is on a batch of its own


@dataclass(frozen=True)
class Combination:
    objective: str
    decoder: str
    hidden: tuple[int, ...]
    samples: int

    def __str__(self) -> str:
        return f"{self.objective} {self.decoder} {len(self.hidden)} layers {self.samples} samples"


def _every() -> Iterator[Combination]:
    for objective in OBJECTIVES:
        for decoder in likelihoods():
            if decoder in ("codes", "laplace") and objective in ("wake-sleep", "autoencoder squared"):
                continue  # the one cannot sample, neither offers mean_backward
            for hidden in DEPTHS:
                for samples in (1,) if "autoencoder" in objective else (1, 3):
                    yield Combination(objective, decoder, hidden, samples)


EVERY = list(_every())


class Run:
    """Steps of a combination, with ``lower`` (operations, read) -> items in place of its lists where it is given."""

    def __init__(self, c: Combination, make_step: Any, precision: str) -> None:
        options = OBJECTIVES[c.objective]
        self.stepper = make_step(
            c.objective.split()[0],
            likelihoods()[c.decoder],
            optimizer=Sgd(),
            hidden=c.hidden,
            samples=c.samples,
            precision=precision,
            options=options,
            dim=7,
            rows=20,
            batch=BATCH,
        )
        self.step: TrainingStep = self.stepper.step
        self.updates = self.step.objective.updates
        self.stepper.fill()
        step = self.step
        (parameters,) = step.parameters
        self.lists = [step.first, step.visit, step.rows, parameters, step.leave, step.last]

    def whole(self, number: int) -> list[list[Operation]]:
        """The lists of step ``number`` in order."""
        first, visit, rows, parameters, leave, last = self.lists
        return [first, visit, parameters, leave] if number % self.updates == 0 else [first, rows, parameters, last]

    def read(self, operations: Sequence[Operation]) -> list[Any]:
        """What others than a list of the step read of what it writes."""
        return [*self.step._kept, *read_by(other for other in self.lists if other is not operations)]

    def arrays(self) -> dict[str, Any]:
        """All that a step leaves."""
        step = self.step
        found = {name: buffer.array for name, buffer in step.ws.buffers.items()}
        found |= {f"state {name}": state for name, state in zip(step.optimizer.state, step.state, strict=True)}
        return found | {"theta": step.model.parameters.theta, "grad": step.model.parameters.grad}


def plain(c: Combination, make_step: Any, precision: str) -> dict[str, Any]:
    """The arrays after some steps of array code."""
    run = Run(c, make_step, precision)
    calls = {id(ops): [op.bind(np, Rows(0, BATCH)) for op in ops] for ops in run.lists}
    with np.errstate(all="ignore"):
        for number in range(STEPS):
            for operations in run.whole(number):
                for call in calls[id(operations)]:
                    call()
    return run.arrays()


def left_out(lists: Sequence[Sequence[Operation]], items: Sequence[Touched]) -> list[Any]:
    """Arrays that the operations write, and none of the items finishes."""
    finished = [p for item in items for p in item.writes if not p.touches(item.unfinished)]
    buffers = [b for operations in lists for op in operations for b in op.writes]
    return [b for b in buffers if not b.place.within(finished)]


def reads_of(missing: Sequence[Any], items: Sequence[Touched]) -> list[str]:
    """What the items read of arrays that are missing, but for products whose bias is added where they are read."""
    places = [(buffer.name, buffer.place) for buffer in missing]
    found: list[str] = []
    products: list[Place] = []
    for item in items:
        reads = [place for place in item.reads if not place.within(products)]
        found += [name for name, place in places if place.touches(reads)]
        products += item.unfinished
    return found


def agree(
    c: Combination,
    expected: dict[str, Any],
    run: Run,
    missing: Sequence[Sequence[Any]],
    calls: Sequence[Sequence[Callable[[], None]]],
    within: float,
) -> None:
    """The calls of some steps, with NaN in all that they leave out, leave what array code leaves.

    ``missing`` and ``calls`` of each update on a batch; ``within``: of the largest number of an array.
    """
    absent = {b.storage: b.array for b in missing[0] if all(any(b is o for o in others) for others in missing)}
    with np.errstate(all="ignore"):
        for number in range(STEPS):
            for array in absent.values():
                if array.dtype.kind == "f":
                    array[...] = np.nan
            for call in calls[number % run.updates]:
                call()
    operations = [op for part in run.lists for op in part]
    scratch = {b.storage for op in operations for b in op.scratch}
    meant = {b.storage for op in operations for b in op.writes if all(b is not s for s in op.scratch)}
    for name, array in run.arrays().items():
        if name not in absent and name not in PASSING and name not in scratch - meant:
            numbers = expected[name][np.isfinite(expected[name])] if array.dtype.kind == "f" else expected[name]
            bound = within * np.abs(numbers.astype(np.float64)).max(initial=1e-3)
            np.testing.assert_allclose(array, expected[name], rtol=0, atol=bound, err_msg=f"{c}: {name}")
