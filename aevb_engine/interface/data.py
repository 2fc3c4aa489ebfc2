"""Rows of a data set by name, and grey rows made binary, for use from Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from aevb_engine import registry
from aevb_engine.data.binarize import binarize_draw, binarize_threshold
from aevb_engine.data.dataset import Binarize, DataRequest, Dataset, Scale
from aevb_engine.errors import DataError, UsageError, suggest
from aevb_engine.interface.arguments import flag, path_of, seed_of
from aevb_engine.interface.rows import as_array, as_rows
from aevb_engine.interface.words import spoken
from aevb_engine.model.likelihood import Likelihood

Array = npt.NDArray[Any]


@spoken
def dataset(
    name: str,
    *,
    seed: int = 0,
    data_dir: str | Path | None = None,
    offline: bool = False,
    binarize: Binarize | None = None,
    scale: Scale | None = None,
    **options: Any,
) -> Dataset:
    """The data set ``name`` as ``aevb-engine run --dataset name`` has it, for ``fit`` and for a look at its rows.

    ``train`` (N, D) and ``test`` (M, D) are what the model sees: 0 and 1, or values on the scale asked for; with
    ``binarize="dynamic"`` training rows stay intensities 0..255, which each step draws from. ``train_labels``,
    ``test_labels`` and ``image_shape`` where they are known. ``binarize``: none, threshold, static or dynamic;
    ``scale``: unit or raw; both None for what the data set's own decoder needs. ``options``: of the data set.
    """
    if not isinstance(name, str):
        raise UsageError(f"dataset({name!r}): the name of a data set is needed, such as 'glyphs'")
    for what, value, allowed in (("binarize", binarize, Binarize), ("scale", scale, Scale)):
        if value is not None and value not in get_args(allowed):
            raise UsageError(f"{what}={value!r}: {suggest(str(value), get_args(allowed))}")
    source = registry.create("dataset", name, options)
    decoder: Likelihood = registry.create("decoder", getattr(source, "decoder", "bernoulli"), {}, Likelihood)
    request = DataRequest(
        seed=seed_of(seed),
        data_dir=path_of("data_dir", data_dir) if data_dir is not None else None,
        offline=flag("offline", offline),
        binarize=binarize,
        scale=scale,
        binary_support=binarize is None and scale is None and decoder.support.kind == "binary",
    )
    found: Dataset = source.load(request)
    if found.scale == 1.0:
        return found
    factor = np.float32(found.scale)
    test = found.test.astype(np.float32) * factor if found.test is not None else None
    return replace(found, train=found.train.astype(np.float32) * factor, test=test, scale=1.0)


@spoken
def binarize(x: Any, how: str = "threshold", *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Grey rows, whole numbers 0..255 or floats in [0, 1], as uint8 0 and 1 of the same shape.

    ``threshold``: 1 above one half; ``static``: one draw of each pixel with its intensity as probability (in steps of
    1/255), a function of the seed and the row's number. Rows of 0 and 1 stay as they are.
    """
    if how not in ("threshold", "static"):
        raise UsageError(f"binarize: how={how!r}: {suggest(str(how), ('threshold', 'static'))}")
    number, grey = seed_of(seed), as_array(x, "the data")
    rows = as_rows(grey)
    low, high = float(rows.min()), float(rows.max())
    top = 255 if rows.dtype.kind in "ui" else 1
    if not (low >= 0 and high <= top):  # NaN, too
        mend = "; divide by 255" if top == 1 and 1 < high <= 255 and low >= 0 else ""
        raise DataError(f"the data hold values between {low:g} and {high:g}; grey is 0..255 or, as floats, 0..1{mend}")
    if high <= 1 and bool(((rows == 0) | (rows == 1)).all()):
        binary = rows.astype(np.uint8)
    elif how == "threshold":
        binary = binarize_threshold(rows.astype(np.uint8)) if top == 255 else (rows > 0.5).astype(np.uint8)
    else:
        intensities = rows if top == 255 else np.rint(rows * 255)
        binary = binarize_draw(number, "binarize", intensities.astype(np.uint8))
    return binary.reshape(grey.shape)
