"""Digits drawn by the program itself: 28 x 28 binary images of any number, with labels, from a seed."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from aevb_engine.data.dataset import DataRequest, Dataset, Progress
from aevb_engine.data.draws import uniform
from aevb_engine.errors import UsageError
from aevb_plugins.datasets.checks import no_binarize, no_scale, positive
from aevb_plugins.datasets.strokes import CONTROLS, PEN_POINTS, SHAPES, pen_path

Array = npt.NDArray[Any]

SIDE = 28
HEIGHT = 19.5  # pixels, of a digit of size 1
MARGIN = 13.3  # ink stays within this distance of the centre, in pixels
_CHUNK = 128  # images drawn together: their distances (28, 28, 128) stay in the processor's cache
_FACTORS = 16  # uniform numbers an image before those of the control points


class Glyphs:
    """Handwriting-like digits: pen strokes moved, bent, turned, slanted, scaled and of varying thickness.

    ``variation``: how much; 1 is more than two latent dimensions can hold, 0 leaves one drawing of each shape.
    """

    summary: ClassVar[str] = "28 x 28 binary digits drawn by the program from a seed, with labels; no file"
    decoder: ClassVar[str] = "bernoulli"

    def __init__(self, *, train: int = 20_000, test: int = 2_000, variation: float = 0.5) -> None:
        self.train = positive("glyphs", "train", train)
        self.test = positive("glyphs", "test", test)
        if not 0 <= variation <= 1:
            raise UsageError(f"dataset.variation={variation}: glyphs needs a number from 0 to 1")
        self.variation = variation

    def load(self, request: DataRequest) -> Dataset:
        """Draw both parts; a larger set begins with the images of a smaller one."""
        no_binarize("glyphs", "already binary", request)
        no_scale("glyphs", "already binary", request)
        train, train_labels = draw(request.seed, "train", self.train, request.progress, self.variation)
        test, test_labels = draw(request.seed, "test", self.test, request.progress, self.variation)
        return Dataset(
            name="glyphs",
            train=train,
            test=test,
            image_shape=(SIDE, SIDE),
            train_labels=train_labels,
            test_labels=test_labels,
            info={"source": "drawn by the program from the seed", "seed": request.seed, "variation": self.variation},
        )


def draw(
    seed: int, part: str, count: int, progress: Progress | None = None, variation: float = 1.0
) -> tuple[Array, Array]:
    """The first ``count`` images (count, 784) uint8 0/1 of a part and their labels (count,) uint8.

    Image k is a function of (seed, part, k) alone. Only sums, products, quotients and comparisons are
    used, so every platform and NumPy version draws the same pixels.
    """
    images = np.empty((count, SIDE * SIDE), dtype=np.uint8)
    labels = np.empty(count, dtype=np.uint8)
    for start in range(0, count, _CHUNK):
        stop = min(count, start + _CHUNK)
        u = uniform(seed, f"glyphs {part}", start, stop - start, _FACTORS + 2 * CONTROLS).astype(np.float64)
        shape, labels[start:stop] = _choose(u[:, 0], u[:, 1])
        u = 0.5 + variation * (u - 0.5)  # exact at 1
        x, y, radius = _pen(u, shape)
        images[start:stop] = _ink(x, y, radius)
        if progress is not None:
            progress(f"drawing {part} glyphs", stop, count)
    return images, labels


@cache
def _paths() -> tuple[Array, Array, Array]:
    """Every shape's control points (S, C, 2), pen weights (S, C, P) and pen places on the stroke (S, P)."""
    points = np.zeros((len(SHAPES), CONTROLS, 2))
    weights = np.empty((len(SHAPES), CONTROLS, PEN_POINTS))
    places = np.empty((len(SHAPES), PEN_POINTS))
    for s, shape in enumerate(SHAPES):
        points[s, : len(shape.points)] = shape.points
        path, places[s] = pen_path(shape)
        weights[s] = path.T
    return points, weights, places


@cache
def _menus() -> tuple[Array, Array]:
    """Shapes of each digit (10, M), repeated by weight and padded, and how many of them count (10,)."""
    menus = [[s for s, shape in enumerate(SHAPES) if shape.digit == d for _ in range(shape.weight)] for d in range(10)]
    width = max(map(len, menus))
    padded = [menu + [-1] * (width - len(menu)) for menu in menus]
    return np.array(padded), np.array([len(menu) for menu in menus])


