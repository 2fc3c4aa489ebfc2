"""The figures of a run: what a person wants to look at when training has ended.

bound.png and samples.png for every run, reconstructions.png and latent.png where there is an encoder; manifold.png
where the latent space has two dimensions, with an encoder overview.png too. Importing this package does not import
matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aevb_engine.errors import StorageError
from aevb_engine.experiment.figures.bound import bound, bound_panel
from aevb_engine.experiment.figures.images import manifold, manifold_panel, reconstructions, samples
from aevb_engine.experiment.figures.latent import latent, latent_panel
from aevb_engine.experiment.figures.material import Material, latent_grid
from aevb_engine.experiment.figures.style import axes, canvas, drawn, own_style, panel_title
from aevb_engine.experiment.folder import RunFolder
from aevb_engine.experiment.session import Session

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENCODED = ("reconstructions", "latent", "overview")  # need an encoder
__all__ = ["draw", "latent_grid", "overview"]


def draw(
    folder: RunFolder, session: Session, result: Mapping[str, Any], note: Callable[[str], None] | None = None
) -> list[Path]:
    """Draw all figures that this run allows into ``folder.figures`` and return their paths.

    Each file is whole or absent: it is drawn in memory first and then published by replace. StorageError when the place
    cannot be written. ``result`` is the record of ``run --json``; fields that are missing are not shown. A figure that
    fails does not stop the others: ``note`` is told in a line; without it the first error is raised after the last one.
    """
    material = Material(folder, session, result)
    figures: dict[str, Callable[[Material], Figure | None]] = {
        "bound": bound,
        "reconstructions": reconstructions,
        "samples": samples,
        "latent": latent,
    }
    if session.model.architecture.latent == 2:
        figures |= {"manifold": manifold, "overview": overview}
    if not session.objective.has_encoder:
        figures = {name: make for name, make in figures.items() if name not in ENCODED}
    with own_style():
        pass  # without matplotlib none can be drawn: one error, not one a figure
    paths, failed = [], []
    for name, make in figures.items():
        try:
            path = drawn(partial(make, material), folder.figures / f"{name}.png")
        except StorageError:  # of the place, not of the figure
            raise
        except Exception as error:
            failed.append(error)
            if note is not None:
                note(f"{name}.png could not be drawn ({type(error).__name__}: {error})")
            continue
        if path is not None:
            paths.append(path)
    if failed and note is None:
        raise failed[0]
    return paths


def overview(material: Material) -> Figure:
    """One wide picture of a run with two latent dimensions: manifold, latent space and bound side by side."""
    figure = canvas(1960, 800, f"{material.dataset.name} in two latent dimensions", material.subtitle)
    boxes = [(110, 150, 560, 560), (770, 150, 560, 560), (1520, 150, 280, 560)]
    panels = [manifold_panel, latent_panel, bound_panel]
    titles = [
        "Mean of p(x|z) over the latent plane",
        f"Mean of q(z|x) of {material.coded_are} data",
        f"{material.column.capitalize()} while training",
    ]
    for box, panel, title in zip(boxes, panels, titles, strict=True):
        ax = axes(figure, *box)
        panel(ax, material)
        panel_title(ax, title)
    return figure
