"""One training step as a list of operations, by phase, bound to a backend.

    advance -> gather -> noise -> encoder -> reparameterize -> decoder -> likelihood and gradient -> backward (rows)
    -> parameter gradients and optimizer (parameters) -> metrics

Whatever changes between steps lives in small tables that the host fills for a block of steps: the rows of each batch
and the optimizer's coefficients. ``cursor`` is the place in the block.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from aevb_engine import jit
from aevb_engine.backend.base import Backend, Call, Plan, Replay
from aevb_engine.blame import fault
from aevb_engine.errors import BackendError
from aevb_engine.kernels.gather import gather, gather_bernoulli
from aevb_engine.kernels.noise import Noise
from aevb_engine.kernels.philox import key, stream_id
from aevb_engine.model.mlp import GradientPiece
from aevb_engine.model.model import Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.objectives import built, objective
from aevb_engine.objectives.base import Objective
from aevb_engine.objectives.program import Feed, Pass
from aevb_engine.operation import Buffer, Operation, Rows, custom, operation
from aevb_engine.rewrite import read_by
from aevb_engine.sampling.noise import normal_noise
from aevb_engine.training.optimizer import Optimizer
from aevb_engine.training.pruning import select_columns

BLOCK = 50  # steps between two looks of the host
REPLAYED_BLOCK = 500  # where a step takes microseconds; the loop takes fewer of long steps
LARGEST_BLOCK = 5000  # of the persistent path: an epoch in one launch
CHUNK = 1 << 16  # parameters an optimizer pass takes at a time: gradient, state and scratch stay in the cache


@dataclass(frozen=True)
class ResidentRows:
    """Resident data: rows (N, D), their scale, and whether each step draws them anew from intensities."""

    data: Buffer
    scale: float = 1.0
    dynamic: bool = False


def resident(model: Model, rows: Any, scale: float = 1.0, dynamic: bool = False) -> ResidentRows:
    """Host rows (N, D), of which ``scale * row`` are the data, on the model's backend as the model reads them."""
    units = model.likelihood.units
    if units is not None:
        data, scale = units.inward(rows, model.dtype, scale), 1.0
    else:
        data = rows if rows.dtype == np.uint8 else rows.astype(model.dtype, copy=False)
    return ResidentRows(Buffer("data", model.backend.upload(data)), scale, dynamic)


class Clock:
    """The small arrays that change between steps."""

    def __init__(self, ws: Workspace, block: int, coefficients: int, extra: int = 0) -> None:
        """``coefficients`` numbers of the optimizer and ``extra`` of the objective behind them."""
        width = max(1, coefficients) + extra
        self.step = ws.table("step", 1, dtype=np.int64)  # steps done before this one
        self.cursor = ws.table("cursor", 1, dtype=np.int64)
        self.row = ws.table("row", 1, dtype=np.int64)  # number of the batch's first row in the noise
        self.orders = ws.table("orders", block, ws.batch, dtype=np.int64)
        self.rates = ws.table("rates", block, width)
        # First what the host has to know of the block: whether all is finite, and what the path notes.
        self.report = ws.table("metrics", 1 + block, 3, dtype=np.float64)
        self.metrics = self.report.part(slice(1, None))
        self.index = ws.one("index", dtype=np.int64)
        self.coef = ws.table("coef", width)
        self.extra = self.coef.part(slice(width - extra, None))


