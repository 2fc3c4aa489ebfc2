"""Error messages for Python users: the engine's speak of the command line, here they name arguments.

``--batch-size 300`` becomes ``batch_size=300``, ``--backend gpu`` becomes ``backend="gpu"``. Where the mend is another
one in Python, an error brings its own text (``AevbError.python``).
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from aevb_engine.errors import AevbError
from aevb_engine.experiment.config import RunConfig

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

PACKAGE = str(Path(__file__).parents[1]) + os.sep
FLAGS = {name for name, hint in typing.get_type_hints(RunConfig).items() if hint is bool}
# At the beginning the value is whatever was given, up to the colon; later on it is a word.
_GIVEN = re.compile(r"--([a-z][a-z0-9-]*) ([^;]+?)(?=: )")
_NAMED = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*)(?:([ =])([\w.+,-]*\w))?")
_NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?|[-+]?(inf|nan)|True|False|None")
_NUMBERS = re.compile(r"-?\d+(,-?\d+)+")
_NO_VALUES = {"and", "or", "to", "with", "has", "have", "holds", "is", "exclude", "forbids", "instead"}


def in_python(text: str) -> str:
    """A message with the names of arguments in place of options, in one line."""
    text = " ".join(text.split())
    first = _GIVEN.match(text)
    head = ""
    if first and _name(first[1]) not in FLAGS:
        head, text = _argument(_name(first[1]), first[2]), text[first.end() :]
    return head + _NAMED.sub(_named, text)


def _named(found: re.Match[str]) -> str:
    name, gap, value = _name(found[1]), found[2], found[3]
    if name in FLAGS:
        return f"{name}=True{gap or ''}{value or ''}"
    if value is None or value in _NO_VALUES:
        return f"{name}{gap or ''}{value or ''}"
    return _argument(name, value)


def _name(option: str) -> str:
    return option.replace("-", "_")


def _argument(name: str, value: str) -> str:
    if _NUMBERS.fullmatch(value):
        return f"{name}=({value.replace(',', ', ')})"
    if _NUMBER.fullmatch(value) or value[0] in "[({\"'<":
        return f"{name}={value}"
    return f'{name}="{value}"'


def spoken(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, whose errors speak of Python."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except AevbError as error:
            error.args = (in_python(error.python or str(error)), *error.args[1:])
            raise

    return call


def spoken_class(cls: C) -> C:
    """The class, all of whose public methods and properties speak of Python."""
    for name, member in list(vars(cls).items()):
        if name.startswith("_") and name != "__init__":
            continue
        changed: Any = member
        if inspect.isfunction(member):
            changed = spoken(member)
        elif isinstance(member, property) and member.fget is not None:
            changed = property(spoken(member.fget), doc=member.__doc__)
        setattr(cls, name, changed)
    return cls


def warn(line: str, category: type[Warning] = UserWarning) -> None:
    """A warning at the caller of a public method, in its words."""
    frame, level = sys._getframe(1), 2
    while frame.f_code.co_filename.startswith(PACKAGE) and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    warnings.warn(in_python(line), category, stacklevel=level)
