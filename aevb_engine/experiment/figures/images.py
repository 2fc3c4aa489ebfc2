"""Pictures of data space: reconstructions, samples and the manifold; images as tiles, other vectors as heat maps."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aevb_engine.evaluation import apply
from aevb_engine.experiment.figures.material import SEED, Material, latent_grid, spread
from aevb_engine.experiment.figures.style import HEAD, SIDE, STYLE, axes, axis_labels, canvas, panel_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]
GRID = 20  # images a side of the manifold
MARKS = (-1.5, -0.5, 0, 0.5, 1.5)  # z on the axes of the manifold
CURVES = 10  # curves a side of the manifold of vectors
TILE = 84  # pixels an image is enlarged to, at most
VECTORS = 40  # rows of a heat map
LEAST = 860  # pixels of width that the heading needs


def tiles(images: Array, columns: int, gap: int = 0) -> Array:
    """Images (n, H, W) as one picture in reading order; the gaps and the places left over are NaN."""
    n, height, width = images.shape
    rows = -(-n // columns)
    picture = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan, np.float32)
    for k, image in enumerate(images):
        i, j = divmod(k, columns)
        picture[i * (height + gap) :, j * (width + gap) :][:height, :width] = image
    return picture


def reconstructions(material: Material) -> Figure:
    """Test rows beside the mean of p(x|z) at z = mean of q(z|x)."""
    title = f"Reconstructions of {material.dataset.name} test data"
    shape = material.dataset.image_shape
    if shape is None:
        rows = material.dataset.test_rows[spread(len(material.dataset.test_rows), VECTORS)]
        x = material.x(rows)
        return _heat_maps(material, title, {"originals": x, "reconstructions": apply.reconstruct(material.model, x)})
    chosen = material.shown
    x = material.x(material.dataset.test_rows[chosen.ravel()])
    again = apply.reconstruct(material.model, x)
    deep, columns = chosen.shape
    enlarged = _enlargement(shape)
    names, between = 150, 14
    height = 2 * (shape[0] * enlarged + 2) + between
    width = columns * (shape[1] * enlarged + 2)
    figure = canvas(max(LEAST, names + SIDE + width), HEAD + deep * height + 30, title, material.subtitle)
    for i in range(deep):
        for j, (name, values) in enumerate((("original", x), ("model", again))):
            row = values.reshape(deep, columns, *shape)[i]
            picture = tiles(np.repeat(np.repeat(row, enlarged, 1), enlarged, 2), columns, gap=2)
            top = HEAD + i * height + j * (shape[0] * enlarged + 2)
            ax = _picture(figure, material, picture, names, top)
            color = STYLE["grey"] if j == 0 else STYLE["ink"]
            ax.text(-0.012, 0.5, name, transform=ax.transAxes, ha="right", va="center", size=STYLE["text"], color=color)
    return figure


def samples(material: Material) -> Figure:
    """Means of p(x|z) at draws z ~ N(0, I); beside them draws from p(x|z) where these are binary or no images."""
    model, shape = material.model, material.dataset.image_shape
    title = f"Samples from the model of {material.dataset.name}"
    binary = model.likelihood.support.kind == "binary"
    if shape is None:
        z = apply.prior(model, VECTORS, SEED)
        both = {"means of p(x|z), z ~ N(0, I)": apply.decode(model, z), "draws": apply.sample(model, VECTORS, SEED)}
        return _heat_maps(material, title, both)
    columns, rows = (8, 8) if binary else (12, 8)
    z = apply.prior(model, columns * rows, SEED)
    parts = {"means of p(x|z), z ~ N(0, I)": apply.decode(model, z)}
    if binary:
        parts["draws from p(x|z), same z"] = apply.sample(model, len(z), SEED)
    enlarged = _enlargement(shape)
    if binary:
        enlarged = max(1, enlarged - 1)
    width, height = columns * shape[1] * enlarged, rows * shape[0] * enlarged
    whole = SIDE + len(parts) * (width + 40) + 10
    figure = canvas(max(LEAST, whole), HEAD + 40 + height + 40, title, material.subtitle)
    for k, (name, values) in enumerate(parts.items()):
        images = values.reshape(-1, *shape)
        picture = tiles(np.repeat(np.repeat(images, enlarged, 1), enlarged, 2), columns)
        panel_title(_picture(figure, material, picture, SIDE + k * (width + 40), HEAD + 40), name)
    return figure


def manifold(material: Material) -> Figure:
    """The 2-D manifold of KW appendix A: mean of p(x|z) over the latent plane, tile beside tile."""
    title = f"Manifold of {material.dataset.name}: mean of p(x|z) over the latent plane"
    shape = material.dataset.image_shape
    height, width = (1120, 1120) if shape is None else (GRID * s * max(1, TILE // 3 * 2 // max(shape)) for s in shape)
    figure = canvas(max(LEAST, 120 + width + 40), HEAD + height + 110, title, material.subtitle)
    manifold_panel(axes(figure, 120, HEAD, width, height), material)
    return figure


def manifold_panel(ax: Axes, material: Material) -> None:
    """The manifold into ``ax``, whose axes are marked with z1 and z2."""
    shape = material.dataset.image_shape
    n = GRID if shape is not None else CURVES
    z = latent_grid(n)
    means = apply.decode(material.model, z.astype(np.float32))
    if shape is not None:
        _show(ax, material, tiles(means.reshape(-1, *shape), n), extent=(0, n, 0, n), aspect=shape[0] / shape[1])
    else:
        _curves(ax, means, n)
    places = [n * NormalDist().cdf(value) for value in MARKS]
    marks = [f"{value:g}".replace("-", "\N{MINUS SIGN}") for value in MARKS]
    ax.set_xticks(places, marks)
    ax.set_yticks(places, marks)
    axis_labels(ax, "z1", "z2")
    for spine in ax.spines.values():
        spine.set_visible(False)


def _curves(ax: Axes, means: Array, n: int) -> None:
    """Each vector as a curve over its columns, in its place of an n x n grid."""
    from matplotlib.collections import LineCollection

    if means.shape[1] == 1:
        means = np.repeat(means, 2, axis=1)  # a dash, where one point would not be seen
    finite = means[np.isfinite(means)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    scaled = (means - low) / ((high - low) or 1.0)
    along = 0.08 + 0.84 * np.linspace(0, 1, means.shape[1])
    lines = []
    for k, values in enumerate(scaled):
        i, j = divmod(k, n)
        lines.append(np.stack([j + along, n - 1 - i + 0.1 + 0.8 * values], axis=1))
    ax.add_collection(LineCollection(lines, colors=STYLE["train"], linewidths=0.7))
    ax.set(xlim=(0, n), ylim=(0, n))


def _enlargement(shape: tuple[int, int]) -> int:
    return max(1, TILE // max(shape))


def _picture(figure: Figure, material: Material, picture: Array, left: int, top: int) -> Axes:
    """A picture at one pixel a value, without axes."""
    ax = axes(figure, left, top, picture.shape[1], picture.shape[0])
    _show(ax, material, picture)
    ax.set_axis_off()
    return ax


def _show(ax: Axes, material: Material, picture: Array, **place: Any) -> None:
    low, high = material.window
    ax.imshow(picture, cmap="gray_r" if material.ink else "gray", vmin=low, vmax=high, **{"aspect": "auto", **place})


def _heat_maps(material: Material, title: str, parts: dict[str, Array]) -> Figure:
    """Vectors as rows of heat maps side by side, on one scale of colours."""
    figure = canvas(1240, HEAD + 40 + 560 + 90, title, material.subtitle)
    low, high = material.window
    if low < 0 < high:  # signed data: white is zero
        high = max(-low, high)
        low, colors = -high, "RdBu_r"
    else:
        colors = "gray_r"
    for k, (name, values) in enumerate(parts.items()):
        ax = axes(figure, 100 + k * 530, HEAD + 40, 490, 560)
        image = ax.imshow(values, cmap=colors, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        axis_labels(ax, "column of x", "row" if k == 0 else "")
        panel_title(ax, name)
        if k:
            ax.set_yticks([])
    scale = axes(figure, 1150, HEAD + 40, 18, 560)
    bar = figure.colorbar(image, cax=scale)
    bar.outline.set_visible(False)
    scale.tick_params(labelsize=STYLE["text"], colors=STYLE["grey"], labelcolor=STYLE["ink"], length=2)
    return figure
