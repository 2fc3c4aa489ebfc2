"""``aevb-engine datasets``: what there is to train on, and where its files are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from aevb_cli import complete
from aevb_cli import display as displays
from aevb_cli.boundary import one_line, warn
from aevb_cli.options import CONTEXT, Command, Group, debug_option, json_option
from aevb_cli.plugins import options_table, sound
from aevb_cli.signals import Leave
from aevb_cli.text import echo_json, pairs, say
from aevb_engine.errors import AevbError, printable

DATA_DIR = click.option(
    "--data-dir", metavar="DIR", envvar="AEVB_DATA_DIR", help="Folder with data files. [the user's cache]"
)


@click.group(cls=Group, context_settings=CONTEXT, short_help="List, show and fetch data sets.",
             epilog="\b\nExample:\n  aevb-engine datasets list")  # fmt: skip
@debug_option
def datasets() -> None:
    """List, show and fetch data sets."""


@datasets.command("list", cls=Command, context_settings=CONTEXT, short_help="All data sets.",
                  epilog="\b\nExample:\n  aevb-engine datasets list --data-dir ~/data")  # fmt: skip
@DATA_DIR
@json_option
@debug_option
def list_(data_dir: str | None, as_json: bool) -> None:
    """All data sets with where their files are; nothing is loaded."""
    from aevb_engine import registry
    from aevb_engine.data.files import search_folders

    search_folders(_asked(data_dir))  # an error here is of no single data set
    found = []
    for plugin in registry.plugins("dataset"):
        entry: dict[str, Any] = {
            "name": plugin.name, "distribution": plugin.distribution, "version": plugin.version, "error": None,
        }  # fmt: skip
        try:
            factory = sound("dataset", plugin.name)
            entry |= {"summary": _summary(factory), "files": files(factory, data_dir)}
        except AevbError as error:
            entry |= {"summary": None, "files": [], "error": one_line(str(error))}
        found.append(entry)
    if as_json:
        echo_json({"schema": 1, "datasets": found})
        return
    rows: list[tuple[str, str]] = []
    for entry in found:
        rows.append((entry["name"], f"broken: {entry['error']}" if entry["error"] else entry["summary"]))
        if entry["files"]:
            rows.append(("", _where(entry["files"])))
    say(pairs(rows))
    say("\nTrain with: aevb-engine run --dataset NAME")


@datasets.command("show", cls=Command, context_settings=CONTEXT, short_help="One data set: options, files, sources.",
                  epilog="\b\nExample:\n  aevb-engine datasets show mnist")  # fmt: skip
@click.argument("name", shell_complete=complete.names("dataset"))
@DATA_DIR
@json_option
@debug_option
def show(name: str, data_dir: str | None, as_json: bool) -> None:
    """Options, files and sources of the data set NAME; nothing is loaded."""
    from aevb_engine import registry

    factory = sound("dataset", name)
    options = options_table(registry.options(factory))
    entry: dict[str, Any] = {"name": name, "summary": _summary(factory), "options": options}
    entry["files"] = files(factory, data_dir)
    if as_json:
        echo_json({"schema": 1, **entry})
        return
    rows = [("name", name), ("summary", str(entry["summary"]))]
    rows += [(f"-o dataset.{o['name']}", f"{o['type']}, default {o['default']}") for o in options]
    for file in entry["files"]:
        rows.append((file["name"], file["path"] or "not here; downloaded when needed"))
        rows += [("", url) for url in file["urls"]]
    say(pairs(rows))


@datasets.command("fetch", cls=Command, context_settings=CONTEXT, short_help="Download a data set's files.",
                  epilog="\b\nExample:\n  aevb-engine datasets fetch mnist")  # fmt: skip
@click.argument("name", shell_complete=complete.names("dataset"))
@DATA_DIR
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@json_option
@debug_option
def fetch(name: str, data_dir: str | None, quiet: bool, as_json: bool) -> None:
    """Download what is missing of the data set NAME and verify it."""
    from aevb_engine import registry

    factory = sound("dataset", name)
    source = registry.create("dataset", name)
    from aevb_engine.data.dataset import DataRequest
    from aevb_engine.data.load import load

    # Files are stored whole or not at all, so a signal may end this anywhere.
    with displays.choose(Leave(), quiet=quiet, verbose=False) as screen:
        load(source, DataRequest(data_dir=_asked(data_dir), progress=screen.data))
    found = files(factory, data_dir)
    if as_json:
        echo_json({"schema": 1, "name": name, "files": found})
    elif not found:
        say(f"{name} needs no files")
    else:
        click.echo("\n".join(printable(str(file["path"])) for file in found))


def files(factory: Callable[..., Any], data_dir: str | None) -> list[dict[str, Any]]:
    """The files of a data set and where each lies now (None: nowhere yet).

    They are the RemoteFile constants of the module that defines the data set, so a plugin need declare nothing.
    """
    from aevb_engine.data.files import RemoteFile, search_folders

    module = sys.modules.get(getattr(factory, "__module__", ""))
    remote = [value for value in vars(module).values() if isinstance(value, RemoteFile)] if module else []
    if not remote:
        return []
    folders = [f.path for f in search_folders(_asked(data_dir))]
    return [
        {
            "name": file.names[0],
            "path": next((str(p) for base in folders for p in file.found(base)), None),
            "target": str(folders[0] / file.folder / file.names[0]),
            "urls": list(file.urls),
            "sha256": file.sha256,
        }
        for file in remote
    ]


def _asked(data_dir: str | None) -> Path | None:
    return Path(data_dir) if data_dir else None


def _where(found: list[dict[str, Any]]) -> str:
    missing = [f for f in found if f["path"] is None]
    if not missing:
        return f"found in {one_line(str(Path(found[0]['path']).parent))}"
    what = "not here" if len(missing) == len(found) else f"{len(missing)} of {len(found)} files not here"
    return f"{what}; would be downloaded to {one_line(str(Path(missing[0]['target']).parent))}"


def _summary(factory: Callable[..., Any]) -> str:
    text = getattr(factory, "summary", None) or (factory.__doc__ or "").strip().partition("\n")[0]
    if not text:
        warn(f"{getattr(factory, '__qualname__', factory)} says nothing about itself")
    return one_line(str(text))
