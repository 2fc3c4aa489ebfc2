"""From what a user gives, a text or a value, to what an option's annotation asks for."""

from __future__ import annotations

import collections.abc
import enum
import functools
import inspect
import numbers
import os
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, Literal

from aevb_engine.errors import UsageError, suggest

# What plugins import for type checkers alone, and a name in an annotation most likely means.
USUAL = {
    **{name: getattr(typing, name) for name in typing.__all__},
    "Path": Path,
    "PurePath": PurePath,
    "pathlib": pathlib,
    "typing": typing,
    "collections": collections,
    "os": os,
}
ANYTHING = (Any, object, inspect.Parameter.empty)
PLAIN = (bool, int, float, str)  # in the order in which a text is tried as each; whatever is none of them comes between


def typed(factory: Callable[..., Any], parameters: Mapping[str, inspect.Parameter]) -> dict[str, inspect.Parameter]:
    """The parameters with types in place of texts.

    One that has no type, or whose text names what is not there when the program runs, is read as its default is; as it
    is given where that is none.
    """
    return {name: p.replace(annotation=_type_of(p, factory)) for name, p in parameters.items()}


def _type_of(parameter: inspect.Parameter, factory: Callable[..., Any]) -> Any:
    found, default = parameter.annotation, parameter.default
    if isinstance(found, str):
        found = _evaluated(found, _names(factory))
    if found is not inspect.Parameter.empty and not isinstance(found, str):
        return found
    if default is None or default is inspect.Parameter.empty:
        return found if isinstance(found, str) else Any
    inner = {type(item) for item in default} if isinstance(default, (list, tuple)) else set()
    if len(inner) == 1:
        (item,) = inner
        return tuple[item, ...] if isinstance(default, tuple) else list[item]  # type: ignore[valid-type]
    return type(default)


def _evaluated(text: str, names: dict[str, Any]) -> Any:
    """What an annotation stands for; the text itself where that cannot be told."""
    for known in (names, {**USUAL, **names}):
        try:
            return eval(text, known)
        except Exception:  # the code of a plugin
            continue
    return text


def _names(factory: Callable[..., Any]) -> dict[str, Any]:
    """The names that the code of a factory sees."""
    function: Any = factory.func if isinstance(factory, functools.partial) else factory
    if isinstance(function, type):
        function = getattr(function, "__init__" if "__init__" in _own(function) else "__new__")
    elif not hasattr(inspect.unwrap(function), "__globals__"):
        function = type(function).__call__
    module = sys.modules.get(getattr(factory, "__module__", ""), types.ModuleType(""))
    return getattr(inspect.unwrap(function), "__globals__", vars(module))


def _own(cls: type) -> set[str]:
    return {name for c in cls.__mro__[:-1] for name in vars(c)}


def convert(label: str, value: object, annotation: Any) -> object:
    """``value`` as ``annotation`` asks, or a UsageError.

    Of a text: bool, int, float, other numbers, Path, Enum (by name), Literal, lists and tuples of these (with commas),
    and unions, each of whose types is tried. ``none`` is None. Everything else is taken as it is where its type is the
    one asked for; without a type, whatever it is.
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # a number of NumPy's
    try:
        return _as(value, annotation)
    except (ValueError, TypeError, ArithmeticError):
        pass
    arms = _arms(annotation)
    if all(map(_choices, arms)):
        raise UsageError(f"{label}={value}: {suggest(str(value), (name for arm in arms for name in _choices(arm)))}")
    raise UsageError(f"{label}={value}: a value of type {words(annotation)} is needed")


def plain(value: Any) -> Any:
    """A value for an option as JSON can hold it: of a path, a member, an array or a date what stands for it."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else value


def words(annotation: Any) -> str:
    """A type in words, without None."""
    arms = [", ".join(map(repr, typing.get_args(a))) if typing.get_origin(a) is Literal else _word(a)
            for a in _arms(annotation)]  # fmt: skip
    return " or ".join(arms) or "None"


def _word(annotation: Any) -> str:
    if typing.get_args(annotation) or not hasattr(annotation, "__name__"):
        return str(annotation).replace("typing.", "")
    return str(annotation.__name__)


