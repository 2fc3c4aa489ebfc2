"""``aevb-engine study``: measurements of the method itself, each with numbers and a figure in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from aevb_cli import progress
from aevb_cli.boundary import one_line
from aevb_cli.options import CONTEXT, Command, Group, Section, debug_option
from aevb_cli.run import NAMES, OPTIONS
from aevb_cli.text import echo_json, pairs
from aevb_engine.errors import UsageError

# Options of ``run`` that say what is studied.
SHARED = (
    "--dataset", "--data-dir", "--offline", "--binarize", "--scale", "--decoder", "--hidden", "--activation",
    "--initial", "--latent-dim", "--objective", "--optimizer", "--lr", "--seed", "--backend", "--precision",
    "--threads", "-o",
)  # fmt: skip


@click.group(
    cls=Group,
    context_settings=CONTEXT,
    short_help="Measurements of the method: variance of gradients.",
    epilog="\b\nExample:\n  aevb-engine study variance",
)
def study() -> None:
    """Measure something about the method on a data set and a model."""


def _shared(function: Callable[..., Any]) -> Callable[..., Any]:
    for name, section, text, kwargs in reversed(OPTIONS):
        if name in SHARED:
            names = NAMES.get(name, (name,))
            function = click.option(*names, cls=Section, section=section, help=text, **kwargs)(function)
    return function


@study.command(
    cls=Command,
    context_settings=CONTEXT,
    short_help="Variance of the gradient of L^A, L^B and the score function.",
    epilog="\b\nExamples:\n  aevb-engine study variance\n"
    "  aevb-engine study variance --dataset mnist --steps 1000 --minibatch 20,100 --output variance\n\n"
    "Defaults are in brackets. See docs/evaluation.md for what is measured.",
)
@click.option("--minibatch", default="10,30,100", metavar="M,...", cls=Section, section="Study",
              help="Data points of a gradient. [10,30,100]")  # fmt: skip
@click.option("--latent-samples", default="1,3,10", metavar="L,...", cls=Section, section="Study",
              help="Samples of z a data point. [1,3,10]")  # fmt: skip
@click.option("--replicates", type=int, default=100, metavar="N", cls=Section, section="Study",
              help="Minibatches of each kind, with two draws of noise each. [100]")  # fmt: skip
@click.option("--steps", type=int, metavar="N", cls=Section, section="Study",
              help="Training steps before the measurement. [0]")  # fmt: skip
@_shared
@click.option("--output", metavar="DIR", cls=Section, section="Output",
              help="Folder for variance.json and variance.png. [study-variance]")  # fmt: skip
@click.option("--no-figures", is_flag=True, cls=Section, section="Output", help="Draw no figure.")
@click.option("--json", "as_json", is_flag=True, cls=Section, section="Output",
              help="Print the result as one JSON object on stdout.")  # fmt: skip
@click.option("--quiet", is_flag=True, cls=Section, section="Output",
              help="Print nothing but errors (and the object of --json).")  # fmt: skip
@debug_option
@click.pass_context
def variance(ctx: click.Context, /, minibatch: str, latent_samples: str, replicates: int, **values: Any) -> None:
    """Measure how much three estimators of the encoder's gradient vary over minibatch size and samples.

    L^B has its KL term in closed form, L^A has none, the score function does not use the gradient of the decoder.
    """
    from aevb_cli.configuration import configuration
    from aevb_engine.experiment.study import variance_study

    asked = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    names = {name.strip("-").replace("-", "_") for name in SHARED} - {"o"} | {"steps"}
    given = {n: v for n, v in values.items() if n in names and ctx.get_parameter_source(n) in asked}
    if given.get("steps") == 0:
        del given["steps"]
    config = configuration(None, given, values["option"])
    with progress.choose(quiet=values["quiet"]) as stages:
        record = variance_study(
            config,
            batches=numbers("--minibatch", minibatch),
            samples=numbers("--latent-samples", latent_samples),
            replicates=replicates,
            output=Path(values["output"] or "study-variance"),
            figure=not values["no_figures"],
            progress=stages,
        )
    if values["as_json"]:
        echo_json(record)
    elif not values["quiet"]:
        _print(record)


def numbers(option: str, text: str) -> tuple[int, ...]:
    """``10,30,100``; UsageError otherwise."""
    parts = [part.strip() for part in text.split(",")]
    if not all(p.isascii() and p.isdigit() and len(p) < 7 for p in parts):
        raise UsageError(f"{option} {text}: write numbers such as 10,30,100")
    return tuple(int(p) for p in parts)


TITLES = {"elbo": "L^B", "elbo-mc": "L^A", "score-function": "score function"}


def _print(record: dict[str, Any]) -> None:
    """A table of the cells, and where they are kept."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("M", "L", "", "variance", "+- SE", "of the noise", "+- SE", "|mean|^2"):
        table.add_column(name, justify="left" if name == "" else "right")
    for cell in record["cells"]:
        figures = (cell[key] for key in ("variance", "variance_se", "noise", "noise_se", "signal"))
        table.add_row(
            str(cell["batch"]), str(cell["samples"]), TITLES[cell["estimator"]], *(f"{value:.3g}" for value in figures)
        )
    Console(highlight=False).print(table)
    click.echo(
        "sums over the encoder's parameters of gradients of minus the mean bound; "
        f"{record['replicates']} minibatches of {record['rows']:,} rows"
    )
    rows = [("numbers", one_line(f"{record['output']}/variance.json"))]
    if record["figure"]:
        rows.append(("figure", one_line(record["figure"])))
    click.echo(pairs(rows))
