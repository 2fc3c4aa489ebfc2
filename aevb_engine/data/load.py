"""From a data set plugin to its data, with a look at what it gives: everything behind relies on it."""

from __future__ import annotations

from typing import Any

from aevb_engine.blame import fault, name
from aevb_engine.data.dataset import DataRequest, Dataset
from aevb_engine.data.facts import NoSuchType, sound
from aevb_engine.errors import DataError


def load(source: Any, request: DataRequest) -> Dataset:
    """The data of a plugin ``source``; BackendError where it gives no Dataset, or a field of another type.

    DataError with the plugin's name where a fact is wrong, such as the number of labels.
    """
    if not callable(getattr(source, "load", None)):
        raise fault(source, f"makes a {type(source).__name__}, which has no method load")
    found = source.load(request)
    if not isinstance(found, Dataset):
        raise fault(source, f"load returns a {type(found).__name__}, not a Dataset")
    try:
        return sound(found)
    except NoSuchType as error:
        raise fault(source, f"load returns a Dataset that cannot be used: {error}") from error
    except DataError as error:
        raise DataError(f"{name(source)}: {error}") from error
