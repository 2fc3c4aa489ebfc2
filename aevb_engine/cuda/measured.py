"""Which way of running a step was measured to be the fastest, by the size of the step.

A figure is the time of one step on one path: ``figures`` of the section "trainers" in a file of
``benchmarks/gpu/run.py`` holds the rows to copy, which name that file as their source. Nothing has been measured on a
device so far: the table is empty, and ``--trainer auto`` is the eager path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log

MARGIN = 0.95  # a path must take less than this part of the eager one's time


@dataclass(frozen=True)
class Figure:
    """One measured workload."""

    path: str  # eager, graph or persistent
    multiply_adds: int  # of the products of a step, forward and backward
    microseconds: float  # a step, tables and metrics included
    products: str = "fp32"
    source: str = ""  # file under benchmarks/results


TABLE: tuple[Figure, ...] = ()


def fastest(multiply_adds: int, products: str = "fp32", table: Sequence[Figure] = TABLE) -> str:
    """The path of the least time for a step of that size; eager where it is not known to be slower.

    Between two measured sizes the times are interpolated on logarithmic axes; a step smaller than the smallest takes
    as long as that; of one larger than the largest nothing is known.
    """
    times = {path: _time(path, multiply_adds, products, table) for path in ("eager", "graph", "persistent")}
    eager = times.pop("eager")
    known = {path: time for path, time in times.items() if time is not None}
    if eager is None or not known:
        return "eager"
    best = min(known, key=lambda path: known[path])
    return best if known[best] < MARGIN * eager else "eager"


def _time(path: str, multiply_adds: int, products: str, table: Sequence[Figure]) -> float | None:
    points = sorted((f.multiply_adds, f.microseconds) for f in table if (f.path, f.products) == (path, products))
    if not points or multiply_adds > points[-1][0]:
        return None
    if multiply_adds <= points[0][0]:
        return points[0][1]
    for (a, s), (b, t) in pairwise(points):
        if multiply_adds <= b:
            part = log(multiply_adds / a) / log(b / a)
            return exp((1 - part) * log(s) + part * log(t))
    return None
