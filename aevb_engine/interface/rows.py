"""Whatever a user gives as rows, a list, an array, a data frame, as one array of numbers (N, D); or one line."""

from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.data.dataset import Dataset
from aevb_engine.errors import DataError, UsageError

Array = npt.NDArray[Any]


def as_rows(x: Any, what: str = "the data") -> Array:
    """``x`` as an array (N, D) of its own kind of number; images (N, H, W, ...) become rows. DataError otherwise."""
    if isinstance(x, Dataset):
        raise DataError(f"{what}: a Dataset, where rows (N, D) are needed; give its train or its test")
    if x is None or isinstance(x, (str, bytes)):
        raise DataError(f"{what}: {x!r}; rows (N, D) of numbers are needed")
    try:
        if not isinstance(x, np.ndarray) and hasattr(x, "to_numpy"):
            x = x.to_numpy()
        if np.ma.is_masked(x):
            raise DataError(f"{what}: some values are masked; leave out or impute those rows")
        rows = np.asarray(x)
    except DataError:
        raise
    except Exception as error:  # of a foreign object's own conversion, too
        problem = "rows of different lengths" if "inhomogeneous" in str(error) else " ".join(str(error).split())
        raise DataError(f"{what}: {type(x).__name__} that is no array: {problem}") from error
    if rows.ndim == 0:
        raise DataError(f"{what}: {type(x).__name__}; rows (N, D) of numbers are needed")
    if rows.dtype.kind not in "fiub":
        raise DataError(f"{what}: type {rows.dtype}; numbers are needed: leave out or replace text, dates and None")
    if rows.size == 0:
        raise DataError(f"{what}: shape {rows.shape} is empty; rows (N, D) are needed")
    if rows.ndim > 2:
        rows = rows.reshape(len(rows), -1)
    if rows.ndim != 2:
        hint = "; one row is x[None, :], one column x[:, None]" if rows.ndim == 1 else ""
        raise DataError(f"{what}: shape {rows.shape}; rows (N, D) are needed{hint}")
    return rows


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


def path_of(name: str, value: object) -> Path:
    """``value`` as a path; UsageError for what names no place."""
    if isinstance(value, str) or (isinstance(value, os.PathLike) and isinstance(os.fspath(value), str)):
        return Path(value)
    raise UsageError(f"{name}={value!r}: a path is needed")


def seed_of(value: object) -> int:
    """A seed, checked."""
    return whole("seed", value, 0, 2**64 - 1)
