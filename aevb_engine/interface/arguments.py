"""Numbers, switches, seeds and paths that a user gives: checked, or one line that names the argument."""

from __future__ import annotations

import operator
import os
from pathlib import Path

import numpy as np

from aevb_engine.errors import UsageError


def whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """``value`` as an int; UsageError for what is no whole number from ``least`` on."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type] # which is the question
        if number < least or (most is not None and number > most):
            raise TypeError
    except TypeError:
        wanted = f"of at least {least}" if most is None else f"in {least} .. {most}"
        raise UsageError(f"{name}={value!r}: a whole number {wanted} is needed") from None
    return number


def flag(name: str, value: object) -> bool:
    """``value`` as a bool; UsageError for anything else, which would count as true or false by accident."""
    if not isinstance(value, (bool, np.bool_)):
        raise UsageError(f"{name}={value!r}: use True or False")
    return bool(value)


def seed_of(value: object) -> int:
    """A seed, checked."""
    if value is None:  # NumPy would draw one: no result could be had again
        raise UsageError("seed=None: a seed is a number, so that results can be repeated; secrets.randbits(63) is new")
    return whole("seed", value, 0, 2**64 - 1)


def path_of(name: str, value: object) -> Path:
    """``value`` as a path; UsageError for what names no place."""
    if isinstance(value, str) or (isinstance(value, os.PathLike) and isinstance(os.fspath(value), str)):
        return Path(value)
    raise UsageError(f"{name}={value!r}: a path is needed")
