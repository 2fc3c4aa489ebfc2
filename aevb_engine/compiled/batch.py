"""A batch's beginning and end in one loop each: its rows from the resident data, and its means into the metrics."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from aevb_engine.jit import compiled, inlined


def _pick(row: Any, runs: Any, live: Any) -> None:
    """The columns ``runs[i, 0]`` to ``runs[i, 1]`` of a row, one run after the other."""
    at = 0
    for i in range(runs.shape[0]):
        lo, count = runs[i, 0], runs[i, 1] - runs[i, 0]
        part, into = row[lo : lo + count], live[at : at + count]
        for c in range(count):
            into[c] = part[c]
        at += count


@cache
def gather() -> Any:
    """``loop(data, index, scale, x)``: x = scale * data[index]."""

    def loop(data: Any, index: Any, scale: Any, x: Any) -> None:
        for r in range(x.shape[0]):
            source, row = data[index[r]], x[r]
            for c in range(row.size):
                row[c] = scale * np.float32(source[c])

    return compiled(loop)


@cache
def gather_runs() -> Any:
    """``loop(data, index, scale, runs, x, live)``: the same, and the columns of the runs beside one another in live."""
    pick = inlined(_pick)

    def loop(data: Any, index: Any, scale: Any, runs: Any, x: Any, live: Any) -> None:
        for r in range(x.shape[0]):
            source, row = data[index[r]], x[r]
            for c in range(row.size):
                row[c] = scale * np.float32(source[c])
            pick(row, runs, live[r])

    return compiled(loop)


@cache
def select_columns() -> Any:
    """``loop(x, runs, live)``: the columns of the runs of x beside one another in live."""
    pick = inlined(_pick)

    def loop(x: Any, runs: Any, live: Any) -> None:
        for r in range(x.shape[0]):
            pick(x[r], runs, live[r])

    return compiled(loop)


@cache
def record() -> Any:
    """``loop(bound, reconstruction, kl, metrics, cursor, step)``: means into row ``cursor``; both counters move on."""

    def loop(bound: Any, reconstruction: Any, kl: Any, metrics: Any, cursor: Any, step: Any) -> None:
        row = metrics[cursor[0]]
        for j, values in enumerate((bound, reconstruction, kl)):
            total = 0.0
            for b in range(values.size):
                total += values[b]
            row[j] = total / values.size
        cursor[0] += 1
        step[0] += 1

    return compiled(loop)
