"""``aevb-engine plugins``: decoders, optimizers, objectives and data sets, whoever provides them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import click

from aevb_cli.boundary import one_line
from aevb_cli.options import CONTEXT, Command, Group, debug_option, json_option, verbose_option
from aevb_cli.text import echo_json, pairs, prose, say, table
from aevb_engine.errors import AevbError, UsageError, suggest


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
                registry.load(kind, plugin.name)
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
@click.argument("kind")
@click.argument("name")
@json_option
@debug_option
def show(kind: str, name: str, as_json: bool) -> None:
    """What the plugin NAME of a KIND (decoder, optimizer, dataset, objective) is, and its options."""
    from aevb_engine import registry

    matching = next((k for k in registry.GROUPS if k == kind), None)
    if matching is None:
        raise UsageError(f"unknown kind '{kind}': {suggest(kind, registry.GROUPS)}")
    factory = registry.load(matching, name)
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


def options_table(options: Mapping[str, inspect.Parameter]) -> list[dict[str, str]]:
    """Name, type and default of each option, as words."""
    return [
        {
            "name": name,
            "type": inspect.formatannotation(parameter.annotation).replace("typing.", ""),
            "default": "required" if parameter.default is parameter.empty else str(parameter.default).lower()
            if isinstance(parameter.default, bool) else str(parameter.default),
        }
        for name, parameter in options.items()
    ]  # fmt: skip
