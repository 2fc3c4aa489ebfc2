"""Whatever a user gives as rows, a list, an array, a data frame, as one array of numbers (N, D); or one line.

Arrays of other libraries are known by what they can do, so that none of them is imported here.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.data.dataset import Dataset
from aevb_engine.errors import DataError

Array = npt.NDArray[Any]
MASKED = "some values are masked; leave out or impute those rows"
MENDS = {  # by the kind of a type
    "c": "give real and imaginary parts as columns of their own",
    "M": "give times as numbers, such as days since the first",
    "m": "give durations as numbers, such as seconds",
    "V": "numpy.lib.recfunctions.structured_to_unstructured(x) makes its fields columns",
}


def as_rows(x: Any, what: str = "the data") -> Array:
    """``x`` as an array (N, D) of its own kind of number; images (N, H, W, ...) become rows. DataError otherwise."""
    rows = as_array(x, what)
    if rows.ndim == 0:
        raise DataError(f"{what}: {type(x).__name__}; rows (N, D) of numbers are needed")
    if rows.size == 0:
        raise DataError(f"{what}: shape {rows.shape} is empty; rows (N, D) are needed")
    if rows.ndim > 2:
        rows = rows.reshape(len(rows), -1)
    if rows.ndim != 2:
        hint = "; one row is x[None, :], one column x[:, None]" if rows.ndim == 1 else ""
        raise DataError(f"{what}: shape {rows.shape}; rows (N, D) are needed{hint}")
    return rows


def as_array(x: Any, what: str) -> Array:
    """``x`` as an array of real numbers of any shape, on the host. DataError, which names a data frame's column."""
    if isinstance(x, Dataset):
        raise DataError(f"{what}: a Dataset, where rows (N, D) are needed; give its train or its test")
    if x is None or isinstance(x, (str, bytes)):
        raise DataError(f"{what}: {x!r}; rows (N, D) of numbers are needed")
    if callable(getattr(x, "toarray", None)):
        raise DataError(f"{what}: {type(x).__name__} is sparse; the model reads every column: give x.toarray()")
    try:
        found = _converted(x, what)
    except DataError:
        raise
    except Exception as error:  # of a foreign object's own conversion, too
        problem = "rows of different lengths" if "inhomogeneous" in str(error) else " ".join(str(error).split())
        raise DataError(f"{what}: {type(x).__name__} that is no array: {problem}") from error
    if found.ndim == 0 and found.dtype.kind not in "fiub":
        raise DataError(f"{what}: {type(x).__name__}; rows (N, D) of numbers are needed")
    _check_kind(found.dtype, found.dtype, what)
    return found


def _converted(x: Any, what: str) -> Array:
    x = _on_host(x)
    if isinstance(x, (list, tuple)):
        x = [_on_host(row) for row in x]
        if any(np.ma.is_masked(row) for row in x):
            raise DataError(f"{what}: {MASKED}")
    if np.ma.is_masked(x):
        raise DataError(f"{what}: {MASKED}")
    if isinstance(x, np.ndarray):
        return np.asarray(x)
    if callable(getattr(x, "to_numpy", None)):
        return _of_frame(x, what) if hasattr(x, "columns") else np.asarray(x.to_numpy())
    return np.asarray(x)


def _on_host(x: Any) -> Any:
    """An array of a GPU or of a graph of gradients, as PyTorch and CuPy have them, in this process's own memory."""
    if all(callable(getattr(x, name, None)) for name in ("detach", "cpu", "numpy")):
        return x.detach().cpu().numpy()
    if hasattr(x, "__cuda_array_interface__") and callable(getattr(x, "get", None)):
        return x.get()
    return x


def _of_frame(frame: Any, what: str) -> Array:
    """A data frame; where it is not simply numbers, each column is looked at: types and gaps are those of columns."""
    with contextlib.suppress(Exception):  # of a column that has no numbers: what follows tells which
        found = np.asarray(frame.to_numpy())
        if found.dtype.kind in "iub" or (found.dtype.kind == "f" and not np.isnan(found).any()):
            return found
    columns = []
    for place, name in enumerate(frame.columns):
        column = frame.iloc[:, place] if hasattr(frame, "iloc") else frame[name]  # names need not differ
        columns.append(_of_column(column, f"{what}: column {name!r}"))
    return np.column_stack(columns) if columns else np.empty((0, 0))


def _of_column(column: Any, where: str) -> Array:
    declared = getattr(column, "dtype", None)
    for name in ("isna", "is_null"):  # of pandas, of polars
        look = getattr(column, name, None)
        if callable(look) and np.asarray(look()).any():
            raise DataError(f"{where} has missing values; leave out or impute those rows")
    values = np.asarray(column.to_numpy())
    maybe = values.dtype.kind == "O" and str(declared) != "object"  # a type of numbers that may be missing
    if maybe and all(isinstance(v, (int, float, np.number, np.bool_)) for v in values):
        values = values.astype(np.float64)
    _check_kind(values.dtype, declared, where)
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise DataError(f"{where} has missing values; leave out or impute those rows")
    return values


def _check_kind(kind: np.dtype[Any], declared: Any, where: str) -> None:
    if kind.kind not in "fiub":
        mend = MENDS.get(kind.kind, "leave out or replace text, dates and None")
        raise DataError(f"{where}: type {declared}; real numbers are needed: {mend}")
