"""One compilable text of many kernels."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from aevb_engine.cuda.launch import Source

PARTS = ("reduce.cuh", "noise.cuh", "product.cuh", "rows.cuh")  # in the order in which they may use each other


@cache
def read(file: str) -> str:
    """A text beside this module."""
    return Path(__file__).with_name(file).read_text(encoding="utf-8")


def shared(sources: Iterable[Source], dtype: Any) -> list[str]:
    """What the sources stand on, each text once, with ``T`` as float or double."""
    chosen = list(sources)
    number = {"float32": "float", "float64": "double"}[np.dtype(dtype).name]
    wanted = {part for s in chosen for part in s.parts}
    parts = [read(p) for p in PARTS if p in wanted]
    own = dict.fromkeys(s.device for s in chosen if s.device)
    return [f"typedef {number} T;", *parts, *own]


def module(sources: Iterable[Source], dtype: Any) -> str:
    """The sources behind one another, and before them what they stand on."""
    chosen = {s.name: s for s in sources}
    return "\n".join([*shared(chosen.values(), dtype), *(s.text for s in chosen.values())])
