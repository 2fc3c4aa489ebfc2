"""The variance of gradient estimators over the minibatch and over the samples a data point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aevb_engine.evaluation.variance import ESTIMATORS, GradientVariance
from aevb_engine.experiment.figures.style import STYLE, axes, axis_labels, canvas, panel_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {"elbo": "$L^B$", "elbo-mc": "$L^A$", "score-function": "score function"}
COLORS = {"elbo": "#4477AA", "elbo-mc": "#CC5A00", "score-function": "#555555"}


def variance(cells: Sequence[GradientVariance], subtitle: str) -> Figure:
    """Left the total over M at the fewest samples, right the part of the noise over L at the largest minibatch."""
    figure = canvas(1500, 760, "Variance of the encoder's gradient", subtitle)
    least, most = min(c.samples for c in cells), max(c.batch for c in cells)
    left, right = axes(figure, 130, 190, 480, 450), axes(figure, 790, 190, 480, 450)
    panel_title(left, f"Total, L = {least}")
    panel_title(right, f"Part of the noise, M = {most}")
    _lines(left, [c for c in cells if c.samples == least], lambda c: (c.batch, c.variance, c.variance_se))
    _lines(right, [c for c in cells if c.batch == most], lambda c: (c.samples, c.noise, c.noise_se))
    axis_labels(left, "minibatch M", "sum of the parameters' variances")
    axis_labels(right, "samples a data point L", "")
    return figure


LABEL = 12  # points between two labels


def _end_labels(ax: Axes, ends: Sequence[tuple[float, float, str]]) -> None:
    """The names of the lines at their ends, from below, as far apart as they need."""
    taken = -float("inf")
    for y, x, name in ends:
        at = float(ax.transData.transform((x, y))[1]) * 72 / ax.figure.dpi  # points from below
        taken = max(at, taken + LABEL)
        ax.annotate(
            LABELS[name], (x, y), xytext=(8, taken - at), textcoords="offset points", va="center",
            size=STYLE["text"], color=COLORS[name], annotation_clip=False,
        )  # fmt: skip


Point = tuple[int, float, float]


def _lines(ax: Axes, cells: Sequence[GradientVariance], point: Callable[[GradientVariance], Point]) -> None:
    """A line with error bars for each estimator, its name at its end; on logarithmic axes 1/M is a straight line."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

    ax.set_xscale("log")
    ax.set_yscale("log")
    ends = []
    for name in ESTIMATORS:
        points = sorted(point(c) for c in cells if c.estimator == name)
        x, y, error = (list(column) for column in zip(*points, strict=True))
        ax.errorbar(x, y, yerr=[2 * e for e in error], color=COLORS[name], linewidth=1.6, marker="o", markersize=3.5)
        ends.append((y[-1], x[-1], name))
    _end_labels(ax, sorted(ends))
    ax.xaxis.set_major_locator(FixedLocator(sorted({point(c)[0] for c in cells})))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(axis="y", color=STYLE["faint"], linewidth=0.5)
    ax.set_axisbelow(True)
