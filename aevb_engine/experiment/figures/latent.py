"""Where the encoder puts the data: means of q(z|x), coloured by what is known of the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aevb_engine.experiment.figures.material import Material
from aevb_engine.experiment.figures.style import HEAD, PALETTE, SIDE, STYLE, axes, axis_labels, canvas, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]
FACTORS = 6  # at most that many panels
COLORS = "viridis"  # of known factors: ordered, and safe for every colour vision


def latent(material: Material) -> Figure:
    """The latent space: one panel coloured by label, or one for each known factor."""
    means, _, factors = material.coded
    title = f"Latent space of {material.dataset.name}: mean of q(z|x) of {len(means)} {material.coded_are} rows"
    if len(factors) < 2:
        figure = canvas(1100, 1000, title, material.subtitle)
        latent_panel(axes(figure, 130, HEAD + 20, 770, 770), material)
        return figure
    names = list(factors)[:FACTORS]
    columns = 3 if len(names) > 2 else 2
    rows = -(-len(names) // columns)
    figure = canvas(60 + columns * 520, HEAD + 40 + rows * 480, title, material.subtitle)
    for k, name in enumerate(names):  # each is named above its scale of colours
        i, j = divmod(k, columns)
        ax = axes(figure, SIDE + 50 + j * 520, HEAD + 30 + i * 480, 360, 360)
        _points(ax, material, factors[name], name)
    return figure


def latent_panel(ax: Axes, material: Material) -> None:
    """One scatter into ``ax``: by label, by the factor that these dimensions show best, or plain."""
    means, labels, factors = material.coded
    if labels is not None:
        _labelled(ax, material, labels)
    elif factors:
        name = max(factors, key=lambda key: explained(means[:, material.dimensions], factors[key]))
        _points(ax, material, factors[name], name)
    else:
        _points(ax, material, None, "")


def explained(z: Array, values: Array) -> float:
    """Share of the variance of ``values`` (n,) that a quadratic function of z (n, d) explains: R^2 of least squares."""
    both = np.column_stack([z, values]).astype(np.float64)
    both = both[np.isfinite(both).all(axis=1)]
    if len(both) < 2 or both[:, -1].var() == 0:
        return 0.0
    columns = list(both[:, :-1].T)
    products = [a * b for k, a in enumerate(columns) for b in columns[k:]]
    design = np.column_stack([np.ones(len(both)), *columns, *products])
    fit = design @ np.linalg.lstsq(design, both[:, -1], rcond=None)[0]
    return float(1 - (both[:, -1] - fit).var() / both[:, -1].var())


def _labelled(ax: Axes, material: Material, labels: Array) -> None:
    """A colour and a legend entry for each class; many classes share a scale of colours."""
    kinds, index = np.unique(labels, return_inverse=True)
    if len(kinds) > len(PALETTE):
        _points(ax, material, index, "class")
        return
    x, y = _places(material, index)
    size = _size(len(x))
    # In an order without meaning, else the last class would cover the others.
    order = np.random.default_rng(0).permutation(len(x))
    colors = np.array(PALETTE)[index[order]]
    ax.scatter(x[order], y[order], s=size, c=colors, linewidths=0, alpha=0.75, zorder=3)
    _frame(ax, material, x, y)
    if len(material.dimensions) == 1:
        ax.set_yticks(range(len(kinds)), [plain(kind) for kind in kinds])
        ax.set_ylabel("label")
        return
    for kind, color in zip(kinds, PALETTE, strict=False):
        ax.scatter([], [], s=26, c=color, linewidths=0, label=plain(kind))
    ax.legend(
        loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=STYLE["text"], handletextpad=0.1,
        labelspacing=0.45, borderaxespad=0.0,
    )  # fmt: skip


def _points(ax: Axes, material: Material, values: Array | None, name: str) -> None:
    """A scatter in one colour, or coloured by numbers with their scale beside it."""
    if len(material.dimensions) == 1:
        _line(ax, material, values, name)
        return
    x, y = _places(material, None)
    from matplotlib.ticker import MaxNLocator

    if values is None:
        ax.scatter(x, y, s=_size(len(x)), c=STYLE["train"], linewidths=0, alpha=0.6, zorder=3)
    else:
        drawn = ax.scatter(x, y, s=_size(len(x)), c=values, cmap=COLORS, linewidths=0, zorder=3)
        scale = ax.inset_axes((1.03, 0.0, 0.028, 1.0))
        bar = ax.figure.colorbar(drawn, cax=scale)
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_locator(MaxNLocator(5))
        scale.tick_params(labelsize=STYLE["text"] - 1, colors=STYLE["grey"], labelcolor=STYLE["ink"], length=2)
        scale.set_title(plain(name), size=STYLE["text"], color=STYLE["ink"], pad=5)
    _frame(ax, material, x, y)


def _line(ax: Axes, material: Material, values: Array | None, name: str) -> None:
    """One latent dimension: against the factor, or its histogram beside the density of N(0, 1)."""
    x, _ = _places(material, None)
    if values is not None:
        ax.scatter(x, values, s=_size(len(x)), c=STYLE["train"], linewidths=0, alpha=0.6, zorder=3)
        _frame(ax, material, x, values)
        axis_labels(ax, "z1", name)
        return
    sound = x[np.isfinite(x)]
    reach = _reach(x)
    edges = np.linspace(-reach, reach, 81)
    ax.hist(sound, bins=edges.tolist(), weights=np.full(len(sound), 1 / max(1, len(sound)) / (edges[1] - edges[0])),
            color=STYLE["train"], alpha=0.75)  # fmt: skip
    ax.plot(edges, np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi), color=STYLE["ink"], linewidth=1, label="N(0, 1)")
    ax.legend(frameon=False, fontsize=STYLE["text"])
    axis_labels(ax, "z1", "density")


def _places(material: Material, index: Array | None) -> tuple[Array, Array]:
    """Coordinates (n,), (n,): two latent dimensions, or the only one and the class with some jitter."""
    means, shown = material.coded[0], material.dimensions
    if len(shown) == 2:
        return means[:, shown[0]], means[:, shown[1]]
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, len(means))
    return means[:, 0], jitter + (0 if index is None else index)


def _size(points: int) -> float:
    return float(np.clip(12_000 / max(points, 1), 4.0, 22.0))


def _reach(*coordinates: Array) -> float:
    """Half width of the axes: three standard deviations of the prior, or more where the means lie outside.

    A collapsed encoder is then seen as what it is, one point at zero; the outermost 0.2 % do not stretch the axes.
    """
    values = np.abs(np.concatenate([c[np.isfinite(c)] for c in coordinates]))
    return max(3.2, 1.06 * float(np.quantile(values, 0.998))) if values.size else 3.2


def _frame(ax: Axes, material: Material, x: Array, y: Array) -> None:
    """Limits and names of the axes; circles hold 39, 86 and 99 % of the prior N(0, I)."""
    shown = material.dimensions
    if len(shown) == 1:
        reach = _reach(x)
        ax.set_xlim(-reach, reach)
        axis_labels(ax, "z1", "")
        return
    from matplotlib.patches import Circle

    reach = _reach(x, y)
    for radius in (1, 2, 3):
        ax.add_patch(Circle((0, 0), radius, fill=False, color=STYLE["faint"], linewidth=0.8, zorder=1))
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    first, second = (f"z{dimension + 1}" for dimension in shown)
    axis_labels(ax, first, second)
