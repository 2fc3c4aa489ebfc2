"""One compilable text of many kernels."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from aevb_engine.cuda.launch import Source

# In the order in which they may use each other.
PARTS = ("reduce.cuh", "noise.cuh", "prefetch.cuh", "product.cuh", "rows.cuh")


@cache
def read(file: str) -> str:
    """A text beside this module."""
    return Path(__file__).with_name(file).read_text(encoding="utf-8")


def shared(sources: Iterable[Source], dtype: Any) -> list[str]:
    """What the sources stand on, each text once, with ``T`` as float or double."""
    chosen = list(sources)
    return [*common(chosen, dtype), *devices(chosen)]


def common(sources: Iterable[Source], dtype: Any) -> list[str]:
    """The number type and the files that the sources name."""
    number = {"float32": "float", "float64": "double"}[np.dtype(dtype).name]
    wanted = {part for s in sources for part in s.parts}
    return [f"typedef {number} T;", *(read(p) for p in PARTS if p in wanted)]


def devices(sources: Iterable[Source]) -> list[str]:
    """The device functions of the sources, each text once."""
    return list(dict.fromkeys(s.device for s in sources if s.device))


def module(sources: Iterable[Source], dtype: Any) -> str:
    """The sources behind one another, and before them what they stand on."""
    chosen = {s.name: s for s in sources}
    return "\n".join([*shared(chosen.values(), dtype), *(s.text for s in chosen.values())])
