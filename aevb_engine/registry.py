"""Named factories found through entry points, imported one at a time and only when asked for."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aevb_engine import blame
from aevb_engine.convert import convert, typed
from aevb_engine.errors import AevbError, BackendError, UsageError, suggest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Kind = Literal["decoder", "optimizer", "dataset", "objective"]
GROUPS: dict[Kind, str] = {
    "decoder": "aevb_engine.decoders",
    "optimizer": "aevb_engine.optimizers",
    "dataset": "aevb_engine.datasets",
    "objective": "aevb_engine.objectives",
}
SIMPLE = re.compile(r"[\w.]+:[\w.]+")  # an entry point that says nothing but what to import


@dataclass(frozen=True)
class Plugin:
    """One registered name: where it comes from, without importing it."""

    kind: Kind
    name: str
    target: str
    distribution: str
    version: str


def _points(kind: Kind) -> list[EntryPoint]:
    """Every entry point of a kind, by name; the same one from two distributions counts once."""
    from importlib.metadata import entry_points  # a quarter of the engine's import time, needed by few of its users

    return list({(p.name, p.value): p for p in sorted(entry_points(group=GROUPS[kind]))}.values())


def plugins(kind: Kind) -> list[Plugin]:
    """All registered names of one kind, sorted; nothing is imported."""
    found = []
    for point in _points(kind):
        dist = point.dist
        found.append(Plugin(kind, point.name, point.value, dist.name if dist else "?", dist.version if dist else "?"))
    return found


def _target(kind: Kind, name: str) -> str | None:
    """Where a name points to, read from the installed distributions' lists; None where that is not one simple place.

    What ``importlib.metadata`` would find, without importing it: that takes as long as many a training step.
    """
    seen: set[str] = set()
    targets: set[str] = set()
    for place in sys.path:
        if not isinstance(place, str):  # as the import system, which skips it
            continue
        try:
            folders = [f for f in Path(place or ".").iterdir() if f.name.endswith((".dist-info", ".egg-info"))]
        except (OSError, ValueError):  # an archive, nothing, or no path
            continue
        for folder in folders:
            distribution = folder.name.split("-")[0].removesuffix(".egg").replace(".", "_").lower()
            if distribution in seen:  # an earlier place on the path hides it
                continue
            seen.add(distribution)
            with contextlib.suppress(OSError, UnicodeDecodeError):
                text = (folder / "entry_points.txt").read_text(encoding="utf-8")
                targets |= _listed(text, GROUPS[kind], name)
    target = targets.pop() if len(targets) == 1 else ""
    return target if SIMPLE.fullmatch(target) else None


def _listed(text: str, group: str, name: str) -> set[str]:
    """The targets of ``name`` in one list of entry points."""
    section, found = "", set()
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line.strip("[]")
        elif section == group and line.partition("=")[0].strip() == name:
            found.add(line.partition("=")[2].strip())
    return found


def _follow(target: str) -> Any:
    """The object that ``module:name.name`` stands for."""
    module, _, names = target.partition(":")
    return functools.reduce(getattr, filter(None, names.split(".")), importlib.import_module(module))


def load(kind: Kind, name: str) -> Callable[..., Any]:
    """The factory registered under ``name``: a class or function whose keyword parameters are its options."""
    return _load(kind, name)[1]


def _load(kind: Kind, name: str) -> tuple[blame.Origin, Callable[..., Any]]:
    target = _target(kind, name)
    point = None if target is not None else _search(kind, name)  # extras, spaces, two of a name, or none
    if point is not None:
        target = point.value
    origin = blame.Origin(kind, name, target or "")
    try:
        factory = _follow(str(target)) if point is None else point.load()
    except AevbError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may fail in any way; the user needs its name, no traceback
        raise BackendError(f"{origin} cannot be imported: {blame.said(error)}; reinstall or uninstall it") from error
    if not callable(factory):
        raise BackendError(f"{origin} is not callable; it must be a class")
    return origin, typing.cast(Callable[..., Any], factory)


def _search(kind: Kind, name: str) -> EntryPoint:
    """The same with care: whatever kind of place a distribution lies in, and what to say of none or two."""
    points = _points(kind)
    named = [p for p in points if p.name == name]
    if not named:
        raise UsageError(f"unknown {kind} '{name}': {suggest(name, {p.name for p in points})}")
    if len(named) > 1:
        raise BackendError(
            f"two {kind} plugins are called '{name}': {named[0].value} and {named[1].value}; uninstall one of them"
        )
    if named[0].pattern.match(named[0].value) is None:
        origin = blame.Origin(kind, name, named[0].value)
        raise BackendError(f"{origin} cannot be imported: its entry point is not module:name; uninstall it")
    return named[0]


def options(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of a factory: its parameters that can be given by name, each with the type that it is read as."""
    if isinstance(factory, type) and not {"__init__", "__new__"} & {n for c in factory.__mro__[:-1] for n in vars(c)}:
        return {}  # reading the signature of object would take as long as some steps
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # a function of C's
        return {}
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return typed(factory, {n: p for n, p in signature.parameters.items() if p.kind in by_name})


def create(kind: Kind, name: str, given: Mapping[str, object] | None = None, base: type = object) -> Any:
    """Build the plugin ``name`` with options given as text (command line) or values (Python, TOML).

    BackendError where it cannot be made, is no ``base``, or declares something wrong; UsageError for its options.
    """
    origin, factory = _load(kind, name)
    known = options(factory)
    converted: dict[str, object] = {}
    for key, value in (given or {}).items():
        if key not in known:
            raise UsageError(f"{kind} '{name}' has no option '{key}': {suggest(key, known)}")
        converted[key] = convert(f"{kind}.{key}", value, known[key].annotation)
    for key, option in known.items():
        if option.default is option.empty and key not in converted:
            raise UsageError(
                f"{kind} '{name}' needs the option {key}: -o {kind}.{key}=VALUE",
                python=f"{kind} '{name}' needs the option {key}: give it in {kind}_options, or by name to dataset()"
                if kind == "dataset" else f"{kind} '{name}' needs the option {key}: {kind}_options={{'{key}': ...}}",
            )  # fmt: skip
    try:
        made = factory(**converted)
    except AevbError:
        raise
    except (Exception, SystemExit) as error:  # as above
        line = f"{origin} cannot be made: {blame.said(error)}; correct the plugin, or use another"
        raise BackendError(line) from error
    blame.remember(made, origin)
    if not isinstance(made, base):
        article = "an" if base.__name__[0] in "AEIOU" else "a"
        raise BackendError(
            f"{origin} makes a {type(made).__name__}, not {article} {base.__name__}; correct its entry point, or "
            "uninstall it"
        )
    declared(made, base)
    return made


def declared(made: Any, base: type) -> None:
    """BackendError where a plugin's attributes are not what its base class says of them (``base.check_declared``)."""
    check = getattr(base, "check_declared", None)
    if check is None:
        return
    try:
        check(made)
    except (AttributeError, TypeError, ValueError) as error:
        raise blame.fault(made, str(error)) from error
