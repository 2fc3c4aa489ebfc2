"""Declared reads and writes of a training step: nothing is read before it is written, no two threads touch the same
memory, and what is declared is what happens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

from aevb_engine.objectives.base import COLUMNS
from aevb_engine.objectives.iwae import Iwae
from aevb_engine.operation import Buffer, Operation, Rows, custom
from aevb_engine.training.step import shares

KINDS = (
    ("bernoulli", (5,)),
    ("gaussian linear per_dim none", ()),
    ("codes", (5,)),
    ("bernoulli", ()),
    ("gaussian sigmoid affine -1", (5, 4)),
    ("scalar", (5,)),
)
CASES = [
    *(
        (name, likelihood, samples, hidden)
        for name, samples in (("elbo", 1), ("elbo", 3), ("elbo-mc", 2), ("iwae", 3))
        for likelihood, hidden in KINDS
    ),
    *(
        (name, likelihood, samples, hidden)
        for name, samples in (("beta", 2), ("autoencoder", 1), ("wake-sleep", 2), ("mcem", 2))
        for likelihood, hidden in KINDS[:3]
    ),
    *(("autoencoder squared", likelihood, 1, hidden) for likelihood, hidden in KINDS[:2]),
]
OPTIONS = {"autoencoder squared": {"loss": "squared"}, "mcem": {"leapfrogs": 2, "updates": 3}}
# Filled while building or by the host; a step only reads them, except that it moves the clock on.
HOST = {"data", "step", "cursor", "row", "orders", "rates"}
CONSTANT = {"ones", "sample ones", "sleep ones", "hmc one", "hmc beta", "hmc rate"}
STATE = {"hmc chains", "hmc step size"}  # kept from step to step
UNDEFINED = {"bound", "kl"}  # constant where the objective has none


@pytest.fixture(params=CASES, ids=lambda c: "-".join(map(str, c)))
def step(request: pytest.FixtureRequest, make_step: Any, make_likelihood: Any) -> Iterator[Any]:
    words, likelihood, samples, hidden = request.param
    built = make_step(
        words.split()[0],
        make_likelihood(likelihood),
        samples=samples,
        hidden=hidden,
        threads=2,
        precision="float64",
        options=OPTIONS.get(words),
    )
    built.fill()
    yield built.step
    built.step.backend.close()


def operations(step: Any) -> list[Operation]:
    """All of a step (of the first on its batch), in the order of one thread."""
    rows, last = (step.visit, step.leave) if step.program.visit else (step.rows, step.last)
    return [*step.first, *rows, *(op for part in step.parameters for op in part), *last]


def lasting(step: Any) -> set[str]:
    """Buffers whose content outlives a step, by meaning: constants, state, and columns that the objective lacks."""
    defined = set(step.objective.columns)
    weights = {"weight"} if step.objective.summary != Iwae.summary else set()
    return CONSTANT | HOST | STATE | (UNDEFINED - defined) | weights


def overlap(a: Any, b: Any) -> bool:
    """Whether two arrays share a byte, exactly."""
    return bool(np.may_share_memory(a, b)) and bool(np.shares_memory(a, b))


# Read before written ----------------------------------------------------------------------------------------


class Shadow:
    """For each byte of each allocation, whether the step has written it."""

    def __init__(self) -> None:
        self._bases: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def view(self, array: np.ndarray) -> np.ndarray:
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        _, bytes_ = self._bases.setdefault(id(base), (base, np.zeros(base.nbytes, np.uint8)))
        offset = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        return np.ndarray(array.shape, array.dtype, bytes_.data, offset, array.strides)

    def write(self, array: np.ndarray) -> None:
        self.view(array)[...] = 1

    def written(self, array: np.ndarray) -> bool:
        return bool((self.view(array) == 1).all())


def unwritten_reads(step: Any) -> list[str]:
    """Buffers that an operation reads before all of them was written in this step."""
    constant = lasting(step)
    shadow = Shadow()
    for array in (step.model.parameters.theta, *step.state):
        shadow.write(array)
    problems = []
    for op in operations(step):
        early = (b for b in op.reads if b.storage not in constant and not shadow.written(b.array))
        problems += [f"{op.name} reads {b.name} before it is written" for b in early]
        for buffer in op.writes:
            shadow.write(buffer.array)
            if buffer.storage in constant - STATE - {"cursor", "step"}:
                problems.append(f"{op.name} writes the constant {buffer.name}")
    return problems


def test_every_read_was_written_before(step: Any) -> None:
    assert not unwritten_reads(step)


def test_what_a_batch_leaves_for_its_next_update_is_state(make_step: Any, make_likelihood: Any) -> None:
    """The steps between two visits read nothing of the visit but state."""
    step = make_step("mcem", make_likelihood("bernoulli"), samples=2).step
    reads = {b.storage for op in step.rows for b in op.reads}
    visited = {b.storage for op in step.visit[: -len(step.program.rows)] for b in op.writes}
    rewritten = {b.storage for op in step.rows for b in op.writes} | {b.storage for op in step.first for b in op.writes}
    assert reads & visited - rewritten == {"hmc z"} <= {b.storage for b in step.program.state.values()}


def test_the_step_does_not_depend_on_what_buffers_held(step: Any) -> None:
    """NaN in every buffer that is not a constant, and the step is as finite as ever."""
    kept = lasting(step)
    for name, buffer in step.ws.buffers.items():
        if name not in kept:
            _poison(buffer.array)
    step.model.parameters.grad[...] = np.nan
    step.run(1)
    defined = [name in step.objective.columns for name in COLUMNS]
    assert np.isfinite(step.clock.metrics.array[0][defined]).all()
    assert np.isfinite(step.model.parameters.theta).all()


# Threads ----------------------------------------------------------------------------------------------------


def row_hazards(rows: list[Operation], batch: int, threads: int) -> list[str]:
    """Operations of the rows phase that could meet in another thread's share."""
    problems = []
    cut = shares(batch, threads)
    written = [b for op in rows for b in op.writes]
    for op in rows:
        for buffer in op.writes:
            if not buffer.per_point:
                problems.append(f"{op.name} writes {buffer.name}, which is not split by rows")
            for a, b in product(cut, cut):
                if a.lo < b.lo and overlap(buffer.view(a), buffer.view(b)):
                    problems.append(f"{op.name}: two shares of {buffer.name} overlap")
        for buffer, other in product(op.reads, written):
            for a, b in product(cut, cut):
                if a.lo != b.lo and overlap(buffer.view(a), other.view(b)):
                    problems.append(f"{op.name} reads {buffer.name}, which another thread writes")
    return problems