def _choose(u_label: Array, u_shape: Array) -> tuple[Array, Array]:
    """A shape's number and a label for each image, from one uniform number each."""
    menu, lengths = _menus()
    labels = (10 * u_label).astype(np.intp)
    return menu[labels, (lengths[labels] * u_shape).astype(np.intp)], labels.astype(np.uint8)


def _between(u: Array, low: float, high: float) -> Array:
    return low + (high - low) * u


def _bell(u: Array, v: Array, width: float) -> Array:
    """Two uniform numbers to one near zero (triangular), at most ``width`` away."""
    return width * (u + v - 1.0)


def _pen(u: Array, shape: Array) -> tuple[Array, Array, Array]:
    """Pen positions x, y and radii, in pixels, each (P, n)."""
    points, weights, places = _paths()
    jitter = u[:, _FACTORS:].reshape(-1, CONTROLS, 2) - 0.5
    control = points[shape] + 0.13 * jitter
    path = weights[shape]
    along = np.zeros((2, len(shape), PEN_POINTS))
    for c in range(CONTROLS):  # a fixed order of additions: the same bits everywhere
        along[0] += control[:, c, 0, None] * path[:, c]
        along[1] += control[:, c, 1, None] * path[:, c]
    x, y = along - 0.5
    f = u[:, :_FACTORS, None]
    # bend: the spine and the baseline become parabolas
    x, y = (
        x + _bell(f[:, 2], f[:, 3], 0.45) * (y * y - 0.1),
        y + _bell(f[:, 4], f[:, 14], 0.3) * (x * x - 0.05),
    )
    # turn by a half-angle tangent (no trigonometric function), slant, and stretch
    t = _bell(f[:, 5], f[:, 6], 0.16)
    cos, sin = (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)
    x, y = x * _between(f[:, 7], 0.62, 1.08), y
    x = x - _between(f[:, 8], -0.12, 0.5) * y
    size = HEIGHT * _between(f[:, 9], 0.82, 1.1)
    x, y = size * (cos * x - sin * y), size * (sin * x + cos * y)
    # pen: pressed more in the middle or at one end of a stroke
    place = places[shape]
    radius = _between(f[:, 10] * f[:, 10], 0.95, 1.8)
    press = 1.0 + 0.35 * f[:, 11] * (4.0 * place * (1.0 - place) - 1.0) + 0.3 * (f[:, 15] - 0.5) * (place - 0.5)
    # into the frame: shrink what is too large, centre the box, shift within what is left
    moved = []
    for line, shift in ((x, f[:, 12]), (y, f[:, 13])):
        low, high = line.min(axis=1, keepdims=True), line.max(axis=1, keepdims=True)
        half = 0.5 * (high - low)
        shrink = np.minimum(1.0, (MARGIN - radius) / half)
        room = np.minimum(1.6, MARGIN - radius - half * shrink)
        centre = 0.5 * (SIDE - 1) + (2.0 * shift - 1.0) * room
        moved.append((line - 0.5 * (low + high)) * shrink + centre)
    return moved[0].T, moved[1].T, (radius * press).T


def _ink(x: Array, y: Array, radius: Array) -> Array:
    """(n, 784) uint8: 1 where a pixel's centre is within the pen's radius of one of its positions."""
    n = x.shape[1]
    grid = np.arange(SIDE, dtype=np.float32)[:, None]
    best = np.full((SIDE, SIDE, n), np.inf, dtype=np.float32)
    distance = np.empty_like(best)
    across, down, pen = (np.ascontiguousarray(a, dtype=np.float32) for a in (x, y, radius))
    for p in range(PEN_POINTS):
        dx, dy = grid - across[p], grid - down[p]
        dx *= dx
        dy *= dy
        dy -= pen[p] * pen[p]
        np.add(dy[:, None, :], dx[None, :, :], out=distance)
        np.minimum(best, distance, out=best)
    inked: Array = (best <= 0.0).reshape(SIDE * SIDE, n).T
    return inked
