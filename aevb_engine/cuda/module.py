"""One compilable text of many kernels."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from aevb_engine.cuda.launch import Source

PARTS = ("reduce.cuh", "noise.cuh", "product.cuh")  # in the order in which they may use each other


@cache
def read(file: str) -> str:
    """A text beside this module."""
    return Path(__file__).with_name(file).read_text(encoding="utf-8")


def module(sources: Iterable[Source], dtype: Any) -> str:
    """The sources behind one another, each shared text once before them, with ``T`` as float or double."""
    chosen = {s.name: s for s in sources}
    number = {"float32": "float", "float64": "double"}[np.dtype(dtype).name]
    wanted = {part for s in chosen.values() for part in s.parts}
    parts = [read(p) for p in PARTS if p in wanted]
    own = dict.fromkeys(s.device for s in chosen.values() if s.device)
    return "\n".join([f"typedef {number} T;", *parts, *own, *(s.text for s in chosen.values())])
