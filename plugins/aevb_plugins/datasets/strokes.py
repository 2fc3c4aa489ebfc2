"""The shapes of the digits: strokes through control points, and the points that a pen passes on them.

The unit box has x to the right and y down, both from 0 to 1. Strokes of one shape share control points by
index, so that moving a point keeps the strokes joined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

PEN_POINTS = 56  # pen positions of one digit: about one a pixel for the longest


@dataclass(frozen=True)
class Shape:
    """One way of writing a digit: control points and strokes (smooth curves through the named points)."""

    digit: int
    points: tuple[tuple[float, float], ...]
    strokes: tuple[tuple[int, ...], ...]
    weight: int = 1  # how often it is written, against the other shapes of the digit


def _shape(digit: int, points: str, strokes: str, weight: int = 1) -> Shape:
    """A shape from text: points as "x,y" in hundredths of the box, strokes as indices separated by bars."""
    placed = [tuple(int(part) / 100 for part in point.split(",")) for point in points.split()]
    joined = [tuple(int(index) for index in stroke.split()) for stroke in strokes.split("|")]
    return Shape(digit, tuple((x, y) for x, y in placed), tuple(joined), weight)


SHAPES: tuple[Shape, ...] = (
    _shape(0, "52,0 22,14 10,50 22,87 50,100 78,86 90,50 80,13", "0 1 2 3 4 5 6 7 0", 3),
    _shape(  # begun at the top right, the ends crossing
        0,
        "74,10 42,2 14,36 20,84 50,100 82,72 80,25 50,3 38,12",
        "0 1 2 3 4 5 6 7 8",
    ),
    _shape(1, "52,0 50,35 50,68 49,100", "0 1 2 3", 4),
    _shape(1, "30,22 53,0 52,50 51,100", "0 1 | 1 2 3", 2),
    _shape(1, "28,20 52,0 51,50 50,100 22,100 80,99", "0 1 | 1 2 3 | 4 3 5"),
    _shape(2, "16,22 30,4 56,0 78,16 72,44 44,74 12,99 50,97 90,97", "0 1 2 3 4 5 6 | 6 7 8", 3),
    _shape(  # with a loop at the foot
        2,
        "18,20 36,2 64,2 78,24 62,58 36,88 16,98 7,86 22,76 46,88 66,99 94,90",
        "0 1 2 3 4 5 6 7 8 9 10 11",
        2,
    ),
    _shape(
        3,
        "16,14 36,1 66,5 74,26 58,43 36,47 68,53 82,75 64,97 34,100 12,86",
        "0 1 2 3 4 5 | 5 6 7 8 9 10",
        4,
    ),
    _shape(3, "16,2 78,1 42,40 72,48 84,72 64,97 34,100 12,86", "0 1 | 1 2 | 2 3 4 5 6 7"),  # with a flat top
    _shape(4, "22,3 17,30 14,56 50,58 90,54 74,6 70,50 66,100", "0 1 2 | 2 3 4 | 5 6 7", 3),  # open
    _shape(4, "64,0 36,34 8,68 50,69 94,67 65,50 64,100", "0 1 2 | 2 3 4 | 0 5 6", 2),  # closed
    _shape(
        5,
        "84,2 54,2 27,4 24,24 20,46 44,38 74,48 84,72 66,95 38,100 10,88",
        "0 1 2 | 2 3 4 | 4 5 6 7 8 9 10",
        3,
    ),
    _shape(5, "88,0 50,3 28,16 32,38 62,50 78,72 62,95 36,100 12,90", "0 1 2 3 4 5 6 7 8"),  # in one go
    _shape(6, "72,2 44,20 22,52 20,82 46,100 76,86 76,62 52,52 26,66 20,82", "0 1 2 3 4 5 6 7 8 9", 3),
    _shape(  # upright, with a small loop
        6,
        "46,0 28,30 20,68 32,96 62,99 76,80 58,63 32,72 25,86",
        "0 1 2 3 4 5 6 7 8",
    ),
    _shape(7, "12,6 46,5 84,3 64,40 42,100", "0 1 2 | 2 3 4", 4),
    _shape(7, "12,6 46,5 86,3 60,46 42,100 30,52 82,47", "0 1 2 | 2 3 4 | 5 6", 2),  # with a bar
    _shape(7, "12,22 15,3 48,7 88,2 66,44 50,100", "0 1 | 1 2 3 | 3 4 5"),  # with a hooked beginning
    _shape(
        8,
        "76,14 50,0 25,14 32,36 52,48 76,66 74,90 48,100 24,88 26,66 50,48 70,34",
        "0 1 2 3 4 5 6 7 8 9 10 11 0",
        3,
    ),
    _shape(8, "50,46 24,24 50,0 76,24 16,74 50,100 84,74", "0 1 2 3 0 | 0 4 5 6 0"),  # two rings
    _shape(9, "78,20 50,0 22,18 30,44 58,44 78,20 75,58 66,100", "0 1 2 3 4 5 | 5 6 7", 3),
    _shape(  # with a hooked tail
        9,
        "76,22 54,1 24,14 30,42 58,44 76,22 80,58 62,95 24,94",
        "0 1 2 3 4 | 4 5 | 0 6 7 8",
    ),
)

CONTROLS = max(len(shape.points) for shape in SHAPES)


def _curve(stroke: tuple[int, ...], steps: int) -> Array:
    """(samples, CONTROLS) weights of the control points on a Catmull-Rom curve through the stroke."""
    closed = len(stroke) > 2 and stroke[0] == stroke[-1]
    inner = len(stroke) - 1
    weights = np.zeros((inner * steps + 1, CONTROLS))
    for k in range(inner):
        before = stroke[k - 1] if k > 0 else (stroke[-2] if closed else None)
        after = stroke[k + 2] if k + 2 < len(stroke) else (stroke[1] if closed else None)
        for s in range(steps + (k == inner - 1)):
            t = s / steps
            row = weights[k * steps + s]
            back, ahead = -0.5 * t * (1 - t) * (1 - t), -0.5 * t * t * (1 - t)
            row[stroke[k]] += 1 - 2.5 * t * t + 1.5 * t * t * t
            row[stroke[k + 1]] += 0.5 * t * (1 + 4 * t - 3 * t * t)
            for end, weight, near, far in ((before, back, k, k + 1), (after, ahead, k + 1, k)):
                if end is not None:
                    row[end] += weight
                else:  # an open end goes on straight: reflect the neighbour
                    row[stroke[near]] += 2 * weight
                    row[stroke[far]] -= weight
    return weights


def pen_path(shape: Shape) -> tuple[Array, Array]:
    """(PEN_POINTS, CONTROLS) weights of evenly spaced pen positions, and their place 0..1 on the stroke."""
    points = np.zeros((CONTROLS, 2))
    points[: len(shape.points)] = shape.points
    curves, lengths = [], []
    for stroke in shape.strokes:
        weights = _curve(stroke, 64)
        curve = np.zeros((len(weights), 2))
        for c in range(CONTROLS):  # a fixed order of additions, not a matrix product: the same bits everywhere
            curve += weights[:, c, None] * points[c]
        steps = np.diff(curve, axis=0)
        reach = np.concatenate([[0.0], np.cumsum(np.sqrt(steps[:, 0] ** 2 + steps[:, 1] ** 2))])
        curves.append((weights, reach))
        lengths.append(float(reach[-1]))
    counts = _share(lengths, PEN_POINTS)
    rows, places = [], []
    for (weights, reach), count in zip(curves, counts, strict=True):
        place = np.arange(count) / (count - 1)
        index = np.minimum(np.searchsorted(reach, place * reach[-1]), len(reach) - 1)
        rows.append(weights[index])
        places.append(place)
    return np.concatenate(rows), np.concatenate(places)


def _share(lengths: list[float], total: int) -> list[int]:
    """``total`` pen positions shared among strokes by length, at least two each."""
    counts = [max(2, int(total * length / sum(lengths))) for length in lengths]
    while sum(counts) < total:
        sparse = max(range(len(counts)), key=lambda k: lengths[k] / (counts[k] - 1))
        counts[sparse] += 1
    return counts
