"""``aevb-engine plugins``: decoders, optimizers, objectives and data sets, whoever provides them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from aevb_cli import complete
from aevb_cli.boundary import one_line
from aevb_cli.options import CONTEXT, Command, Group, debug_option, json_option, verbose_option
from aevb_cli.text import echo_json, pairs, prose, say, table
from aevb_engine.errors import AevbError, BackendError, UsageError, suggest

if TYPE_CHECKING:
    from aevb_engine.registry import Kind

# What a plugin of each kind makes; of a data set only ``load`` is asked.
MADE: dict[Kind, str] = {
    "decoder": "aevb_engine.model.likelihood:Likelihood",
    "optimizer": "aevb_engine.training.optimizer:Optimizer",
    "objective": "aevb_engine.objectives.base:Objective",
    "dataset": "aevb_engine.data.dataset:DatasetPlugin",
}


@click.group(cls=Group, context_settings=CONTEXT, short_help="List and show plugins.",
             epilog="\b\nExample:\n  aevb-engine plugins list")  # fmt: skip
@debug_option
def plugins() -> None:
    """List and show plugins: decoders, optimizers, objectives and data sets."""


@plugins.command("list", cls=Command, context_settings=CONTEXT, short_help="All plugins, broken ones included.",
                 epilog="\b\nExample:\n  aevb-engine plugins list --json")  # fmt: skip
@json_option
@verbose_option
@debug_option
def list_(as_json: bool, verbose: bool) -> None:
    """All plugins; a broken one is listed with its reason. Each is imported to see whether it works."""
    from aevb_engine import registry

    found = []
    for kind in registry.GROUPS:
        for plugin in registry.plugins(kind):
            error = None
            try:
                sound(kind, plugin.name)
            except AevbError as problem:
                error = one_line(str(problem))
            found.append({**vars(plugin), "error": error})
    if as_json:
        echo_json({"schema": 1, "plugins": found})
        return
    head = ["kind", "name", "distribution", "version", "target"]
    rows = [[one_line(str(p[key])) for key in head] for p in found]
    say(table(head, rows))
    broken = [p for p in found if p["error"]]
    for p in broken:
        say(f"broken: {p['kind']} {p['name']}: {p['error']}")
    if verbose:
        say(f"{len(found)} plugins, {len(broken)} broken")


@plugins.command("show", cls=Command, context_settings=CONTEXT, short_help="One plugin: its options and defaults.",
                 epilog="\b\nExample:\n  aevb-engine plugins show decoder gaussian")  # fmt: skip
@click.argument("kind", shell_complete=complete.kind)
@click.argument("name", shell_complete=complete.of_kind)
@json_option
@debug_option
def show(kind: str, name: str, as_json: bool) -> None:
    """What the plugin NAME of a KIND (decoder, optimizer, dataset, objective) is, and its options."""
    from aevb_engine import registry

    matching = next((k for k in registry.GROUPS if k == kind), None)
    if matching is None:
        raise UsageError(f"unknown kind '{kind}': {suggest(kind, registry.GROUPS)}")
    factory = sound(matching, name)
    plugin = next(p for p in registry.plugins(matching) if p.name == name)
    options = options_table(registry.options(factory))
    description = inspect.getdoc(factory) or ""
    if as_json:
        echo_json({"schema": 1, **vars(plugin), "description": description, "options": options})
        return
    rows = [("kind", kind), ("name", name), ("target", plugin.target)]
    rows.append(("distribution", f"{plugin.distribution} {plugin.version}"))
    rows += [(f"-o {kind}.{o['name']}", f"{o['type']}, default {o['default']}") for o in options]
    say(pairs(rows))
    if description:
        say(f"\n{prose(description)}")


def sound(kind: Kind, name: str) -> Callable[..., Any]:
    """The factory of a plugin that can be used: BackendError where what it makes is not of its kind."""
    from aevb_engine import registry

    factory = registry.load(kind, name)
    module, _, called = MADE[kind].partition(":")
    wanted = getattr(import_module(module), called)
    article = "an" if called[0] in "AEIOU" else "a"
    asks = any(option.default is option.empty for option in registry.options(factory).values())
    if not asks:  # what it makes tells, whatever the factory is
        made: object = registry.create(kind, name)
        what = type(made)
    elif isinstance(factory, type):
        what = factory
    else:
        return factory
    fits = callable(getattr(what, "load", None)) if kind == "dataset" else issubclass(what, wanted)
    if not fits:
        raise BackendError(
            f"{kind} plugin '{name}' makes a {what.__name__}, not {article} {called}; correct its entry point, or "
            "uninstall it"
        )
    return factory


def options_table(options: Mapping[str, inspect.Parameter]) -> list[dict[str, str]]:
    """Name, type and default of each option, as words."""
    return [
        {
            "name": name,
            "type": inspect.formatannotation(parameter.annotation).replace("typing.", ""),
            "default": "required" if parameter.default is parameter.empty else _default(parameter.default),
        }
        for name, parameter in options.items()
    ]


def _default(value: object) -> str:
    """As it would be given."""
    if isinstance(value, Enum):
        return value.name
    return str(value).lower() if isinstance(value, bool) else str(value)
