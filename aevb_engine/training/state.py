"""What training carries from step to step, as it is stored: refused where a number of it is not finite.

An infinite second moment freezes its parameter for good, and says nothing: neither the bound nor a parameter shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.errors import FileFormatError

CARRIED = ("theta", "optimizer/", "objective/")


def check_state(arrays: Mapping[str, npt.NDArray[Any]], where: str) -> None:
    """FileFormatError where parameters, or the optimizer's or the objective's state, are not finite.

    ``arrays`` by their names in a checkpoint; ``where`` is what holds them.
    """
    for name, array in arrays.items():
        if name.startswith(CARRIED) and not np.isfinite(array).all():
            raise FileFormatError(
                f"{where}: its '{name}' holds numbers that are not finite; take an earlier checkpoint, or train anew"
            )
