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
START = 0.01  # share of the run, at its beginning, that lies outside a logarithmic axis
SETTLED = 0.03  # share of the run after which every value lies inside the axes
MARKERS = 30  # with more evaluations a line alone
LINE = 23  # pixels a line of a label
LINES = 20_000  # at most that many raw values are drawn


def bound(material: Material) -> Figure | None:
    """The bound curve, or None where no metrics were logged."""
    if not material.tables:
        return None
    figure = canvas(
        1100, 720, f"{material.column.capitalize()} while training on {material.dataset.name}", material.subtitle
    )
    bound_panel(axes(figure, 130, 140, 690, 480), material)
    return figure


def smooth(values: Array) -> tuple[npt.NDArray[np.intp], Array]:
    """Positions, and means of the values around them: row i averages i (1 - WINDOW) to i (1 + WINDOW).

    The window grows with the position, which is a constant width on a logarithmic axis; at the end it is cut. A few
    values are left as they are.
    """
    n = len(values)
    if n < LOG_ROWS:
        return np.arange(n), np.asarray(values, np.float64)
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
    axis_labels(ax, "training data points seen", f"{material.column}, nats a data point")
    if "train" in tables:
        seen, values = tables["train"]["seen"], tables["train"][material.column]
        thin = slice(None, None, -(-len(seen) // LINES))
        ax.plot(seen[thin], values[thin], color=STYLE["train"], alpha=0.22, linewidth=0.5, zorder=2)
        at, mean = smooth(values)
        ax.plot(seen[at], mean, color=STYLE["train"], linewidth=2.2, zorder=3)
        settled = seen[at] >= SETTLED * seen_last
        inside.append(mean[settled])
        inside.append(np.quantile(values[len(values) // 2 :], [0.05, 0.95]))
        ends.append((float(mean[-1]), _objective(material), STYLE["train"]))
    if "eval" in tables:
        seen, values = tables["eval"]["seen"], tables["eval"][material.column]
        marker, width = ("o", 1.1) if len(seen) <= MARKERS else ("", 0.8)
        ax.plot(seen, values, color=STYLE["held out"], linewidth=width, marker=marker, markersize=2.4, zorder=4)
        inside.append(values[seen >= SETTLED * seen_last])
        name = "validation" if material.session.held_out_is == "validation" else "test\n(display only)"
        ends.append((float(values[-1]), name, STYLE["held out"]))
    if material.column == "bound" and (truth := _truth(material)) is not None:
        ax.axhline(truth, color=STYLE["ink"], linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        inside.append(np.array([truth]))
        ends.append((truth, "exact\nlog p(x)", STYLE["ink"]))
    _limits(ax, material, seen_last, np.concatenate([*inside, np.empty(0)]))
    _end_labels(ax, ends)


def _objective(material: Material) -> str:
    config = material.session.config
    return f"train (k = {config.samples})" if config.objective == "iwae" else "train"


def _truth(material: Material) -> float | None:
    data = material.dataset
    if data.true_log_prob is None:
        return None
    mean = float(np.mean(data.true_log_prob(data.test_rows)))
    return mean if np.isfinite(mean) else None


def _limits(ax: Axes, material: Material, last: float, inside: Array) -> None:
    """Axes that leave out the first steps, whose bound is far below all that matters."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = (float(inside.min()), float(inside.max())) if inside.size else (-1.0, 0.0)
    room = 0.06 * (high - low) or 1.0
    ax.set_ylim(low - room, high + room)
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}")))
    ax.grid(axis="y", color=STYLE["faint"], linewidth=0.5)
    ax.set_axisbelow(True)
    steps = len(material.tables.get("train", {}).get("seen", ()))
    if steps >= LOG_ROWS:
        wide = ax.get_window_extent().width > 500
        ax.set_xscale("log")
        ax.set_xlim(max(START * last, last / steps), last)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if wide else (1, 3)))
        ax.xaxis.set_minor_formatter(NullFormatter())
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
    """Names and final values right of the axes, at the height of the curves' ends or as near as there is room."""
    low, high = ax.get_ylim()
    whole = ax.get_window_extent().height
    places: list[float] = []
    ends = sorted(ends)
    sizes = [LINE * (name.count("\n") + 2) / whole for _, name, _ in ends]
    for (value, _, _), size in zip(ends, sizes, strict=True):
        least = places[-1] if places else 0.0  # upper edge of the label below
        places.append(max((value - low) / (high - low) + size / 2, least + size))
    top = 1.0
    for k in range(len(ends) - 1, -1, -1):  # push down from the top what grew beyond the axes
        places[k] = min(places[k], top)
        top = places[k] - sizes[k]
    for (value, name, color), place in zip(ends, places, strict=True):
        ax.text(
            1.03, place, f"{name}\n{number(value)}", transform=ax.transAxes, va="top", ha="left",
            size=STYLE["text"], color=color, linespacing=1.2,
        )  # fmt: skip
