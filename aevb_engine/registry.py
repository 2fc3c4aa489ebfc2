"""Named factories found through entry points, imported one at a time and only when asked for."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
    """Where a name points to, read from the installed distributions' lists; None where that is not one place.

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
    return targets.pop() if len(targets) == 1 else None


def _listed(text: str, group: str, name: str) -> set[str]:
    """The targets of ``name`` in one list of entry points."""
    section, found = "", set()
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]").strip()
        elif section == group and line.partition("=")[0].strip() == name:
            found.add(line.partition("=")[2].strip())
    return found


def _follow(target: str) -> Any:
    """The object that ``module:name.name`` stands for."""
    module, _, names = target.partition(":")
    return functools.reduce(getattr, filter(None, names.split(".")), importlib.import_module(module))


def load(kind: Kind, name: str) -> Callable[..., Any]:
    """The factory registered under ``name``: a class or function whose keyword parameters are its options."""
    target = _target(kind, name) or _search(kind, name)
    try:
        factory = _follow(target)
    except AevbError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may fail in any way; the user needs its name, no traceback
        raise BackendError(
            f"{kind} plugin '{name}' ({target}) cannot be imported: {type(error).__name__}: {error}; "
            "reinstall or uninstall it"
        ) from error
    if not callable(factory):
        raise BackendError(f"{kind} plugin '{name}' ({target}) is not callable; it must be a class")
    return typing.cast(Callable[..., Any], factory)


def _search(kind: Kind, name: str) -> str:
    """The same with care: whatever kind of place a distribution lies in, and what to say of none or two."""
    points = _points(kind)
    named = [p for p in points if p.name == name]
    if not named:
        raise UsageError(f"unknown {kind} '{name}': {suggest(name, {p.name for p in points})}")
    if len(named) > 1:
        raise BackendError(
            f"two {kind} plugins are called '{name}': {named[0].value} and {named[1].value}; uninstall one of them"
        )
    return named[0].value


def options(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of a factory: its keyword-only parameters, with evaluated annotations."""
    if isinstance(factory, type) and not {"__init__", "__new__"} & {n for c in factory.__mro__[:-1] for n in vars(c)}:
        return {}  # reading the signature of object would take as long as some steps
    signature = inspect.signature(factory, eval_str=True)
    return {n: p for n, p in signature.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def create(kind: Kind, name: str, given: Mapping[str, object] | None = None, base: type = object) -> Any:
    """Build the plugin ``name`` with options given as text (command line) or values (Python, TOML).

    UsageError where it does not make a ``base``.
    """
    factory = load(kind, name)
    known = options(factory)
    converted: dict[str, object] = {}
    for key, value in (given or {}).items():
        if key not in known:
            raise UsageError(f"{kind} '{name}' has no option '{key}': {suggest(key, known)}")
        converted[key] = convert(f"{kind}.{key}", value, known[key].annotation)
    try:
        made = factory(**converted)
    except AevbError:
        raise
    except Exception as error:  # a plugin may fail in any way; the user needs its name, no traceback
        raise BackendError(
            f"{kind} plugin '{name}' cannot be made: {type(error).__name__}: {error}; reinstall or uninstall it"
        ) from error
    if not isinstance(made, base):
        article = "an" if base.__name__[0] in "AEIOU" else "a"
        raise UsageError(f"{kind} plugin '{name}' makes a {type(made).__name__}, not {article} {base.__name__}")
    return made


def convert(label: str, value: object, annotation: Any) -> object:
    """``value`` as ``annotation`` asks (bool, int, float, str, Literal, a union with None), or a UsageError."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # a number of NumPy's
    origin = typing.get_origin(annotation)
    if origin is Literal:
        allowed = typing.get_args(annotation)
        if value not in allowed:
            raise UsageError(f"{label}={value}: {suggest(str(value), map(str, allowed))}")
        return value
    if origin in (typing.Union, types.UnionType):
        parts = typing.get_args(annotation)
        if type(None) in parts and (value is None or value == "none"):
            return None
        return convert(label, value, next(p for p in parts if p is not type(None)))
    if annotation is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if annotation in (int, float) and not isinstance(value, bool) and isinstance(value, (str, int, float)):
        try:
            number = annotation(value)
        except (ValueError, OverflowError):
            number = None
        if number is not None and number == number and (isinstance(value, str) or number == value):
            return number
    elif annotation in (bool, str) and isinstance(value, annotation):
        return value
    wanted = getattr(annotation, "__name__", str(annotation))
    raise UsageError(f"{label}={value}: a value of type {wanted} is needed")
