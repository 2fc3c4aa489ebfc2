"""From a data set plugin to its data, with a look at what it gives: everything behind relies on it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, get_args

import numpy as np

from aevb_engine.blame import fault
from aevb_engine.data.dataset import Binarize, DataRequest, Dataset


def load(source: Any, request: DataRequest) -> Dataset:
    """The data of a plugin ``source``; BackendError where it gives no Dataset, or one with fields of other types."""
    if not callable(getattr(source, "load", None)):
        raise fault(source, f"makes a {type(source).__name__}, which has no method load")
    found = source.load(request)
    if not isinstance(found, Dataset):
        raise fault(source, f"load returns a {type(found).__name__}, not a Dataset")
    for name, (sound, wanted) in FIELDS.items():
        value = getattr(found, name)
        if not sound(value):
            raise fault(source, f"load returns a Dataset whose {name} is no {wanted} but {_short(value)}")
    return found


def _array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _number(value: Any) -> bool:
    return isinstance(value, (Real, np.number)) and math.isfinite(value)


def _shape(value: Any) -> bool:
    return len(value) == 2 and all(isinstance(n, (int, np.integer)) and n > 0 for n in value)


def _keeps(value: Any) -> bool:
    """Whether JSON can hold it, with what stands for arrays and paths there (``experiment.folder``)."""

    def inner(item: Any) -> Any:
        if hasattr(item, "tolist"):
            return item.tolist()
        if isinstance(item, os.PathLike):
            return os.fspath(item)
        raise TypeError(type(item).__name__)

    try:
        json.dumps({str(key): item for key, item in value.items()}, default=inner)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _optional(sound: Callable[[Any], bool], kind: Any = object) -> Callable[[Any], bool]:
    return lambda value: value is None or (isinstance(value, kind) and sound(value))


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda v: isinstance(v, str), "text"),
    "train": (_array, "NumPy array"),
    "test": (_optional(_array), "NumPy array"),
    "scale": (_number, "finite number"),
    "dynamic": (lambda v: isinstance(v, (bool, np.bool_)), "True or False"),
    "binarize": (lambda v: v in get_args(Binarize), f"one of {', '.join(get_args(Binarize))}"),
    "image_shape": (_optional(_shape, (tuple, list)), "pair (height, width)"),
    "train_labels": (_optional(_array), "NumPy array"),
    "test_labels": (_optional(_array), "NumPy array"),
    "factors": (lambda v: isinstance(v, Mapping), "table of arrays by name"),
    "contiguous": (lambda v: isinstance(v, (bool, np.bool_)), "True or False"),
    "log_variance_unit": (_number, "finite number"),
    "other_scale": (
        _optional(lambda v: len(v) == 2 and isinstance(v[0], str) and _number(v[1]), (tuple, list)),
        "pair of a name and a number",
    ),
    "true_log_prob": (_optional(callable), "function of rows"),
    "info": (lambda v: isinstance(v, Mapping) and _keeps(v), "table of texts and numbers"),
}
