"""``aevb-engine run``: train a model from the beginning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from aevb_cli import boundary, complete
from aevb_cli.options import CONTEXT, Command, Section, debug_option
from aevb_engine.errors import UsageError

# Options of the command that are not fields of the configuration.
OUTSIDE = ("replicas", "vary", "config", "option", "output", "no_figures", "as_json", "quiet", "verbose", "debug")
FLAG: dict[str, Any] = {"is_flag": True}


def _choice(*names: str) -> dict[str, Any]:
    return {"type": click.Choice(names)}


# Name, section, help, and what click needs. Defaults are those of RunConfig; a test compares the words in brackets.
OPTIONS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("--dataset", "Data", "Data set; see `aevb-engine datasets list`. [glyphs]", {"metavar": "NAME"}),
    ("--data-dir", "Data", "Folder with data files, one that exists; missing files are downloaded into it. "
     "[the user's cache]",     {"metavar": "DIR", "envvar": "AEVB_DATA_DIR"}),
    ("--offline", "Data", "Never download.", FLAG),
    ("--binarize", "Data", "How grey pixels become 0 or 1; dynamic: a fresh draw each step. [set by the data]",
     _choice("none", "threshold", "static", "dynamic")),
    ("--scale", "Data", "Unit of grey pixels: 0..1 or 0..255. [unit]", _choice("unit", "raw")),
    ("--validation", "Data", "Part of the training rows held out for early stopping and the best checkpoint. [0]",
     {"type": float, "metavar": "F"}),
    ("--decoder", "Model", "Likelihood p(x|z): bernoulli, gaussian or a plugin's. [set by the data]",
     {"metavar": "NAME"}),
    ("--hidden", "Model", "Widths of the hidden layers; none for a linear model. [200]", {"metavar": "200,200"}),
    ("--activation", "Model", "tanh, relu or softplus. [tanh]", {"metavar": "NAME"}),
    ("--initial", "Model", "Start: glorot, weights by fan and the decoder's heads at the data's mean and spread; "
     "normal, all of them N(0, 0.01) as in the paper. [glorot]", _choice("normal", "glorot")),
    ("--standardize", "Data", "Read columns of real data by their mean and spread; auto: where they are far from unit "
     "scale. Bounds and outputs stay in the data's units. [auto]", _choice("auto", "always", "never")),
    ("--latent-dim", "Model", "Dimensions of z. [2]", {"type": int, "metavar": "N"}),
    ("--objective", "Training", "The learner: elbo (L^B), elbo-mc (L^A), iwae, beta, autoencoder, wake-sleep, mcem or "
     "a plugin's. [elbo]", {"metavar": "NAME"}),
    ("--samples", "Training", "Samples of z a data point: L, and k of iwae. [1]", {"type": int, "metavar": "N"}),
    ("--optimizer", "Training", "adam, adagrad, momentum, rmsprop, sgd or a plugin's. [adam]", {"metavar": "NAME"}),
    ("--lr", "Training", "Learning rate. [adam 0.003, adagrad 0.01, others 0.001; with a schedule that does not fall "
     "to zero adam 0.001, adagrad 0.02]", {"type": float, "metavar": "RATE"}),
    ("--lr-schedule", "Training", "constant, linear:0.5 (to zero over the last half), exponential:0.5:1000 or "
     "steps:5000,8000:0.1. [linear:0.5; constant with --initial normal or --until-converged]",
     {"metavar": "TEXT"}),
    ("--weight-decay", "Training", "lambda / N x theta in the gradient; 1 is the N(0, I) prior. [0]",
     {"type": float, "metavar": "LAMBDA"}),
    ("--batch-size", "Training", "Data points a step. [100]", {"type": int, "metavar": "N"}),
    ("--epochs", "Training", "Length in passes over the training rows. [50]", {"type": float, "metavar": "N"}),
    ("--steps", "Training", "Length in steps, instead of --epochs.", {"type": int, "metavar": "N"}),
    ("--until-converged", "Training", "Stop when the validation bound, smoothed over 3 evaluations, has not improved "
     "by 1e-4 of its size for 10 (autoencoder: the reconstruction; mcem has neither).", FLAG),
    ("--eval-every", "Training", "Steps between two held-out bounds. [an epoch or less]",
     {"type": int, "metavar": "STEPS"}),
    ("--seed", "Training", "Seed of everything random. [0]", {"type": int, "metavar": "N"}),
    ("--backend", "Machine", "Where to compute. [auto]", _choice("auto", "cpu", "gpu")),
    ("--precision", "Machine", "tf32: float32, with the products of training in TF32 on a GPU. [float32]",
     _choice("float32", "float64", "tf32")),
    ("--trainer", "Machine", "How a GPU runs the steps: eager, launch by launch; graph, captured and replayed; "
     "persistent, one kernel for many steps. [auto]", _choice("auto", "eager", "graph", "persistent")),
    ("--graph", "Machine", "As --trainer graph, but fail where the step cannot be captured.", FLAG),
    ("--threads", "Machine", "[as many as pay]", {"type": int, "metavar": "N"}),
    ("--replicas", "Machine", "Train from so many seeds, --seed and those after it, each into a folder of its own; in "
     "one kernel under --trainer persistent. [1]", {"type": int, "metavar": "N"}),
    ("--vary", "Machine", "Train with each of these values of an option, of a plugin's as KIND.KEY, and with all "
     "combinations where it is repeated; as --replicas, and with it.", {"metavar": "KEY=V1,V2", "multiple": True}),
    ("--config", "Configuration", "TOML file with any of the other options by name.", {"metavar": "FILE.toml"}),
    ("-o", "Configuration", "Option of a plugin: decoder.KEY=VALUE, and so for optimizer, objective, dataset; repeat "
     "for more. See `aevb-engine plugins show`.", {"metavar": "KIND.KEY=VALUE", "multiple": True}),
    ("--output", "Output", "Folder of the run. [runs/<time>-<name>-<6 hex>]", {"metavar": "DIR"}),
    ("--no-figures", "Output", "Draw no figures at the end.", FLAG),
    ("--json", "Output", "Print the result as one JSON object on stdout.", {**FLAG, "envvar": "AEVB_RUN_JSON"}),
    ("--quiet", "Output", "Print nothing but errors (and the object of --json).", FLAG),
    ("-v", "Output", "Show every evaluation and the whole configuration.", FLAG),
)  # fmt: skip
NAMES = {"-o": ("-o", "--option", "option"), "--json": ("--json", "as_json"), "-v": ("-v", "--verbose", "verbose")}


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for name, section, text, kwargs in reversed(OPTIONS):
        names = NAMES.get(name, (name,))
        offer = complete.OPTIONS.get(name)
        function = click.option(*names, cls=Section, section=section, help=text, shell_complete=offer, **kwargs)(
            function
        )
    return function


@click.command(
    cls=Command,
    context_settings=CONTEXT,
    short_help="Train a model and keep the run in a folder.",
    epilog="\b\nExamples:\n"
    "  aevb-engine run\n"
    "  aevb-engine run --dataset mnist --binarize static --hidden 500 --latent-dim 20 --epochs 40\n"
    "  aevb-engine run --dataset freyfaces --optimizer adagrad --steps 10000 -o decoder.mean=sigmoid\n"
    "  aevb-engine run --backend gpu --trainer graph --precision tf32 --hidden 500 --latent-dim 20\n"
    "  aevb-engine run --vary lr=0.001,0.003 --vary latent-dim=2,10 --replicas 3 --output sweep\n"
    "  aevb-engine run --config experiment.toml --seed 2 --json > result.json\n\n"
    "Defaults are in brackets. A TOML file overrides them, environment variables (AEVB_DATA_DIR, AEVB_RUN_LR, "
    "AEVB_RUN_LATENT_DIM, ...) override the file, options override all. Ctrl-C stops after the steps under way; "
    "`aevb-engine resume` goes on to the same bits.",
)
@_options
@debug_option
@click.pass_context
def run(ctx: click.Context, /, **values: Any) -> None:
    """Train a variational autoencoder; without options on digits that the program draws itself."""
    from aevb_cli.configuration import check_environment, configuration, read_toml
    from aevb_cli.work import work, work_many

    check_environment(p.name if p.name != "as_json" else "json" for p in ctx.command.params if p.name)
    asked = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    given = {n: v for n, v in values.items() if n not in OUTSIDE and ctx.get_parameter_source(n) in asked}
    typed = [n for n in given if ctx.get_parameter_source(n) is ParameterSource.COMMANDLINE]
    of_config, of_command = read_toml(values["config"])
    for name, value in of_command.items():
        own = "as_json" if name == "json" else name
        if name == "debug":
            boundary.debug = boundary.debug or value
        elif ctx.get_parameter_source(own) not in asked:
            values[own] = value
    config = configuration(of_config, given, values["option"], typed)
    if values["output"] == "":
        raise UsageError("--output: the name of a folder is needed")
    output = Path(values["output"]) if values["output"] is not None else None

    def begin(display: Any, stop: Any) -> Any:
        from aevb_engine.experiment.run import start

        return start(config, output, display=display, stop=stop)

    def begin_many(display: Any, stop: Any, ended: Any) -> Any:
        from aevb_engine.experiment.replicas import start
        from aevb_engine.experiment.vary import parse_vary

        vary = parse_vary(values["vary"])
        return start(config, values["replicas"], output, vary=vary, display=display, stop=stop, ended=ended)

    shown = {name: values[name] for name in ("as_json", "quiet", "verbose")} | {"figures": not values["no_figures"]}
    if values["replicas"] is not None or values["vary"]:
        work_many(begin_many, **shown)
    else:
        work(begin, **shown)
