"""Products as texts: every tile, every transpose a dense layer needs, and the epilogues."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.cuda.launch import Source
from aevb_engine.cuda.product import TILES, Product, Tile, fits
from tests.cuda_on_cpu.catalog import likelihoods, optimizers

LAYOUTS = ("forward", "data", "weight", "weight and bias")


def operands(layout: str, m: int, k: int, n: int, dtype: Any, seed: int = 1) -> tuple[Any, Any, Any]:
    """a (m, k), b (k, n) as the layer has them in memory, and the row below a or None."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> npt.NDArray[Any]:
        return rng.standard_normal(shape).astype(dtype)

    if layout == "forward":
        return draw(m, k), draw(k, n), None
    if layout == "data":
        return draw(m, k), draw(n, k).T, None
    extra = layout == "weight and bias" and m > 1
    return draw(k, m - extra).T, draw(k, n), draw(k) if extra else None


def whole(a: Any, last: Any) -> npt.NDArray[np.float64]:
    """a with the row below it, in double."""
    return np.vstack([a, last]).astype(np.float64) if last is not None else a.astype(np.float64)


def plain(tile: Tile, a: Any, b: Any, last: Any, y: Any, tensor_cores: bool = False) -> tuple[Source, tuple[Any, ...]]:
    """y = a b and nothing else."""
    product = Product(a, [b], last, tensor_cores, "plain", tile)
    product.store(y, "sum0[i]")
    return product.text()


def tiles(tensor_cores: bool) -> list[Tile]:
    return [t for t in TILES if t.rows >= 32 or not tensor_cores]


@cache
def texts(dtype: Any, tensor_cores: bool = False) -> tuple[Source, ...]:
    """Every tile and layout; the name tells what differs, so shapes here are those of no launch."""
    out = []
    m, k, n = 70, 50, 60
    for tile in tiles(tensor_cores):
        for layout in LAYOUTS:
            a, b, last = operands(layout, m, k, n, dtype)
            out.append(plain(tile, a, b, last, np.empty((m, n), dtype), tensor_cores)[0])
    return tuple(out)


@cache
def with_epilogues(dtype: Any, tensor_cores: bool = False) -> tuple[Source, ...]:
    """The two epilogues that need most: heads with a likelihood and its gradient, the weights' optimizer."""
    out = []
    m, k, n = 70, 50, 60

    def empty(*shape: int) -> npt.NDArray[Any]:
        return np.empty(shape, dtype)

    for tile in tiles(tensor_cores):
        for name in ("bernoulli", "gaussian"):
            plugin = likelihoods()[name]
            count = len(plugin.heads)
            if not fits(tile, count, np.dtype(dtype).itemsize):
                continue  # never chosen
            product = Product(empty(m, k), [empty(k, n)] * count, None, tensor_cores, name, tile)
            heads = [(i, empty(n)) for i in range(count)]
            dheads = [empty(m, n) for _ in range(count)]
            product.log_prob(plugin, name, empty(m, n), heads, empty(-(-n // tile.columns), m), dheads)
            out.append(product.text()[0])
        product = Product(empty(k, m - 1).T, [empty(k, n)], empty(k), tensor_cores, "adam", tile)
        product.update(optimizers()["adam"], empty(m, n), empty(4), 0.5, empty(m, n), [empty(m, n), empty(m, n)])
        out.append(product.text()[0])
    return tuple(out)
