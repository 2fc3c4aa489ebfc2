"""Faces drawn by the program itself: 28 x 20 grey images of any number, each from five known factors."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from aevb_engine.data.dataset import DataRequest, Dataset, Progress
from aevb_engine.data.draws import uniform
from aevb_plugins.datasets.checks import no_binarize, no_binary_decoder, positive
from aevb_plugins.datasets.pixels import scale_fields

Array = npt.NDArray[Any]

ROWS, COLUMNS = 28, 20
DIM = ROWS * COLUMNS
FACTORS = ("turn", "smile", "gaze", "brow", "light")
_CHUNK = 128
_GRAIN = 6.0  # levels of 255: sensor noise, the sum of two uniform numbers, at most this far from zero
_PIXEL = 0.1  # the unit of length is ten pixels


class Faces:
    """One face: its turn left or right, its smile, where it looks, its brows, and where the light is."""

    summary: ClassVar[str] = "28 x 20 grey faces drawn by the program from a seed, with factors"
    decoder: ClassVar[str] = "gaussian"

    def __init__(self, *, train: int = 2_000, test: int = 500) -> None:
        self.train = positive("faces", "train", train)
        self.test = positive("faces", "test", test)

    def load(self, request: DataRequest) -> Dataset:
        """Draw both parts; a larger set begins with the images of a smaller one."""
        no_binarize("faces", "grey", request)
        no_binary_decoder("faces", "grey", request)
        train, factors = draw(request.seed, "train", self.train, request.progress)
        test, _ = draw(request.seed, "test", self.test, request.progress)
        return Dataset(
            name="faces",
            train=train,
            test=test,
            image_shape=(ROWS, COLUMNS),
            factors=factors,
            info={"source": "drawn by the program from the seed", "seed": request.seed, "binarize": "none"},
            **scale_fields(request.scale or "unit", DIM),
        )


def draw(seed: int, part: str, count: int, progress: Progress | None = None) -> tuple[Array, dict[str, Array]]:
    """The first ``count`` images (count, 560) uint8 of a part and their factors, each (count,) in [-1, 1).

    Image k is a function of (seed, part, k) alone, with the same pixels on every platform.
    """
    images = np.empty((count, DIM), dtype=np.uint8)
    values = np.empty((count, len(FACTORS)), dtype=np.float32)
    for start in range(0, count, _CHUNK):
        stop = min(count, start + _CHUNK)
        u = uniform(seed, f"faces {part}", start, stop - start, len(FACTORS) + 2 * DIM)
        values[start:stop] = 2 * u[:, : len(FACTORS)] - 1
        grain = u[:, len(FACTORS) : len(FACTORS) + DIM] + u[:, len(FACTORS) + DIM :] - 1
        face = paint(values[start:stop]).reshape(-1, DIM)
        images[start:stop] = np.clip(255 * face + _GRAIN * grain + 0.5, 0, 255).astype(np.uint8)
        if progress is not None:
            progress(f"drawing {part} faces", stop, count)
    return images, {name: values[:, k].copy() for k, name in enumerate(FACTORS)}


def paint(factors: Array) -> Array:
    """The faces (n, 28, 20) float32, brightness 0..1, for factors (n, 5) in the order of FACTORS."""
    view = _View(factors)
    image, skin, inside = _head(view)
    for side in (-1.0, 1.0):
        image = _eye(view, image, skin, inside, side)
    image = _nose(view, image, skin)
    image = _mouth(view, image, skin, inside)
    result: Array = np.clip(image, 0, 1)
    return result


class _View:
    """The picture's coordinates and factors, each broadcasting to (n, 28, 20).

    x is to the right and y down from the middle of the image, in units of ten pixels.
    """

    def __init__(self, factors: Array) -> None:
        self.x: Array = _middle(COLUMNS)[None, None, :]
        self.y: Array = _middle(ROWS)[None, :, None]
        columns = [factors[:, k, None, None].astype(np.float32) for k in range(len(FACTORS))]
        self.turn, self.smile, self.gaze, self.brow, self.light = columns
        t = 0.21 * self.turn  # the tangent of half the angle: no trigonometric function is needed
        self.cos: Array = (1 - t * t) / (1 + t * t)
        self.sin: Array = 2 * t / (1 + t * t)

    def from_point(self, across: float | Array, depth: float) -> Array:
        """x from where a point of the turned head appears, given its place across and towards the viewer."""
        result: Array = self.x - (across * self.cos + depth * self.sin)
        return result


def _middle(size: int) -> Array:
    """Pixel centres along an axis, from the middle, in units of length."""
    result: Array = _PIXEL * (np.arange(size, dtype=np.float32) - 0.5 * (size - 1))
    return result


def _head(view: _View) -> tuple[Array, Array, Array]:
    """Wall, shoulders, neck, hair and head; also the brightness of skin and the coverage of the head."""
    x, y, light = view.x, view.y, view.light
    image = 0.62 + 0.05 * light * x - 0.05 * y
    image = _over(image, 0.24 + 0.06 * light * x, _ellipse(x, y - 1.52, 1.0, 0.40))
    image = _over(image, 0.46 + 0.22 * light * x, _box(view.from_point(0.0, -0.05), y - 1.05, 0.30, 0.30))
    image = _over(image, 0.12, _ellipse(view.from_point(0.0, -0.14), y + 0.20, 0.80, 1.02))
    face = view.from_point(0.0, 0.10)
    nx, ny = face / 0.70, (y - 0.06) / 1.02
    nz = np.sqrt(np.maximum(0, 1 - nx * nx - ny * ny))  # lit as an ellipsoid
    skin: Array = 0.44 + 0.32 * nz + 0.24 * light * nx - 0.05 * ny
    inside = _ellipse(face, y - 0.06, 0.70, 1.02)
    image = _over(image, skin, inside)
    parting = view.from_point(0.0, 0.55)
    hair = inside * _soft(y + 0.70 - 0.45 * parting * parting - 0.10 * parting)
    return _over(image, 0.12 + 0.03 * nz, hair), skin, inside


def _eye(view: _View, image: Array, skin: Array, inside: Array, side: float) -> Array:
    """Socket, white, iris and brow on one side (-1 left, 1 right of the picture)."""
    x, y = view.from_point(0.30 * side, 0.56), view.y + 0.13
    width = 0.155 * (view.cos + 0.35 * side * view.sin)
    white = inside * _ellipse(x, y, width, 0.095)
    image = _over(image, skin * 0.74, inside * _ellipse(x, y + 0.01, 1.35 * width, 0.15))
    image = _over(image, 0.95, white)
    image = _over(image, 0.06, white * _ellipse(x - 0.085 * view.gaze, y, 0.080, 0.095))
    x = view.from_point(0.31 * side, 0.60)
    arch = 0.23 + 0.085 * view.brow + side * (0.16 - 0.26 * view.brow) * x - 0.9 * x * x
    return _over(image, 0.13, 0.85 * inside * _stroke(y + arch, x, 0.19, 0.045))


def _nose(view: _View, image: Array, skin: Array) -> Array:
    """A lit ridge with a shaded side, the tip, and the shadow below."""
    y = view.y
    ridge = _soft(y - 0.30) * _soft(-0.12 - y)
    x = view.from_point(0.0, 0.66) - 0.10 * view.sin * y
    image = image + 0.16 * ridge * _soft(np.abs(x - 0.03 * view.light) - 0.035)
    image = image - 0.20 * ridge * _soft(np.abs(x + 0.11 * view.light + 0.05 * view.turn) - 0.03)
    tip = view.from_point(0.0, 0.82)
    image = _over(image, skin * 0.45, 0.8 * _ellipse(tip + 0.05 * view.sin, y - 0.33, 0.16, 0.055))
    return image + 0.14 * _ellipse(tip, y - 0.21, 0.09, 0.09)


def _mouth(view: _View, image: Array, skin: Array, inside: Array) -> Array:
    """A bent slit that opens on the teeth in a broad smile, a lip below, and folds of the cheeks."""
    x, smile = view.from_point(0.0, 0.62), view.smile
    happy, sad = np.maximum(0, smile), np.minimum(0, smile)
    half = (0.29 + 0.06 * smile) * view.cos
    bow = np.minimum(1, (x / half) ** 2)
    y = view.y - 0.62 - (0.13 * happy + 0.075 * sad) * (1 - 2 * bow)
    gap = 0.10 * happy * (1 - bow)
    image = _over(image, skin * 0.66, 0.7 * inside * _stroke(y - 0.02, x, 0.9 * half, 0.06 + gap))
    image = _over(image, 0.12, inside * _stroke(y, x, half, 0.022 + 0.9 * gap))
    image = _over(image, 0.95, _stroke(y + 0.25 * gap, x, 0.85 * half, 0.8 * gap - 0.012))
    for side in (-1.0, 1.0):
        x = view.from_point((0.40 + 0.05 * smile) * side, 0.50)
        fold = _stroke(x - 0.35 * side * (view.y - 0.42), view.y - 0.42, 0.15, 0.02)
        image = image - 0.20 * np.maximum(0, smile + 0.2) * fold
    return image


def _soft(distance: Array) -> Array:
    """1 where the signed distance is negative, 0 where positive, smooth over about two pixels."""
    s = np.clip(0.5 - distance * (0.5 / _PIXEL), 0, 1)
    result: Array = s * s * (3 - 2 * s)
    return result


def _ellipse(x: Array, y: Array, across: float | Array, down: float | Array) -> Array:
    """Coverage of an ellipse with these half-axes around the origin."""
    r = np.sqrt((x / across) ** 2 + (y / down) ** 2)
    return _soft((r - 1) * np.minimum(across, down))


def _box(x: Array, y: Array, across: float, down: float) -> Array:
    """Coverage of a box with these half-sides around the origin."""
    return _soft(np.maximum(np.abs(x) - across, np.abs(y) - down))


def _stroke(off: Array, along: Array, half: float | Array, thick: float | Array) -> Array:
    """Coverage of a line: ``off`` is the distance from it, ``along`` the place on it."""
    return _soft(np.maximum(np.abs(off) - thick, np.abs(along) - half))


def _over(image: Array, paint_: float | Array, coverage: Array) -> Array:
    """``paint_`` laid over the image."""
    result: Array = image + coverage * (paint_ - image)
    return result