def part_hazards(parts: list[list[Operation]]) -> list[str]:
    """Operations of different threads in the parameter phase that touch the same memory, one of them writing."""
    problems = []
    for i, j in product(range(len(parts)), repeat=2):
        if i == j:
            continue
        for mine, theirs in product(parts[i], parts[j]):
            for written, other in product(mine.writes, (*theirs.writes, *theirs.reads)):
                if overlap(written.array, other.array):
                    problems.append(f"{mine.name} writes {written.name} beside {theirs.name} with {other.name}")
    return problems


def test_threads_do_not_meet_in_the_rows(step: Any) -> None:
    for rows in (step.rows, step.visit):
        assert not row_hazards(rows, step.ws.batch, 2)
        assert not row_hazards(rows, step.ws.batch, 3)


def test_threads_do_not_meet_in_the_parameters(step: Any) -> None:
    assert len(step.parameters) == 2
    assert not part_hazards(step.parameters)


def test_every_parameter_is_updated_once(step: Any) -> None:
    count = np.zeros(step.model.parameters.size, int)
    graded = np.zeros(step.model.parameters.size, int)
    theta, grad = step.model.parameters.theta, step.model.parameters.grad
    for part in step.parameters:
        for op in part:
            for buffer in op.writes:
                for flat, counter in ((theta, count), (grad, graded)):
                    if overlap(flat, buffer.array):
                        start = buffer.array.__array_interface__["data"][0] - flat.__array_interface__["data"][0]
                        lo = start // flat.itemsize
                        counter[lo : lo + buffer.array.size] += 1
    trained = np.ones(count.size, bool)
    if not step.objective.has_encoder:  # whose parameters are left alone
        for name, p in step.model.parameters.named.items():
            trained[p.lo : p.hi] = not name.startswith("encoder")
        assert not trained.all()
    np.testing.assert_array_equal(count, trained)
    np.testing.assert_array_equal(graded, 2 * trained)  # by its kernel, and by the optimizer that may overwrite it


# Declared is what happens -----------------------------------------------------------------------------------


def _poison(array: np.ndarray) -> None:
    array[...] = np.nan if array.dtype.kind == "f" else np.ones((), array.dtype)


def _memory(step: Any) -> dict[str, np.ndarray]:
    """Every array that an operation might touch."""
    found = {name: b.array for name, b in step.ws.buffers.items()}
    found["theta"], found["grad"] = step.model.parameters.theta, step.model.parameters.grad
    found.update((f"state {i}", s) for i, s in enumerate(step.state))
    for op in operations(step):
        found.update((b.storage, b.array) for b in op.reads if b.storage == "data")
    return found


def _mask(array: np.ndarray, buffers: tuple[Buffer, ...]) -> np.ndarray:
    """Which elements of an allocation belong to one of the buffers."""
    marks = np.zeros(array.nbytes, np.uint8)
    start = array.__array_interface__["data"][0]
    for buffer in buffers:
        if overlap(array, buffer.array):
            offset = buffer.array.__array_interface__["data"][0] - start
            view = np.ndarray(buffer.array.shape, buffer.array.dtype, marks.data, offset, buffer.array.strides)
            view.view(np.uint8 if view.dtype == bool else view.dtype)[...] = 1
    return np.ndarray(array.shape, array.dtype, marks.data) != 0