def read_batch(ws: Workspace, clock: Clock, x: Buffer, rows: ResidentRows, seed: int) -> list[Operation]:
    """x (B, D) from the resident rows named by ``index``."""
    data = rows.data
    width = x.array.shape[1]
    same = data.array.dtype == x.array.dtype
    taken = x if same else ws.one("taken", width, dtype=data.array.dtype)
    if not rows.dynamic:
        return [operation(gather, data, clock.index, rows.scale, taken, x)]
    if ws.backend.xp is np and jit.available():
        loop = _gather_bernoulli_loop(clock, data, x, seed)
        if loop is not None:
            return [loop]
    words = ws.one("binarize words", 4 * -(-width // 8), dtype=np.uint32)
    wide = ws.one("binarize wide", width, dtype=np.uint32)
    ones = ws.one("binarize ones", width, dtype=np.bool_)
    draw = _noise_words(clock, words, seed)
    return [draw, operation(gather_bernoulli, data, clock.index, words, taken, wide, ones, x)]


def _gather_bernoulli_loop(clock: Clock, data: Buffer, x: Buffer, seed: int) -> Operation | None:
    """The same bits in one compiled loop, without words in between; None where it does not compile."""
    from aevb_engine.kernels.noise_loop import gather_bernoulli_loop

    loop, words = gather_bernoulli_loop(), tuple(np.uint64(w) for w in (stream_id("binarize"), *key(seed)))
    if not jit.compiles(loop, data.array, clock.index.array, 0, 0, *words, x.array):
        return None

    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        out, index = x.view(rows), clock.index.view(rows)
        step, row = clock.step.array, clock.row.array
        return lambda: loop(data.array, index, int(step[0]), int(row[0]) + rows.lo, *words, out)

    return custom("gather_bernoulli", bind, (data, clock.index, clock.step, clock.row), (x,))


def _noise_words(clock: Clock, words: Buffer, seed: int) -> Operation:
    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        noise = Noise(xp, seed, "binarize")
        out = words.view(rows)[None]
        step, first = clock.step.array, clock.row.array

        return lambda: noise.words(int(step[0]), int(first[0]) + rows.lo, out)

    facts: dict[str, Any] = {"seed": seed, "stream": "binarize", "step": clock.step, "row": clock.row}
    return custom("binarize_words", bind, (clock.step, clock.row), (words,), **facts)


def draw_noise(clock: Clock, eps: Buffer, seed: int, stream: str, ahead: bool) -> Operation:
    """eps ~ N(0, 1) of this step (LX 4); ``ahead``: many steps at once, since each number depends on its step alone."""
    return normal_noise(clock.step, clock.row, eps, seed, stream, ahead)


def count_visits(clock: Clock, visit: Buffer, updates: int) -> Operation:
    """visit = step // updates: a batch that stays for several updates is drawn once."""

    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        step, out = clock.step.array, visit.array
        return lambda: xp.floor_divide(step, updates, out=out)

    return custom("count_visits", bind, (clock.step,), (visit,))


def advance(clock: Clock) -> Operation:
    """The block's tables to this step's rows and coefficients."""

    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        cursor, index, orders = clock.cursor.array, clock.index.array, clock.orders.array
        coef, rates = clock.coef.array, clock.rates.array

        def run() -> None:
            i = int(cursor[0])
            index[...] = orders[i]
            coef[...] = rates[i]

        return run

    facts = {n: getattr(clock, n) for n in ("cursor", "orders", "rates", "index", "coef")}
    return custom("advance", bind, (clock.cursor, clock.orders, clock.rates), (clock.index, clock.coef), **facts)


def record(ws: Workspace, clock: Clock) -> Operation:
    """Batch means of bound, reconstruction and kl into the block's metrics; step and cursor move on."""
    sources = tuple(ws.one(name) for name in ("bound", "reconstruction", "kl"))

    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        metrics, cursor, step = clock.metrics.array, clock.cursor.array, clock.step.array
        arrays = [s.array for s in sources]
        factor = 1 / ws.batch

        def run() -> None:
            i = int(cursor[0])
            for j, array in enumerate(arrays):
                metrics[i, j] = float(xp.add.reduce(array)) * factor
            cursor[0] += 1
            step[0] += 1

        return run

    facts = {n: getattr(clock, n) for n in ("metrics", "cursor", "step")}
    facts |= dict(zip(("bound", "reconstruction", "kl"), sources, strict=True))
    counters = (clock.cursor, clock.step)
    return custom("record", bind, (*sources, *counters), (clock.metrics, *counters), **facts)


def update_range(
    model: Model, optimizer: Optimizer, state: list[Any], clock: Clock, decay: float, lo: int, hi: int
) -> Operation:
    """The optimizer over parameters ``lo`` to ``hi``, with weight decay in the gradient."""
    theta, grad = model.parameters.theta, model.parameters.grad

    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        if xp is np and jit.available() and optimizer.scalar is not None and len(state) <= 2:
            if not hasattr(optimizer.scalar, "__code__"):
                raise fault(optimizer, f"scalar is {optimizer.scalar!r}; a function is needed")
            loop = jit.update_loop(optimizer.scalar, len(state))
            coef, given = clock.coef.array, (theta.dtype.type(decay), theta[lo:hi], *(s[lo:hi] for s in state))
            if jit.compiles(loop, grad[lo:hi], tuple(coef), *given, of=optimizer):
                # As numbers, not as an array: what might change inside the loop would keep it from being vectorized.
                return lambda: loop(grad[lo:hi], tuple(coef), *given)
        work = [xp.empty(min(CHUNK, hi - lo), dtype=theta.dtype) for _ in range(max(1, optimizer.scratch))]
        coef = clock.coef.array
        factor = theta.dtype.type(decay)
        chunks = []
        for a in range(lo, hi, CHUNK):
            b = min(a + CHUNK, hi)
            scratch = [w[: b - a] for w in work]
            chunks.append((grad[a:b], scratch, theta[a:b], [s[a:b] for s in state]))

        def run() -> None:
            for g, scratch, t, s in chunks:
                if decay:
                    xp.multiply(t, factor, out=scratch[0])
                    xp.add(g, scratch[0], out=g)
                optimizer.update(xp, g, coef, scratch, t, *s)

        return run

    part = slice(lo, hi)
    whole = weights, gradient = Buffer("theta", theta).part(part), Buffer("grad", grad).part(part)
    states = tuple(Buffer(n, s).part(part) for n, s in zip(optimizer.state, state, strict=True))
    facts = {"optimizer": optimizer, "theta": whole[0], "grad": whole[1], "state": states, "coef": clock.coef}
    reads = (*whole, *states, clock.coef)
    return custom("update", bind, reads, (weights, *states), (gradient,), decay=decay, **facts)


def shares(batch: int, threads: int) -> list[Rows]:
    """A batch cut into equal shares of rows."""
    edges = [batch * t // threads for t in range(threads + 1)]
    return [Rows(lo, hi) for lo, hi in pairwise(edges) if hi > lo]


def parts(pieces: list[GradientPiece], threads: int) -> list[list[tuple[GradientPiece, int, int]]]:
    """The flat vector cut into ranges of about equal work, at rows of parameters: one list of pieces a thread."""
    ordered = sorted(pieces, key=lambda p: p.parameter.lo)
    total = sum(p.rows * p.cost for p in ordered)
    out: list[list[tuple[GradientPiece, int, int]]] = [[] for _ in range(threads)]
    done = 0
    thread = 0
    for piece in ordered:
        lo = 0
        while lo < piece.rows:
            room = (thread + 1) * total / threads - done
            rows = piece.rows - lo
            if thread < threads - 1:
                rows = min(rows, int(room // piece.cost))
            if rows <= 0:
                thread += 1
                continue
            out[thread].append((piece, lo, lo + rows))
            done += rows * piece.cost
            lo += rows
    return [part for part in out if part]


class TrainingStep:
    """The bound step: ``fill`` the tables for a block, then ``run`` some of it.

    A step is one update of the weights. Under an objective of several updates a batch, ``visit`` replaces ``rows``
    and ``leave`` replaces ``last`` in the first step on each batch.
    """

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        data: ResidentRows,
        *,
        objective_name: str | Objective,
        batch: int,
        samples: int,
        seed: int,
        decay: float = 0.0,
        threads: int = 1,
        plan: Plan | None = None,
        columns: Any = None,
    ) -> None:
        """``columns``: those of the data that a model with a narrower encoder reads."""
        self.model = model
        self.plan = plan = plan or Plan()
        self.warnings: list[str] = []  # one where the plan's path cannot run
        backend: Backend = model.backend
        self.backend = backend
        self.ws = ws = Workspace(backend, batch, samples, model.dtype)
        self.state = [backend.empty((model.parameters.size,), model.dtype) for _ in optimizer.state]
        self.optimizer = optimizer
        self.objective = chosen = objective(objective_name)
        extra = len(_numbers(chosen, chosen.coefficients(1)))
        count = int(data.data.array.shape[0])
        self.block = block_length(plan.path, count * chosen.updates // batch)
        own = len(_numbers(optimizer, optimizer.coefficients(1, 1.0)))
        self._widths = own, extra
        self.clock = clock = Clock(ws, self.block, own, extra)
        batch_pass = Pass(model, ws, gradient=True)
        batch_pass.noise = [draw_noise(clock, batch_pass.eps, seed, "noise", ahead=True)]
        self.first = [advance(clock)]
        drawn = clock  # its step counts batches
        if chosen.updates > 1:
            drawn = copy.copy(clock)
            drawn.step = ws.table("visit", 1, dtype=np.int64)
            self.first.append(count_visits(clock, drawn.step, chosen.updates))
        batch_pass.feed = Feed(count, seed, clock.index, drawn.step, clock.row, clock.extra)
        self.program = built(chosen, batch_pass)
        program = self.program
        self.first += program.prepare
        read = read_batch(ws, drawn, batch_pass.x, data, seed)
        if columns is not None:
            read.append(select_columns(batch_pass.x, columns, batch_pass.encoder_input))
        self.rows = [*read, *program.rows]
        self.visit = [*read, *program.visit, *program.rows]
        self.last = [record(ws, clock)]
        self.leave = [*program.leave, *self.last]
        everything = Rows(0, batch)
        self.parameters: list[list[Operation]] = []
        for part in parts(program.pieces, threads):
            operations = [piece.make(lo, hi) for piece, lo, hi in part]
            lo, hi = _range(part)
            operations.append(update_range(model, optimizer, self.state, clock, decay, lo, hi))
            self.parameters.append(operations)
        self.phases: list[list[list[Call]]] = []
        self.visit_phases = self.phases
        self.replay: Replay | None = None  # of every step, in place of the phases
        if plan.path != "eager":
            self._replay(everything)
        if self.replay is None:
            self._bind(everything, shares(batch, threads))

    def _bind(self, everything: Rows, row_shares: list[Rows]) -> None:
        """Every phase, call by call."""
        program = self.program

        def bind(operations: list[Operation], share: Rows) -> list[Call]:
            return self.backend.bind(operations, share, self.plan.products, self.read_elsewhere(operations))

        update = [bind(part, everything) for part in self.parameters]

        def phases(rows: list[Operation], last: list[Operation]) -> list[list[list[Call]]]:
            bound = [bind(rows, share) for share in row_shares]
            return [[bind(self.first, everything)], bound, update, [bind(last, everything)]]

        self.phases = phases(self.rows, self.last)
        self.visit_phases = phases(self.visit, self.leave) if program.visit or program.leave else self.phases

    def read_elsewhere(self, operations: list[Operation]) -> list[Buffer]:
        """What the step's other lists and the host read: a rule may not leave it out of ``operations``."""
        return [*self._kept, *(b for other, read in self._reads if other is not operations for b in read)]

    @cached_property
    def _reads(self) -> list[tuple[list[Operation], list[Buffer]]]:
        """The step's lists, each with what it reads."""
        lists = [self.first, self.rows, self.visit, *self.parameters, self.last, self.leave]
        return [(operations, read_by([operations])) for operations in lists]

    def _replay(self, everything: Rows) -> None:
        """The whole step on the plan's path; where it cannot run, an error or a warning and the eager path."""
        try:
            if self.objective.updates > 1:
                raise BackendError(f"trainer {self.plan.path}: the objective uses a batch for several steps")
            self.replay = self.backend.replay(self.plan, self._visiting, everything, self._kept)
        except BackendError as error:
            if self.plan.strict:
                raise BackendError(f"{error}; {self.plan.strict}") from error
            self.warnings.append(f"{error}; the steps run eagerly")
            self.plan = replace(self.plan, path="eager")
            self.block = min(self.block, BLOCK)

    def coefficients(self, step: int, lr: float) -> list[float]:
        """A row of the table of rates: the numbers of the optimizer, then of the objective; steps count from 1."""
        own, extra = self._widths
        numbers = _numbers(self.optimizer, self.optimizer.coefficients(step, lr), own) or (0.0,)
        return [*numbers, *_numbers(self.objective, self.objective.coefficients(step), extra)]

    def run(self, times: int, first: int = 0) -> None:
        """Run ``times`` steps of the block; ``first``: steps done before, which tells where a batch begins."""
        updates = self.objective.updates
        if self.replay is not None:
            self.replay.run(times)
            return
        if updates == 1:
            self._run_visit(times)
            return
        done = 0
        while done < times:
            place = (first + done) % updates
            count = 1 if place == 0 else min(updates - place, times - done)
            (self._run_visit if place == 0 else self._run_others)(count)
            done += count

    @cached_property
    def _run_visit(self) -> Callable[[int], None]:
        """Steps that each are the first on their batch."""
        return self.backend.repeat(self.visit_phases, self._visiting)

    @cached_property
    def _run_others(self) -> Callable[[int], None]:
        return self.backend.repeat(self.phases, [*self.first, *self.rows, *self._updates, *self.last])

    @property
    def _kept(self) -> list[Buffer]:
        """What the host reads between steps, beside parameters and the optimizer's state."""
        return [*self.program.state.values(), self.clock.report]

    @property
    def _visiting(self) -> list[Operation]:
        """A whole step that is the first on its batch."""
        return [*self.first, *self.visit, *self._updates, *self.leave]

    @property
    def _updates(self) -> list[Operation]:
        return [operation for part in self.parameters for operation in part]

    @property
    def carried(self) -> list[Any]:
        """What lives from step to step: parameters, the optimizer's and the objective's state."""
        return [self.model.parameters.theta, *self.state, *(b.array for b in self.program.state.values())]

    def report(self) -> None:
        """After the steps of a block: the head of its report, without waiting for it."""
        head = self.clock.report.array
        with np.errstate(all="ignore"):
            head[:1, 0] = sum(_witness(self.backend.xp, array) for array in self.carried)
        if self.replay is not None:
            self.replay.note(head[:1, 1:2])

    def check(self, head: Any) -> bool:
        """The head of the report, read by the host: whether all that is carried is finite.

        BackendError for lost steps.
        """
        if self.replay is not None:
            self.replay.check(float(head[1]))
        # The witness of finite numbers may overflow: then they are looked at.
        return bool(np.isfinite(head[0])) or all(bool(self.backend.xp.isfinite(a).all()) for a in self.carried)


def _witness(xp: Any, array: Any) -> Any:
    """A number that is not finite where one of the array is not.

    On the CPU the sum of squares: BLAS has it in a third of the time of the sum.
    """
    if xp is not np:
        return array.sum()
    flat = array.reshape(-1)
    return np.dot(flat, flat)


def _numbers(plugin: Optimizer | Objective, given: Any, count: int | None = None) -> tuple[float, ...]:
    """What ``coefficients`` has given; BackendError where it is no numbers, or not as many as at the start."""
    try:
        numbers = tuple(float(number) for number in given)
    except (TypeError, ValueError):
        numbers = None
    if numbers is None or (count is not None and len(numbers) != count):
        wanted = "numbers" if count is None else f"{count} numbers, as for the first step,"
        raise fault(plugin, f"coefficients returns {given!r}; {wanted} are needed")
    return numbers


def block_length(path: str, epoch: int) -> int:
    """Steps between two looks of the host, at most; an epoch has ``epoch`` steps."""
    if path == "persistent":
        return max(REPLAYED_BLOCK, min(epoch, LARGEST_BLOCK))
    return REPLAYED_BLOCK if path == "graph" else BLOCK


def _range(part: list[tuple[GradientPiece, int, int]]) -> tuple[int, int]:
    """The flat range that a thread's pieces cover."""

    def edge(piece: GradientPiece, row: int) -> int:
        p = piece.parameter
        return p.lo + (p.hi - p.lo) // piece.rows * row

    (first, lo, _), (last, _, hi) = part[0], part[-1]
    return edge(first, lo), edge(last, hi)
