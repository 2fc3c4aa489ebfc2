"""What the shell offers after TAB: names of plugins, runs and options to vary; quick, and silent where it fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

Offer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
KINDS = ("decoder", "optimizer", "dataset", "objective")
MOST = 200  # runs


def _offer(find: Callable[[click.Context, str], Iterable[CompletionItem | str]]) -> Offer:
    """Those that begin as what is typed; a completion says nothing of errors."""

    def offer(ctx: click.Context, _: click.Parameter, typed: str) -> list[CompletionItem]:
        try:
            items = [i if isinstance(i, CompletionItem) else CompletionItem(i) for i in find(ctx, typed)]
        except Exception:
            return []
        return [item for item in items if item.type != "plain" or item.value.startswith(typed)]

    return offer


def names(kind: str) -> Offer:
    """Names of plugins; none is imported."""
    return _offer(lambda ctx, typed: _plugins(kind))


def several(kind: str) -> Offer:
    """The same in a list with commas."""

    def find(ctx: click.Context, typed: str) -> list[str]:
        done, comma, _ = typed.rpartition(",")
        given = done.split(",")
        return [f"{done}{comma}{name}" for name in _plugins(kind) if name not in given]

    return _offer(find)


def _plugins(kind: Any) -> list[str]:
    from aevb_engine import registry

    return sorted({plugin.name for plugin in registry.plugins(kind)})


def _of_kind(ctx: click.Context, typed: str) -> list[str]:
    return _plugins(ctx.params["kind"])


def _runs(ctx: click.Context, typed: str) -> list[CompletionItem | str]:
    """Runs below runs/, the newest first, ``latest``, and folders."""
    folder = CompletionItem(typed, type="dir")
    if os.sep in typed:
        return [folder]
    root = Path("runs")
    found = sorted((p.name for p in root.iterdir()), reverse=True) if root.is_dir() else []
    known = [name for name in found[:MOST] if (root / name / "run.json").is_file()]
    with os.scandir() as listing:
        folders = [entry.name for entry in listing if entry.is_dir()]
    here = [name for name in folders[: 10 * MOST] if Path(name, "run.json").is_file()][:MOST]
    return [*(["latest"] if known else []), *known, *sorted(here)] or [folder]


def _varied(ctx: click.Context, typed: str) -> list[str]:
    from aevb_engine.experiment.vary import KEYS

    return [f"{key.replace('_', '-')}=" for key in KEYS]


def _kind_of_option(ctx: click.Context, typed: str) -> list[str]:
    return [f"{kind}." for kind in KINDS]


runs, kind, of_kind = _offer(_runs), _offer(lambda ctx, typed: KINDS), _offer(_of_kind)
_folder = _offer(lambda ctx, typed: [CompletionItem(typed, type="dir")])
_file = _offer(lambda ctx, typed: [CompletionItem(typed, type="file")])
# By the option of ``run`` and of those that share it.
OPTIONS: dict[str, Offer] = {
    "--dataset": names("dataset"),
    "--decoder": names("decoder"),
    "--optimizer": names("optimizer"),
    "--objective": names("objective"),
    "--vary": _offer(_varied),
    "--config": _file,
    "--output": _folder,
    "--data-dir": _folder,
    "-o": _offer(_kind_of_option),
}
