"""Grey pixels 0..255 on the unit scale or raw: what either means for densities."""

from __future__ import annotations

import math
from typing import TypedDict

from aevb_engine.data.dataset import Scale

LOG_255 = math.log(255.0)


class ScaleFields(TypedDict):
    """The fields of a Dataset that follow from the scale of its pixels."""

    scale: float
    log_variance_unit: float
    other_scale: tuple[str, float]


def scale_fields(scale: Scale, dim: int) -> ScaleFields:
    """Fields for uint8 rows of ``dim`` pixels: log p(raw row) = log p(row / 255) - dim ln 255."""
    if scale == "unit":
        return {"scale": 1 / 255, "log_variance_unit": 0.0, "other_scale": ("raw", -dim * LOG_255)}
    return {"scale": 1.0, "log_variance_unit": 2 * LOG_255, "other_scale": ("unit", dim * LOG_255)}
