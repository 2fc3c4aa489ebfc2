"""``aevb-engine resume``: go on with a run from its newest checkpoint."""

from __future__ import annotations

from typing import Any

import click

from aevb_cli import complete
from aevb_cli.options import CONTEXT, Command, progress_options


@click.command(
    cls=Command,
    context_settings=CONTEXT,
    short_help="Go on with a run that was stopped or killed, or lengthen it.",
    epilog="\b\nExamples:\n  aevb-engine resume latest\n"
    "  aevb-engine resume latest --steps 20000\n"
    "  aevb-engine resume runs/20260101T120000Z-glyphs-bernoulli-0a1b2c",
)
@click.argument("name", metavar="RUN", shell_complete=complete.runs)
@click.option(
    "--exact",
    is_flag=True,
    help="Fail unless this machine and its libraries give the same bits as the first part, and "
    "a longer run those of so long a run from the start.",
)
@click.option("--steps", type=int, metavar="N", help="The length from now on: steps in all, those done among them.")
@click.option("--epochs", type=float, metavar="N", help="The same in passes over the training rows.")
@progress_options
def resume(
    name: str,
    exact: bool,
    steps: int | None,
    epochs: float | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    no_figures: bool,
) -> None:
    """Go on with RUN (a folder, a name below runs/, or latest) from its newest sound checkpoint.

    The parameters at the end are those of an uninterrupted run, bit for bit, on the same machine and libraries. A run
    that is done stays as it is, and is shown; with --steps or --epochs a run, finished or not, goes on to that length,
    to the bits of a run of that length from the start; a line says where that cannot be.
    """
    from aevb_cli.work import show_done, work
    from aevb_engine.experiment.run import finished

    done = finished(name) if steps is None and epochs is None else None
    if done is not None:
        show_done(*done, as_json=as_json, quiet=quiet)
        return

    def begin(display: Any, stop: Any) -> Any:
        from aevb_engine.experiment.run import resume as go_on

        folder, session, result = go_on(name, exact=exact, steps=steps, epochs=epochs, display=display, stop=stop)
        return folder, session, {**result, "resumed": True}

    work(begin, as_json=as_json, quiet=quiet, verbose=verbose, figures=not no_figures)
