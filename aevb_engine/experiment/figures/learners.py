"""log p(x) over the data points seen, a line for each learner (KW Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from aevb_engine.experiment.figures.style import PALETTE, STYLE, axes, axis_labels, canvas, panel_title, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {"elbo": "AEVB (elbo)", "wake-sleep": "wake-sleep", "mcem": "Monte Carlo EM"}
COLORS = {"elbo": "#4477AA", "wake-sleep": "#CC5A00", "mcem": "#117733"}
LINES: dict[str, Literal["-", "--"]] = {"test": "-", "train": "--"}
ACROSS = 2  # panels of a row
ALONE, WIDTH, HEIGHT, LEFT, TOP, GAP = 1160, 600, 480, 130, 210, 130  # pixels
ENTRIES, ENTRY = 5, 26  # entries of a line of the legend, and its height


def learners(record: Mapping[str, Any]) -> Figure:
    """A panel for each size of the training set; test rows solid with bars of 2 Monte Carlo errors, training dashed."""
    sizes = list(dict.fromkeys(curve["train_rows"] for curve in record["curves"]))
    names = list(dict.fromkeys(curve["objective"] for curve in record["curves"]))
    wide, top = ALONE if len(sizes) == 1 else WIDTH, TOP + (len(names) + 1) // ENTRIES * ENTRY
    width = LEFT + min(ACROSS, len(sizes)) * (wide + GAP) - 80
    height = top + -(-len(sizes) // ACROSS) * (HEIGHT + GAP) - 30
    figure = canvas(width, height, "Learners compared by log p(x)", _subtitle(record))
    for i, size in enumerate(sizes):
        ax = axes(figure, LEFT + i % ACROSS * (wide + GAP), top + i // ACROSS * (HEIGHT + GAP), wide, HEIGHT)
        panel_title(ax, f"{size:,} training data points")
        for curve in record["curves"]:
            if curve["train_rows"] == size:
                _curve(ax, curve, color(curve["objective"], names))
        ax.set_xscale("log")
        ax.grid(axis="y", color=STYLE["faint"], linewidth=0.5)
        ax.set_axisbelow(True)
        axis_labels(ax, "training data points seen", "" if i % ACROSS else "log p(x), nats a data point")
    _legend(figure, record, names, width, height)
    return figure


def color(name: str, names: list[str]) -> str:
    """Of a learner: its own, or one by its place among the others."""
    others = [n for n in names if n not in COLORS]
    return COLORS[name] if name in COLORS else PALETTE[(others.index(name) + 4) % len(PALETTE)]


def _subtitle(record: Mapping[str, Any]) -> str:
    by, hidden = record["estimator"], "-".join(map(str, record["hidden"])) or "none"
    return (
        f"{record['dataset']}, hidden {hidden}, {record['latent_dim']} latent dimensions, {record['optimizer']} "
        f"{record['lr']:g}, seed {record['seed']}; AIS of {by['rows']} rows"
    )


def _curve(ax: Axes, curve: Mapping[str, Any], ink: str) -> None:
    for split, line in LINES.items():
        points = [(e["seen"], e[split]) for e in curve["evaluations"] if e[split]["log_likelihood"] is not None]
        if not points:
            continue
        seen, values = [x for x, _ in points], [v["log_likelihood"] for _, v in points]
        if split == "train":
            ax.plot(seen, values, color=ink, linewidth=1.0, linestyle=line)
        else:
            errors = [2 * (v["mc_se"] or 0.0) for _, v in points]
            ax.errorbar(seen, values, yerr=errors, color=ink, linewidth=1.6, linestyle=line, marker="o", markersize=3.5)


def _legend(figure: Figure, record: Mapping[str, Any], names: list[str], width: int, height: int) -> None:
    """Learners and kinds of rows in one line below the heading."""
    from matplotlib.lines import Line2D

    extended = {curve["objective"] for curve in record["curves"] if curve["extension"]}
    handles = [
        Line2D(
            [], [], color=color(name, names), linewidth=1.6, marker="o", markersize=3.5,
            label=plain(LABELS.get(name, name)) + (" on minibatches, an extension" if name in extended else ""),
        )
        for name in names
    ]  # fmt: skip
    handles += [
        Line2D([], [], color=STYLE["grey"], linewidth=1.6 if split == "test" else 1.0, linestyle=line, label=label)
        for (split, line), label in zip(LINES.items(), ("test rows", "training rows"), strict=True)
    ]
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(38 / width, 1 - 104 / height), ncols=ENTRIES,
        frameon=False, fontsize=STYLE["text"], labelcolor=STYLE["ink"], handlelength=2.6, columnspacing=1.6,
    )  # fmt: skip
