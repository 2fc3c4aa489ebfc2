"""One training step as a list of operations, by phase, bound to a backend.

    advance -> gather -> noise -> encoder -> reparameterize -> decoder -> likelihood and gradient -> backward (rows)
    -> parameter gradients and optimizer (parameters) -> metrics

Whatever changes between steps lives in small tables that the host fills for a block of steps: the rows of each batch
and the optimizer's coefficients. ``cursor`` is the place in the block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from aevb_engine import jit
from aevb_engine.backend.base import Backend
from aevb_engine.kernels.gather import gather, gather_bernoulli
from aevb_engine.kernels.noise import Noise
from aevb_engine.kernels.philox import key, stream_id
from aevb_engine.model.mlp import GradientPiece
from aevb_engine.model.model import Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.objectives import objective
from aevb_engine.objectives.program import Pass, Program
from aevb_engine.operation import Buffer, Operation, Rows, custom, operation
from aevb_engine.sampling.noise import normal_noise
from aevb_engine.training.optimizer import Optimizer

BLOCK = 50  # steps between two looks of the host
CHUNK = 1 << 15  # parameters an optimizer pass takes at a time: gradient, state and scratch stay in the cache


@dataclass(frozen=True)
class ResidentRows:
    """Resident data: rows (N, D), their scale, and whether each step draws them anew from intensities."""

    data: Buffer
    scale: float = 1.0
    dynamic: bool = False


class Clock:
    """The small arrays that change between steps."""

    def __init__(self, ws: Workspace, block: int, coefficients: int) -> None:
        self.step = ws.table("step", 1, dtype=np.int64)  # steps done before this one
        self.cursor = ws.table("cursor", 1, dtype=np.int64)
        self.row = ws.table("row", 1, dtype=np.int64)  # number of the batch's first row in the noise
        self.orders = ws.table("orders", block, ws.batch, dtype=np.int64)
        self.rates = ws.table("rates", block, max(1, coefficients))
        self.metrics = ws.table("metrics", block, 3, dtype=np.float64)
        self.index = ws.one("index", dtype=np.int64)
        self.coef = ws.table("coef", max(1, coefficients))


def read_batch(ws: Workspace, clock: Clock, x: Buffer, rows: ResidentRows, seed: int) -> list[Operation]:
    """x (B, D) from the resident rows named by ``index``."""
    data = rows.data
    width = x.array.shape[1]
    same = data.array.dtype == x.array.dtype
    taken = x if same else ws.one("taken", width, dtype=data.array.dtype)
    if not rows.dynamic:
        return [operation(gather, data, clock.index, rows.scale, taken, x)]
    if ws.backend.xp is np and jit.available():
        return [_gather_bernoulli_loop(clock, data, x, seed)]
    words = ws.one("binarize words", 4 * -(-width // 8), dtype=np.uint32)
    wide = ws.one("binarize wide", width, dtype=np.uint32)
    ones = ws.one("binarize ones", width, dtype=np.bool_)
    draw = _noise_words(clock, words, seed)
    return [draw, operation(gather_bernoulli, data, clock.index, words, taken, wide, ones, x)]


def _gather_bernoulli_loop(clock: Clock, data: Buffer, x: Buffer, seed: int) -> Operation:
    """The same bits in one compiled loop, without words in between."""

    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        from aevb_engine.kernels.noise_loop import gather_bernoulli_loop

        loop, out, index = gather_bernoulli_loop(), x.view(rows), clock.index.view(rows)
        step, row = clock.step.array, clock.row.array
        words = tuple(np.uint64(w) for w in (stream_id("binarize"), *key(seed)))
        return lambda: loop(data.array, index, int(step[0]), int(row[0]) + rows.lo, *words, out)

    return custom("gather_bernoulli", bind, (data, clock.index, clock.step, clock.row), (x,))


def _noise_words(clock: Clock, words: Buffer, seed: int) -> Operation:
    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        noise = Noise(xp, seed, "binarize")
        out = words.view(rows)[None]
        step, first = clock.step.array, clock.row.array

        return lambda: noise.words(int(step[0]), int(first[0]) + rows.lo, out)

    facts = {"seed": seed, "stream": "binarize", "step": clock.step, "row": clock.row}
    return custom("binarize_words", bind, (clock.step, clock.row), (words,), **facts)


def draw_noise(clock: Clock, eps: Buffer, seed: int, stream: str, ahead: bool) -> Operation:
    """eps ~ N(0, 1) of this step (LX 4); ``ahead``: many steps at once, since each number depends on its step alone."""
    return normal_noise(clock.step, clock.row, eps, seed, stream, ahead)


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
    return custom(
        "record", bind, (*sources, clock.cursor, clock.step), (clock.metrics, clock.cursor, clock.step), **facts
    )


def update_range(
    model: Model, optimizer: Optimizer, state: list[Any], clock: Clock, decay: float, lo: int, hi: int
) -> Operation:
    """The optimizer over parameters ``lo`` to ``hi``, with weight decay in the gradient."""
    theta, grad = model.parameters.theta, model.parameters.grad

    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        if xp is np and jit.available() and optimizer.scalar is not None and len(state) <= 2:
            loop = jit.update_loop(optimizer.scalar, len(state))
            coef, given = clock.coef.array, (theta.dtype.type(decay), theta[lo:hi], *(s[lo:hi] for s in state))
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
    whole = Buffer("theta", theta).part(part), Buffer("grad", grad).part(part)
    states = tuple(Buffer(n, s).part(part) for n, s in zip(optimizer.state, state, strict=True))
    facts = {"optimizer": optimizer, "theta": whole[0], "grad": whole[1], "state": states, "coef": clock.coef}
    return custom("update", bind, (*whole, *states, clock.coef), (*whole, *states), decay=decay, **facts)


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
    """The bound step: ``fill`` the tables for a block, then ``run`` some of it."""

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        data: ResidentRows,
        *,
        objective_name: str,
        batch: int,
        samples: int,
        seed: int,
        decay: float = 0.0,
        threads: int = 1,
    ) -> None:
        self.model = model
        backend: Backend = model.backend
        self.backend = backend
        self.ws = ws = Workspace(backend, batch, samples, model.dtype)
        self.state = [backend.empty((model.parameters.size,), model.dtype) for _ in optimizer.state]
        self.clock = clock = Clock(ws, BLOCK, len(optimizer.coefficients(1, 1.0)))
        batch_pass = Pass(model, ws, gradient=True)
        batch_pass.noise = [draw_noise(clock, batch_pass.eps, seed, "noise", ahead=True)]
        program: Program = objective(objective_name)(batch_pass)
        self.first = [advance(clock), *program.prepare]
        self.rows = [*read_batch(ws, clock, batch_pass.x, data, seed), *program.rows]
        self.last = [record(ws, clock)]
        everything = Rows(0, batch)
        row_shares = [backend.bind(self.rows, share) for share in shares(batch, threads)]
        self.parameters: list[list[Operation]] = []
        for part in parts(program.pieces, threads):
            operations = [piece.make(lo, hi) for piece, lo, hi in part]
            lo, hi = _range(part)
            operations.append(update_range(model, optimizer, self.state, clock, decay, lo, hi))
            self.parameters.append(operations)
        self.phases = [
            [backend.bind(self.first, everything)],
            row_shares,
            [backend.bind(part, everything) for part in self.parameters],
            [backend.bind(self.last, everything)],
        ]

    def run(self, times: int) -> None:
        self.backend.run(self.phases, times)


def _range(part: list[tuple[GradientPiece, int, int]]) -> tuple[int, int]:
    """The flat range that a thread's pieces cover."""

    def edge(piece: GradientPiece, row: int) -> int:
        p = piece.parameter
        return p.lo + (p.hi - p.lo) // piece.rows * row

    (first, lo, _), (last, _, hi) = part[0], part[-1]
    return edge(first, lo), edge(last, hi)