def _arms(annotation: Any) -> list[Any]:
    """The types of a union, without None; else the one type."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [a for a in typing.get_args(annotation) if a is not types.NoneType]
    return [annotation]


def _choices(annotation: Any) -> list[str]:
    """The texts that a Literal or an Enum has; none of other types."""
    if typing.get_origin(annotation) is Literal:
        return [str(a) for a in typing.get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [member.name for member in annotation]
    return []


def _as(value: Any, annotation: Any) -> Any:
    """``value`` as the annotation asks; ValueError, TypeError or ArithmeticError where it is not."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    for inner in ("__supertype__", "__value__"):  # of NewType, of a type statement
        if hasattr(annotation, inner) and not isinstance(annotation, (type, enum.Enum)):
            return _as(value, getattr(annotation, inner))
    if origin is typing.Annotated:
        return _as(value, args[0])
    if isinstance(annotation, (str, typing.ForwardRef, typing.TypeVar)) or annotation in ANYTHING:
        return value
    if origin is Literal:
        return _literal(value, args)
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, args)
    if annotation in (None, types.NoneType):
        if value is None or value == "none":
            return None
        raise ValueError
    kind = origin or annotation
    if not isinstance(kind, type):
        raise ValueError
    if kind in PLAIN:
        return _plain(value, kind)
    return _object(value, kind, args)


def _plain(value: Any, kind: type) -> Any:
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if kind in (int, float) and not isinstance(value, bool) and isinstance(value, (str, int, float)):
        number = kind(value)
        if number == number and (isinstance(value, str) or number == value):
            return number
    elif kind in (bool, str) and isinstance(value, kind):
        return value
    raise ValueError


def _literal(value: Any, allowed: tuple[Any, ...]) -> Any:
    for each in allowed:
        if type(each) is type(value) and each == value:
            return each
    for each in allowed:
        if value == (str(each).lower() if isinstance(each, bool | None) else str(each)):  # a text
            return each
    raise ValueError


def _one_of(value: Any, arms: tuple[Any, ...]) -> Any:
    """By the arm of the very type, else by the first that takes it: those that take least come first."""

    def order(arm: Any) -> int:
        if type(value) is arm and not isinstance(value, str):
            return -1
        if typing.get_origin(arm) is Literal:
            return 0
        if arm is types.NoneType:
            return 1
        if arm is str or arm in ANYTHING:
            return 9
        return 2 + PLAIN.index(arm) if arm in PLAIN else 8

    for arm in sorted(arms, key=order):
        try:
            return _as(value, arm)
        except (ValueError, TypeError, ArithmeticError):
            continue
    raise ValueError


def _object(value: Any, kind: type, args: tuple[Any, ...]) -> Any:
    """Of a class that is no plain value."""
    if issubclass(kind, enum.Enum):
        return _member(value, kind)
    if kind is os.PathLike or issubclass(kind, PurePath):
        if value == "":
            raise ValueError
        make: Any = Path if kind is os.PathLike else kind
        path = make(os.fspath(value))
        return path.expanduser() if isinstance(path, Path) else path
    if issubclass(kind, collections.abc.Mapping):
        if not isinstance(value, Mapping):
            raise ValueError
        key, item = args if len(args) == 2 else (Any, Any)
        return {_as(k, key): _as(v, item) for k, v in value.items()}
    if issubclass(kind, collections.abc.Iterable) and not issubclass(kind, (str, bytes)):
        return _several(value, kind, args)
    if issubclass(kind, numbers.Number):
        return kind(value)  # type: ignore[call-arg]
    if isinstance(value, kind):
        return value
    raise ValueError


def _member(value: Any, kind: type[enum.Enum]) -> enum.Enum:
    for member in kind:
        if value is member or (isinstance(value, str) and value.lower() == member.name.lower()):
            return member
    for member in kind:
        if value == member.value or value == str(member.value):
            return member
    raise ValueError


def _several(value: Any, kind: type, args: tuple[Any, ...]) -> Any:
    """A list, a tuple or a set, of a text with commas."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")] if value.strip() else []
    elif not isinstance(value, Iterable):
        value = [value]  # one number is a list of one
    items = list(value)
    if issubclass(kind, tuple) and args and args[-1] is not Ellipsis:
        if len(items) != len(args):
            raise ValueError
        return tuple(_as(item, each) for item, each in zip(items, args, strict=True))
    made = [_as(item, args[0] if args else Any) for item in items]
    return next((known(made) for known in (tuple, set, frozenset) if issubclass(kind, known)), made)
