"""The bound over the data points seen: training, held-out data, and the truth where it is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aevb_engine.experiment.figures.material import Material, number
from aevb_engine.experiment.figures.style import STYLE, axes, axis_labels, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]
WINDOW = 0.08  # half width of the moving average, as a share of the position
LOG_ROWS = 50  # with fewer steps a linear axis shows more
START = 0.005  # share of the run, at its beginning, that may lie outside the axes
LINES = 20_000  # at most that many raw values are drawn


def bound(material: Material) -> Figure | None:
    """The bound curve, or None where no metrics were logged."""
    if not material.tables:
        return None
    figure = canvas(1100, 720, f"Bound while training on {material.dataset.name}", material.subtitle)
    bound_panel(axes(figure, 130, 140, 690, 480), material)
    return figure


def smooth(values: Array) -> tuple[npt.NDArray[np.intp], Array]:
    """Positions, and means of the values around them: row i averages i (1 - WINDOW) to i (1 + WINDOW).

    The window grows with the position, which is a constant width on a logarithmic axis; at the end it is cut.
    """
    n = len(values)
    at = np.unique(np.geomspace(1, n, 500).round().astype(np.intp)) - 1
    half = np.minimum(np.maximum(4, at * WINDOW).astype(np.intp), at)
    low, high = at - half, np.minimum(at + half + 1, n)
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return at, (total[high] - total[low]) / (high - low)


def bound_panel(ax: Axes, material: Material) -> None:
    """Train (raw and smoothed) and held-out curves into ``ax``, the final values beside their ends."""
    tables, ends = material.tables, []
    seen_last = max((float(t["seen"][-1]) for t in tables.values()), default=1.0)
    inside: list[Array] = []
    axis_labels(ax, "training data points seen", "bound, nats a data point")
    if "train" in tables:
        seen, values = tables["train"]["seen"], tables["train"]["bound"]
        thin = slice(None, None, -(-len(seen) // LINES))
        ax.plot(seen[thin], values[thin], color=STYLE["train"], alpha=0.22, linewidth=0.5, zorder=2)
        at, mean = smooth(values)
        ax.plot(seen[at], mean, color=STYLE["train"], linewidth=1.6, zorder=3)
        inside.append(mean[seen[at] >= START * seen_last])
        ends.append((float(mean[-1]), _objective(material), STYLE["train"]))
    if "eval" in tables:
        seen, values = tables["eval"]["seen"], tables["eval"]["bound"]
        ax.plot(seen, values, color=STYLE["held out"], linewidth=1.2, marker="o", markersize=2.4, zorder=4)
        inside.append(values)
        name = "validation" if material.session.held_out_is == "validation" else "test (display only)"
        ends.append((float(values[-1]), name, STYLE["held out"]))
    if (truth := _truth(material)) is not None:
        ax.axhline(truth, color=STYLE["ink"], linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        inside.append(np.array([truth]))
        ends.append((truth, "exact log p(x), test", STYLE["ink"]))
    _limits(ax, material, seen_last, np.concatenate([*inside, np.empty(0)]))
    _end_labels(ax, ends)


def _objective(material: Material) -> str:
    config = material.session.config
    return f"train (k = {config.samples})" if config.objective == "iwae" else "train"


def _truth(material: Material) -> float | None:
    data = material.dataset
    if data.true_log_prob is None:
        return None
    mean = float(np.mean(data.true_log_prob(data.test)))
    return mean if np.isfinite(mean) else None


def _limits(ax: Axes, material: Material, last: float, inside: Array) -> None:
    """Axes that leave out the first steps, whose bound is far below all that matters."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low, high = (float(inside.min()), float(inside.max())) if inside.size else (-1.0, 0.0)
    room = 0.06 * (high - low) or 1.0
    ax.set_ylim(low - room, high + room)
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}")))
    ax.grid(axis="y", color=STYLE["faint"], linewidth=0.5)
    ax.set_axisbelow(True)
    steps = len(material.tables.get("train", {}).get("seen", ()))
    if steps >= LOG_ROWS:
        ax.set_xscale("log")
        ax.set_xlim(max(START * last, last / steps), last)
    else:
        ax.set_xlim(0, last)
        ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    """500, 5k, 1.5M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def _end_labels(ax: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Names and final values on the right of the axes, at the height of the curves' ends, moved apart where needed."""
    low, high = ax.get_ylim()
    gap = 0.105 * 480 / (ax.get_position().height * ax.figure.get_size_inches()[1] * ax.figure.dpi)
    places: list[float] = []
    for value, name, color in sorted(ends):
        place = max(0.03, (value - low) / (high - low))
        if places:
            place = max(place, places[-1] + gap)
        places.append(place)
        ax.text(
            1.025, place, f"{name}\n{number(value)}", transform=ax.transAxes, va="center", ha="left",
            size=STYLE["text"], color=color, linespacing=1.25,
        )  # fmt: skip
