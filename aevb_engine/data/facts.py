"""What a data set says of itself, looked at once where it enters, before anything is trained on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn, get_args

import numpy as np
import numpy.typing as npt

from aevb_engine.data.dataset import Binarize, Dataset
from aevb_engine.errors import DataError, suggest

Array = npt.NDArray[Any]


def sound(dataset: Dataset) -> Dataset:
    """The data set with all its facts as they are declared; DataError, in one line, where one cannot be.

    Labels and factors become arrays. ``true_log_prob`` is asked for the test rows; what it gives later is looked at.
    Whether the rows lie in a decoder's support is the decoder's matter.
    """
    if not isinstance(dataset.name, str) or not dataset.name.strip():
        raise DataError(f"a data set's name is {dataset.name!r}; text is needed")
    facts = _Facts(dataset)
    facts.rows()
    for what in ("dynamic", "contiguous"):
        if not isinstance(value := getattr(dataset, what), (bool, np.bool_)):
            facts.wrong(what, value, "True or False is needed")
    if dataset.binarize not in get_args(Binarize):
        facts.wrong("binarize", dataset.binarize, suggest(str(dataset.binarize), get_args(Binarize)))
    if not _finite(dataset.scale) or dataset.scale <= 0:
        facts.wrong("scale", dataset.scale, "a positive number is needed, the factor from a row to the data")
    if not _finite(dataset.log_variance_unit):
        facts.wrong("log_variance_unit", dataset.log_variance_unit, "a finite number is needed")
    other = dataset.other_scale
    if other is not None and not (
        isinstance(other, tuple) and len(other) == 2 and isinstance(other[0], str) and _finite(other[1])
    ):
        facts.wrong("other_scale", other, "a name and a finite number of nats are needed, or None")
    if dataset.dynamic:
        facts.intensities()
    changed = replace(
        dataset,
        image_shape=facts.image_shape(),
        train_labels=facts.labels("train"),
        test_labels=facts.labels("test"),
        factors=facts.factors(),
        info=facts.info(),
        true_log_prob=_asked(dataset),
    )
    if changed.true_log_prob is not None and changed.test is not None:
        changed.true_log_prob(changed.test)
    return changed


class _Facts:
    """The facts of one data set, each looked at by itself."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def wrong(self, what: str, value: object, needed: str) -> NoReturn:
        text = " ".join(repr(value).split())
        text = text if len(text) <= 80 else f"{text[:77]}..."
        raise DataError(f"the data set '{self.dataset.name}': {what}={text}; {needed}")

    def rows(self) -> None:
        """Two tables of numbers with as many columns."""
        data = self.dataset
        for part, rows in (("training", data.train), ("test", data.test)):
            if rows is None and part == "test":
                continue
            what = f"the {part} data of '{data.name}'"
            if not isinstance(rows, np.ndarray):
                raise DataError(f"{what} are a {type(rows).__name__}; a NumPy array (N, D) of numbers is needed")
            if rows.ndim != 2 or rows.dtype.kind not in "fiub":
                raise DataError(f"{what} has shape {rows.shape} and type {rows.dtype}; numbers (N, D) are needed")
            if rows.size == 0:
                raise DataError(f"{what} is empty (shape {rows.shape}); at least one row is needed")
        if data.test is not None and data.train.shape[1] != data.test.shape[1]:
            raise DataError(
                f"training rows have {data.train.shape[1]} columns and test rows {data.test.shape[1]}; both must agree"
            )

    def intensities(self) -> None:
        """Training rows that each step draws from, and test rows that have been drawn."""
        data = self.dataset
        what = f"the training data of '{data.name}'"
        if data.train.dtype != np.uint8:
            raise DataError(
                f"{what}: type {data.train.dtype}; dynamic=True needs uint8 intensities 0..255 (of probabilities p, "
                "np.rint(255 * p).astype(np.uint8))"
            )
        if data.train.max() == 1:
            raise DataError(
                f"{what} reach 1, where dynamic=True needs intensities 0..255; rows of 0 and 1 need no dynamic=True"
            )
        if data.scale != 1:
            self.wrong("scale", data.scale, "dynamic=True draws 0 and 1 from 0..255 by itself; leave the scale out")
        if data.test is not None and not bool(((data.test == 0) | (data.test == 1)).all()):
            raise DataError(
                f"the test data of '{data.name}' are not 0 and 1; with dynamic=True they are one fixed draw: "
                'aevb.binarize(x, "static") makes one'
            )

    def image_shape(self) -> tuple[int, int] | None:
        shape, dim = self.dataset.image_shape, self.dataset.dim
        if shape is None:
            return None
        sides = list(shape) if isinstance(shape, (tuple, list, np.ndarray)) else []
        whole = all(isinstance(s, (int, np.integer)) and not isinstance(s, bool) and s > 0 for s in sides)
        if len(sides) != 2 or not whole or sides[0] * sides[1] != dim:
            self.wrong(
                "image_shape", shape, f"rows and columns of an image are needed, whose product is {dim}, or None"
            )
        return int(sides[0]), int(sides[1])

    def labels(self, part: str) -> Array | None:
        """One label a row."""
        given = getattr(self.dataset, f"{part}_labels")
        if given is None:
            return None
        rows = getattr(self.dataset, part)
        what, count = f"{part}_labels", 0 if rows is None else len(rows)
        labels = self._column(what, given, count, f"one label for each of the {count} {part} rows is needed, or None")
        return labels.astype(str) if labels.dtype.kind == "O" else labels

    def factors(self) -> Mapping[str, Array]:
        """One finite number a training row and factor."""
        given, count = self.dataset.factors, len(self.dataset.train)
        needed = f"one finite number for each of the {count} training rows is needed"
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            self.wrong("factors", given, "names with their arrays (N,) are needed")
        found = {name: self._column(f"factors[{name!r}]", values, count, needed) for name, values in given.items()}
        for name, values in found.items():
            if values.dtype.kind not in "iufb" or not np.isfinite(values).all():
                self.wrong(f"factors[{name!r}]", values, needed)
        return found

    def _column(self, what: str, given: object, count: int, needed: str) -> Array:
        try:
            values = np.asarray(given)
        except Exception:  # of a foreign object's own conversion, too
            self.wrong(what, given, needed)
        if values.shape != (count,):
            raise DataError(f"the data set '{self.dataset.name}': {what} has shape {values.shape}; {needed}")
        return values

    def info(self) -> Mapping[str, str | int | float]:
        """Text and finite numbers, which JSON can hold."""
        given = self.dataset.info
        if not isinstance(given, Mapping):
            self.wrong("info", given, "names with text or numbers are needed")
        found = {}
        for name, value in given.items():
            plain = value.item() if isinstance(value, np.generic) else value
            fits = plain is None or isinstance(plain, (str, bool, int)) or _finite(plain)
            if not isinstance(name, str) or not fits:
                self.wrong(f"info[{name!r}]", value, "text or a finite number is needed")
            found[name] = plain
        return found


def _asked(dataset: Dataset) -> Callable[[Array], Array] | None:
    """``true_log_prob``, whose answers are looked at."""
    given, name = dataset.true_log_prob, dataset.name
    if given is None:
        return None
    if not callable(given):
        raise DataError(f"the data set '{name}': true_log_prob is a {type(given).__name__}; a function is needed")

    def true_log_prob(x: Array) -> Array:
        try:
            values = np.asarray(given(x), np.float64)
        except Exception as error:
            words = " ".join(str(error).split())[:200] or "no words"
            raise DataError(f"the data set '{name}': true_log_prob raised {type(error).__name__}: {words}") from error
        if values.shape != (len(x),) or not np.isfinite(values).all():
            found = f"shape {values.shape}" if values.shape != (len(x),) else "values that are not finite"
            raise DataError(
                f"the data set '{name}': true_log_prob gives {found} for rows {x.shape}; one finite number of nats "
                "for each is needed"
            )
        return values

    return true_log_prob


def _finite(value: object) -> bool:
    """A finite number, and no truth value."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False
