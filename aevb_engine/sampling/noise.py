"""Noise as an operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aevb_engine.kernels.noise import Noise
from aevb_engine.operation import Buffer, Operation, Rows, custom

NOISE_BLOCK = 1 << 16  # numbers drawn at once: many steps of a small model, for the cost of one call


def normal_noise(step: Buffer, row: Buffer, eps: Buffer, seed: int, stream: str, ahead: bool) -> Operation:
    """eps ~ N(0, 1) of step ``step`` and data rows ``row`` .. (tables of one number each); ``ahead``: many steps at
    once, since each number depends on its step alone."""
    return _noise("noise", "normal", step, row, eps, seed, stream, ahead)


def uniform_noise(step: Buffer, row: Buffer, u: Buffer, seed: int, stream: str, ahead: bool) -> Operation:
    """u uniform on [0, 1), otherwise as ``normal_noise``."""
    return _noise("uniform_noise", "uniform", step, row, u, seed, stream, ahead)


def _noise(
    name: str, kind: str, step: Buffer, row: Buffer, eps: Buffer, seed: int, stream: str, ahead: bool
) -> Operation:
    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        out = eps.view(rows)
        fill = getattr(Noise(xp, seed, stream), kind)
        count, columns = out.shape
        padded = 4 * -(-columns // 4)
        steps = max(1, NOISE_BLOCK // (count * padded)) if ahead else 1
        block = xp.empty((steps, count, padded), dtype=xp.float32)
        held = [-1, -1]  # first step and first row of the block
        counter, first_row = step.array, row.array
        offset = rows.lo * eps.per_point

        def run() -> None:
            now, first = int(counter[0]), int(first_row[0]) * eps.per_point + offset
            if not (held[0] <= now < held[0] + steps and held[1] == first) or held[0] < 0:
                fill(now, first, block)
                held[0], held[1] = now, first
            out[...] = block[now - held[0], :, :columns]

        return run

    facts: dict[str, Any] = {"seed": seed, "stream": stream, "step": step, "row": row, "eps": eps}
    return custom(name, bind, (step, row), (eps,), **facts)
