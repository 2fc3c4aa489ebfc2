"""``aevb-engine study``: measurements of the method itself, each with numbers and a figure in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from aevb_cli import complete, progress
from aevb_cli.boundary import Interrupted, Signalled, one_line, warn
from aevb_cli.options import CONTEXT, Command, Group, Section, debug_option
from aevb_cli.run import NAMES, OPTIONS
from aevb_cli.text import echo_json, number, pairs, say, table
from aevb_engine.errors import TrainingError, UsageError

F = TypeVar("F", bound=Callable[..., Any])
# Options of ``run`` that say what is studied.
SHARED = (
    "--dataset", "--data-dir", "--offline", "--binarize", "--scale", "--decoder", "--hidden", "--activation",
    "--initial", "--latent-dim", "--objective", "--optimizer", "--lr", "--seed", "--backend", "--precision",
    "--threads", "-o",
)  # fmt: skip
LEARNERS = (*(name for name in SHARED if name != "--objective"), "--batch-size", "--samples", "--weight-decay")


@click.group(
    cls=Group,
    context_settings=CONTEXT,
    short_help="Measurements of the method: variance of gradients, comparison of learners.",
    epilog="\b\nExamples:\n  aevb-engine study variance\n  aevb-engine study learners",
)
def study() -> None:
    """Measure something about the method on a data set and a model."""


def _shared(chosen: tuple[str, ...]) -> Callable[[F], F]:
    """Those options of ``run``, under their headings."""

    def declare(function: F) -> F:
        for name, section, text, kwargs in reversed(OPTIONS):
            if name in chosen:
                names = NAMES.get(name, (name,))
                offer = complete.OPTIONS.get(name)
                function = click.option(
                    *names, cls=Section, section=section, help=text, shell_complete=offer, **kwargs
                )(function)
        return function

    return declare


def _outputs(name: str) -> Callable[[F], F]:
    """Where the study's numbers and figure go, and what is printed."""
    options = (
        click.option("--output", metavar="DIR", cls=Section, section="Output",
                     help=f"Folder for {name}.json and {name}.png. [study-{name}]"),
        click.option("--no-figures", is_flag=True, cls=Section, section="Output", help="Draw no figure."),
        click.option("--json", "as_json", is_flag=True, cls=Section, section="Output",
                     help="Print the result as one JSON object on stdout."),
        click.option("--quiet", is_flag=True, cls=Section, section="Output",
                     help="Print nothing but errors (and the object of --json)."),
    )  # fmt: skip

    def declare(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return declare


def _given(ctx: click.Context, chosen: tuple[str, ...], values: dict[str, Any]) -> dict[str, Any]:
    """Values of those options that the user gave."""
    asked = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    names = {name.strip("-").replace("-", "_") for name in chosen} - {"o"}
    return {n: v for n, v in values.items() if n in names and ctx.get_parameter_source(n) in asked}


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
@_shared(SHARED)
@_outputs("variance")
@debug_option
@click.pass_context
def variance(ctx: click.Context, /, minibatch: str, latent_samples: str, replicates: int, **values: Any) -> None:
    """Measure how much three estimators of the encoder's gradient vary over minibatch size and samples.

    L^B has its KL term in closed form, L^A has none, the score function does not use the gradient of the decoder.
    """
    from aevb_cli.configuration import configuration
    from aevb_engine.experiment.study import variance_study

    given = _given(ctx, (*SHARED, "--steps"), values)
    if given.get("steps") == 0:
        del given["steps"]
    config = configuration({}, given, values["option"])
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
    _show(record, _print, values)


def _show(record: dict[str, Any], write: Callable[[dict[str, Any]], None], values: dict[str, Any]) -> None:
    """The record in the form that was asked for."""
    if values["as_json"]:
        echo_json(record)
    elif not values["quiet"]:
        write(record)
        for line in record["warnings"]:
            warn(line)


def numbers(option: str, text: str, digits: int = 6) -> tuple[int, ...]:
    """``10,30,100``; UsageError otherwise."""
    parts = [part.strip() for part in text.split(",")]
    if not all(p.isascii() and p.isdigit() and len(p) <= digits for p in parts):
        raise UsageError(f"{option} {text}: write numbers such as 10,30,100")
    return tuple(int(p) for p in parts)


TITLES = {"elbo": "L^B", "elbo-mc": "L^A", "score-function": "score function"}


def _print(record: dict[str, Any]) -> None:
    """A table of the cells, and where they are kept."""
    head = ("M", "L", "estimator", "variance", "+- SE", "of the noise", "+- SE", "|mean|^2")
    rows = []
    for cell in record["cells"]:
        figures = (cell[key] for key in ("variance", "variance_se", "noise", "noise_se", "signal"))
        mark = " *" if cell["signal"] < 0 else ""
        name = TITLES[cell["estimator"]]
        rows.append((str(cell["batch"]), str(cell["samples"]), name, *(f"{value:.3g}" for value in figures)))
        rows[-1] = (*rows[-1][:-1], rows[-1][-1] + mark)
    say(table(head, rows, right=(0, 1, *range(3, len(head)))))
    say(
        "sums over the encoder's parameters of gradients of minus the mean bound; "
        f"{record['replicates']} minibatches of {record['rows']:,} rows"
    )
    if any(cell["signal"] < 0 for cell in record["cells"]):
        say(
            "* |mean|^2 is what is left of the mean gradient's square once its own variance is taken off: below zero "
            "by chance where the noise is larger than the mean, so 0 within its error; more --replicates tell more"
        )
    kept = [("numbers", one_line(f"{record['output']}/variance.json"))]
    if record["figure"]:
        kept.append(("figure", one_line(record["figure"])))
    say(pairs(kept))


@study.command(
    cls=Command,
    context_settings=CONTEXT,
    short_help="Learners compared by log-likelihood over data points seen (KW Fig. 3).",
    epilog="\b\nExamples:\n  aevb-engine study learners\n"
    "  aevb-engine study learners --dataset mnist --binarize threshold --hidden 100 --latent-dim 3 --optimizer adagrad "
    "--train-rows 1000,50000 --seen 2000000\n\n"
    "Defaults are in brackets. An option of one learner: -o mcem.updates=1. Ctrl-C keeps what was measured. See "
    "docs/evaluation.md for what is measured.",
)
@click.option("--objectives", default="elbo,wake-sleep,mcem", metavar="NAME,...", cls=Section, section="Study",
              shell_complete=complete.several("objective"),
              help="Learners; differences are taken to the first. [elbo,wake-sleep,mcem]")  # fmt: skip
@click.option("--train-rows", metavar="N,...", cls=Section, section="Study",
              help="Sizes of the training set: the first N rows of a permutation. [all]")  # fmt: skip
@click.option("--seen", default="100000", metavar="N,...", cls=Section, section="Study",
              help="Training data points seen at each estimate; of one number 1, 2, 5, 10, ... times ten minibatches "
              "up to it. [100000]")  # fmt: skip
@click.option("--rows", type=int, default=100, metavar="N", cls=Section, section="Study",
              help="The first N rows of the test and of the training set are evaluated. [100]")  # fmt: skip
@click.option("--temperatures", type=int, default=50, metavar="T", cls=Section, section="Study",
              help="Temperatures of annealed importance sampling. [50]")  # fmt: skip
@click.option("--chains", type=int, default=16, metavar="K", cls=Section, section="Study",
              help="Its chains a data point. [16]")  # fmt: skip
@_shared(LEARNERS)
@_outputs("learners")
@debug_option
@click.pass_context
def learners(ctx: click.Context, /, rows: int, temperatures: int, chains: int, **values: Any) -> None:
    """Train several learners alike and follow log p(x) of test and training rows over the data points seen.

    The model, its initial parameters, minibatches and optimizer are the same for all, and so is the estimator: annealed
    importance sampling from the prior, which needs no encoder.
    """
    from aevb_cli.configuration import configuration
    from aevb_engine.experiment.learners import Plan, learners_study

    names = tuple(dict.fromkeys(part.strip() for part in values["objectives"].split(",")))
    own, others = _of_learners(values["option"], names)
    plan = Plan(
        objectives=names,
        options=own,
        train_rows=numbers("--train-rows", values["train_rows"], 9) if values["train_rows"] is not None else (),
        seen=numbers("--seen", values["seen"], 12),
        rows=rows,
        temperatures=temperatures,
        chains=chains,
    )
    config = configuration({}, _given(ctx, LEARNERS, values), others)
    output = Path(values["output"] or "study-learners")
    try:
        with progress.choose(quiet=values["quiet"]) as stages:
            record = learners_study(config, plan, output=output, figure=not values["no_figures"], progress=stages)
    except Signalled as signalled:
        raise Interrupted(signalled.number, _kept(output)) from None
    _show(record, _print_learners, values)
    lost = [c["objective"] for c in record["curves"] if c["diverged"]]
    if lost:
        raise TrainingError(f"{', '.join(lost)} diverged; try a smaller --lr; {_kept(output, 'the rest is kept')}")


def _of_learners(options: tuple[str, ...], names: tuple[str, ...]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """``mcem.updates=1`` by learner, and the other pairs; UsageError for one that does not say whose it is."""
    own: dict[str, dict[str, str]] = {}
    others = []
    for pair in options:
        path, equals, value = pair.partition("=")
        kind, dot, key = path.strip().partition(".")
        if kind == "objective":
            raise UsageError(f"-o {pair}: name the learner, such as -o mcem.updates=1")
        if kind in names and equals and dot and key:
            own.setdefault(kind, {})[key.strip().replace("-", "_")] = value.strip()
        else:
            others.append(pair)
    return own, others


def _kept(output: Path, words: str = "interrupted; what was measured is kept") -> str:
    file = output / "learners.json"
    return f"{words} in {one_line(str(file))}" if file.exists() else "interrupted before the first estimate"


def _print_learners(record: dict[str, Any]) -> None:
    """A table of all estimates for each size of the training set, and where they are kept."""
    head = ("", "seen", "seconds", "test", "+- SE", "- first", "+- SE", "train")
    for size in dict.fromkeys(curve["train_rows"] for curve in record["curves"]):
        rows = []
        for curve in record["curves"]:
            if curve["train_rows"] == size:
                label = curve["objective"] + (" *" if curve["extension"] else "")
                for e in curve["evaluations"]:
                    figures = [e["test"][key] for key in ("log_likelihood", "se", "above_first", "above_first_se")]
                    cells = map(number, (*figures, e["train"]["log_likelihood"]))
                    rows.append((label, f"{e['seen']:,}", f"{e['seconds']:.1f}", *cells))
        say(f"{size:,} training data points")
        say(table(head, rows, right=range(1, len(head))))
    by = record["estimator"]
    evaluations = [e for curve in record["curves"] for e in curve["evaluations"]]
    errors = [e[split]["mc_se"] or 0.0 for e in evaluations for split in ("test", "train")]
    say(
        f"log p(x) in nats a data point, by annealed importance sampling from the prior ({by['temperatures']} "
        f"temperatures, {by['chains']} chains) of {by['rows']} rows; Monte Carlo errors up to "
        f"{max(errors, default=0.0):.2f}; seconds of training; differences to {record['objectives'][0]} are paired"
    )
    if any(curve["extension"] for curve in record["curves"]):
        say("* Monte Carlo EM on minibatches: an extension, the original is not on-line (KW section 5)")
    kept = [("numbers", one_line(f"{record['output']}/learners.json"))]
    if record["figure"]:
        kept.append(("figure", one_line(record["figure"])))
    say(pairs(kept))
