"""The least time each launch of a step can take: bytes over the fastest copy, or operations over the product's rate."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

RATES = {"fp32": "product_flop_per_second", "tf32": "tf32_product_flop_per_second"}  # names of the figures


@dataclass(frozen=True)
class Work:
    """One launch or product: its name, what it must move and compute, and the call that runs it."""

    name: str
    bytes: int
    operations: int
    call: Callable[[], None]


def works(step: Any) -> list[Work]:
    """Every call of a bound step, in order."""
    from aevb_engine.operation import Rows

    rows = Rows(0, step.ws.batch)
    lists = [step.first, step.rows, *step.parameters, step.last]
    calls = [share for phase in step.phases for share in phase]
    return [w for operations, share in zip(lists, calls, strict=True) for w in _of(step, operations, share, rows)]


def _of(step: Any, operations: Any, calls: Any, rows: Any) -> list[Work]:
    from aevb_engine.cuda.lower import Product, Text, lower

    found = []
    for item, call in zip(lower(operations, step.read_elsewhere(operations)), calls, strict=True):
        if isinstance(item, Text):
            found.append(Work(item.source.name, _traffic(item, rows), 0, call))
        elif isinstance(item, Product):
            arrays = [b.view(rows) for b in (item.x, item.weight, item.y)]
            found.append(Work(_shape("product", *arrays), _size(arrays), _products(*arrays), call))
        else:
            arrays = [b.view(rows) for b in (*item.reads, *item.writes)]
            count = _products(*arrays) if item.name.startswith("affine_backward_") else 0
            found.append(Work(_shape(item.name, *arrays), _size(arrays), count, call))
    return found


def _shape(name: str, *arrays: Any) -> str:
    return f"{name} {' '.join('x'.join(map(str, a.shape)) for a in arrays)}"


def _size(arrays: Any) -> int:
    return sum(int(a.size) * np.dtype(a.dtype).itemsize for a in arrays)


def _products(a: Any, b: Any, y: Any) -> int:
    """Multiply-adds count two: with y (m, n), the shared axis is what a and b have beyond it."""
    shared = math.isqrt(int(a.size) * int(b.size) // int(y.size))
    return 2 * int(y.size) * shared


def _traffic(item: Any, rows: Any) -> int:
    return traffic(item.source, dict(zip(item.source.accepts, item.arrays(rows), strict=True)))


def traffic(source: Any, given: dict[str, Any]) -> int:
    """Each array once, and once more where the text both reads and writes it; of resident data the batch alone."""
    total = 0
    for p in source.parameters:
        if p.kind != "array":
            continue
        array = given[p.name]
        size = int(array.size)
        if p.name in ("data", "orders", "rates", "metrics"):  # tables: one step's part of them
            batch = given["index"].size if "index" in given else given["orders"].shape[1] if "orders" in given else 1
            size = array.shape[1] * (int(batch) if p.name == "data" else 1)
        loaded = re.search(rf"= {p.name}_\[", source.text) is not None
        total += size * np.dtype(array.dtype).itemsize * (2 if p.written and loaded else 1)
    return total


def of_members(layer: Any, rates: dict[str, Any], products: str = "fp32") -> dict[str, Any]:
    """Bytes and operations of the launches that run side by side as a stage, and the larger of the two times."""
    moved = max(rates["copy_bytes_per_second_by_mib"].values())
    count = size = 0
    for member in layer:
        pairs = list(zip(member.source.parameters, member.launch.args, strict=True))
        size += traffic(member.source, {p.name: value for p, value in pairs if p.kind == "array"})
        count += operations(member.source, {p.letter: int(value) for p, value in pairs if p.kind == "size"})
    floor = max(size / moved, count / rates[RATES[products]])
    return {"bytes": size, "flop": count, "floor_us": round(floor * 1e6, 3)}


def operations(source: Any, sizes: dict[str, int]) -> int:
    """Of the products of a text of our own; multiply-adds count two."""
    if "rows.cuh" in source.parts:  # two layers: forward letters b l z h k r c, backward b s n z h r c
        s = sizes
        first = s["b"] * s["k"] * s["h"] if "k" in s else s["s"] * s["n"] * s["z"]
        second = s["r"] * s["z"] * s["c"] if "k" in s else s["b"] * s["h"] * s["c"]
        return 2 * (first + second)
    if "product.cuh" in source.parts:
        return 2 * len(re.findall(r"\bproduct<", source.text)) * sizes["m"] * sizes["k"] * sizes["c"]
    return 0


def rates(clock: Any, small: bool) -> dict[str, Any]:
    """Bytes a second of copies (read and written both counted) by size, operations a second of a large product."""
    xp = clock.xp
    copies = {}
    for megabytes in (1,) if small else (1, 4, 16, 64, 1024):
        source = xp.ones((megabytes << 18,), np.float32)
        target = xp.empty_like(source)

        def copy(source: Any = source, target: Any = target) -> None:
            target[...] = source

        seconds = clock.back_to_back(copy, 3 if small else 50 if megabytes < 1000 else 5)
        copies[megabytes] = 2 * source.nbytes / seconds
    n = 64 if small else 8192
    a, b = (xp.asarray(np.random.default_rng(i).standard_normal((n, n)).astype(np.float32)) for i in range(2))
    y = xp.empty_like(a)
    found: dict[str, Any] = {"copy_bytes_per_second_by_mib": copies, "product_size": n}
    for precision, name in RATES.items():
        seconds = clock.back_to_back(library(clock.backend, a, b, y, precision), 2, 3)
        found[name] = 2 * n**3 / seconds
    return found


def library(backend: Any, a: Any, b: Any, y: Any, precision: str = "fp32") -> Callable[[], None]:
    """y = a b by cuBLAS, in full float32 or in TF32."""

    def call() -> None:
        backend.xp.matmul(a, b, out=y)

    return backend._in_tf32(call) if precision == "tf32" else call  # type: ignore[no-any-return]