def _is_scratch(buffer: Buffer) -> bool:
    return any(word.startswith("scratch") for word in buffer.name.split())


def dishonesty(op: Operation, memory: dict[str, np.ndarray], batch: int) -> list[str]:
    """What an operation changes without declaring it, and what it uses without declaring it."""
    problems = []
    before = {name: array.copy() for name, array in memory.items()}
    with np.errstate(all="ignore"):
        op.bind(np, Rows(0, batch))()
    after = {name: array.copy() for name, array in memory.items()}
    for name, array in memory.items():
        changed = (after[name] != before[name]) & ~((after[name] != after[name]) & (before[name] != before[name]))
        if (changed & ~_mask(array, op.writes)).any():
            problems.append(f"{op.name} changes {name}")
    for name, array in memory.items():
        array[...] = before[name]
        used = _mask(array, op.reads) | (name == "metrics")  # a step fills one row of the block's metrics
        poisoned = array.copy()
        _poison(poisoned)
        array[...] = np.where(used, array, poisoned)
    with np.errstate(all="ignore"):
        try:
            op.bind(np, Rows(0, batch))()
        except IndexError:
            problems.append(f"{op.name} uses an index that it does not declare")
    for name, array in memory.items():
        told = _mask(array, tuple(b for b in op.writes if not _is_scratch(b)))
        if told.any() and not np.array_equal(array[told], after[name][told], array.dtype.kind == "f"):
            problems.append(f"{op.name} writes {name} from something that it does not declare")
        array[...] = after[name]
    return problems


def test_declared_reads_and_writes_are_honest(step: Any) -> None:
    memory = _memory(step)
    problems = [p for op in operations(step) for p in dishonesty(op, memory, step.ws.batch)]
    assert not problems


def test_dynamic_binarization_is_honest(make_step: Any, make_likelihood: Any) -> None:
    built = make_step("elbo", make_likelihood("bernoulli"), dynamic=True, threads=2, precision="float64")
    built.fill()
    step = built.step
    assert not unwritten_reads(step)
    assert not row_hazards(step.rows, step.ws.batch, 2)
    memory = _memory(step)
    assert not [p for op in operations(step) for p in dishonesty(op, memory, step.ws.batch)]


# Each check can fail ----------------------------------------------------------------------------------------


@pytest.fixture
def small(make_step: Any, make_likelihood: Any) -> Any:
    built = make_step("iwae", make_likelihood("bernoulli"), samples=2, threads=2, precision="float64")
    built.fill()
    return built.step


def test_a_read_before_its_write_is_seen(small: Any) -> None:
    small.rows.reverse()
    assert any("reads z before" in p for p in unwritten_reads(small))


def test_half_a_write_is_seen(small: Any) -> None:
    for i, op in enumerate(small.rows):
        if op.name == "reparameterize_backward":
            small.rows[i] = dataclasses.replace(op, writes=op.writes[:2])  # dlogvar is no longer said to be written
    assert any("dlatent" in p for p in unwritten_reads(small))


def test_a_write_that_is_not_split_is_seen(small: Any) -> None:
    def nothing(xp: Any, rows: Rows) -> Any:
        return lambda: None

    table = small.ws.table("planted", 3)
    assert row_hazards([custom("planted", nothing, (), (table,))], small.ws.batch, 2)
    assert row_hazards([custom("planted", nothing, (table,), (table,))], small.ws.batch, 2)


def test_a_read_of_other_rows_is_seen(small: Any) -> None:
    def nothing(xp: Any, rows: Rows) -> Any:
        return lambda: None

    bound = small.ws.one("bound")
    shared = Buffer("bound", bound.array)  # the whole array, whatever the share
    planted = [custom("writes", nothing, (), (bound,)), custom("reads", nothing, (shared,), (small.ws.one("kl"),))]
    assert any("another thread writes" in p for p in row_hazards(planted, small.ws.batch, 2))


def test_threads_that_meet_are_seen(small: Any) -> None:
    parts = small.parameters
    assert part_hazards([parts[0], [*parts[1], parts[0][0]]])
    assert part_hazards([parts[0], [*parts[1], custom("planted", parts[0][0].bind, parts[0][0].writes, ())]])


@pytest.mark.parametrize("kind", ["reads", "writes"])
def test_what_is_not_declared_is_seen(small: Any, kind: str) -> None:
    memory = _memory(small)
    seen = []
    for op in operations(small):
        less = dataclasses.replace(op, **{kind: ()})
        if getattr(op, kind) and not all(map(_is_scratch, op.writes)):
            seen.append(bool(dishonesty(less, memory, small.ws.batch)))
        else:
            dishonesty(op, memory, small.ws.batch)
    assert sum(seen) >= 0.9 * len(seen) > 10
