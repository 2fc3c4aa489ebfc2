"""One visual style for all figures, and the way to a PNG; places are pixels from the upper left corner."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aevb_engine.experiment import atomic
from aevb_engine.experiment.atomic import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
LARGE = 300_000  # bytes of a file
LEVELS = (256, 52, 32, 24)  # of a channel, tried in turn
STYLE: dict[str, Any] = {
    "ink": "#222222",
    "grey": "#666666",
    "faint": "#dddddd",
    "train": "#4477AA",
    "held out": "#CC5A00",
    "title": 11.0,
    "text": 8.0,
}
HEAD = 120  # height of title and subtitle
SIDE = 50  # margin on the left
# Paul Tol's "muted" scheme, told apart with every kind of colour vision, with a dark grey as the tenth.
PALETTE = (
    "#332288", "#88CCEE", "#117733", "#DDCC77", "#CC6677",
    "#AA4499", "#44AA99", "#882255", "#999933", "#555555",
)  # fmt: skip


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Matplotlib as it comes, whatever the user's matplotlibrc, style or backend; theirs are back afterwards.

    What a figure looks like is decided where texts and axes are made and again where they are drawn: both belong here.
    """
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what it thinks of a file that does not matter here
    try:
        matplotlib = _matplotlib()
        defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
        with matplotlib.rc_context(defaults):
            yield
    finally:
        log.setLevel(level)


def _matplotlib() -> Any:
    """The package, also where the user's matplotlibrc or MPLBACKEND keeps it from being imported."""
    try:
        import matplotlib
    except ImportError:
        raise
    except Exception:
        kept = {name: os.environ.pop(name, None) for name in ("MPLBACKEND", "MATPLOTLIBRC")}
        os.environ["MATPLOTLIBRC"] = os.devnull
        try:
            for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:  # half imported
                del sys.modules[name]
            import matplotlib
        finally:
            del os.environ["MATPLOTLIBRC"]
            os.environ.update({name: value for name, value in kept.items() if value is not None})
    return matplotlib


def plain(text: object) -> str:
    """Text of the user's, such as the name of a column, that holds no formula and no line break."""
    return shown(str(text)).replace("$", r"\$")


def canvas(width: int, height: int, title: str, subtitle: str) -> Figure:
    """An empty figure of that many pixels with its heading, on a canvas of its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left = SIDE / width
    figure.text(left, 1 - 48 / height, plain(title), size=STYLE["title"], weight="bold", color=STYLE["ink"])
    figure.text(left, 1 - 84 / height, plain(subtitle), size=STYLE["text"], color=STYLE["grey"])
    return figure


def axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes in that box of pixels, with light spines on the left and below only."""
    whole_width, whole_height = figure.get_size_inches() * figure.dpi
    box = (left / whole_width, 1 - (top + height) / whole_height, width / whole_width, height / whole_height)
    ax = figure.add_axes(box)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(STYLE["grey"])
        spine.set_linewidth(0.6)
    ax.tick_params(
        which="both", labelsize=STYLE["text"], colors=STYLE["grey"], labelcolor=STYLE["ink"], width=0.6, length=3
    )
    ax.tick_params(which="minor", length=1.5)
    return ax


def axis_labels(ax: Axes, x: str, y: str) -> None:
    """Names of both axes."""
    ax.set_xlabel(plain(x), size=STYLE["text"], color=STYLE["ink"])
    ax.set_ylabel(plain(y), size=STYLE["text"], color=STYLE["ink"])


def panel_title(ax: Axes, title: str) -> None:
    """A title above one of several panels."""
    ax.set_title(plain(title), loc="left", size=STYLE["text"], color=STYLE["ink"], pad=6)


def drawn(make: Callable[[], Figure | None], path: Path) -> Path | None:
    """Make a figure and publish it, all in the one style; None where there is nothing to draw."""
    with own_style():
        figure = make()
        return None if figure is None else png(figure, path)


def png(figure: Figure, path: Path) -> Path:
    """Publish the figure as a PNG, whole or not at all."""
    raw = io.BytesIO()
    figure.savefig(raw, format="raw", dpi=DPI)
    data = encoded(np.frombuffer(raw.getvalue(), np.uint8).reshape(*figure.canvas.get_width_height()[::-1], 4))
    with atomic.storage_errors("create", path.parent):
        atomic.make_folder(path.parent)
    atomic.write_bytes(path, data)
    return path


def encoded(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Opaque pixels (height, width, 4) as a PNG, with one channel where all is grey.

    A picture that is still LARGE is rounded to fewer levels a channel, which no eye tells from 256 in tiles and
    scatters; black and white stay what they are.
    """
    from PIL import Image  # comes with matplotlib, which needs it

    red, green, blue = (pixels[..., k] for k in range(3))
    grey = np.array_equal(red, green) and np.array_equal(red, blue)
    kept = red if grey else pixels[..., :3]
    data = b""
    for levels in LEVELS:
        top = levels - 1
        rounded = np.rint(np.rint(np.arange(256) * (top / 255)) * (255 / top)).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(rounded[kept]).save(buffer, "PNG", dpi=(DPI, DPI))
        data = buffer.getvalue()
        if len(data) <= LARGE:
            break
    return data
