"""The products of W1 to W5 by texts of our own, in every tile, beside cuBLAS.

By layout and shape (m, k, n) of y = a b: microseconds of each tile with the sizes as constants of the text, as in a
replayed step but without an epilogue; of cuBLAS through CuPy; the error of either; and how much longer than with the
fastest tile a product takes in the one that ``cuda/product.py`` chooses. In full float32, and with factors in TF32.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from floors import RATES, library, rates
from result import Record, say
from section import Options
from timing import Clock
from workloads import workloads

LAYOUTS = ("forward", "data", "weight")  # x W; dy W^T; x^T dy and below it the sum of dy
WRONG = {"fp32": 1e-5, "tf32": 2e-3}  # relative, by norm


def run(record: Record, options: Options) -> None:
    from aevb_engine.backend.cupy import CupyBackend

    backend = CupyBackend()
    clock = Clock(backend)
    figures = rates(clock, options.small)
    found: dict[str, Any] = {}
    for layout, m, k, n in shapes(options.small):
        if options.left() < 8 and not options.small:
            record.note(left_out=f"{layout} {m}x{k}x{n} and what follows: no time left")
            break
        key = f"{layout} {m}x{k}x{n}"
        for precision in RATES:
            made = compare(clock, layout, (m, k, n), precision, options)
            floor = 2 * m * k * n / figures[RATES[precision]]
            found[f"{key} {precision}"] = made | {"floor_us": round(floor * 1e6, 3)}
            record.note(rates=figures, products=found)
            right = all(f["error"] <= WRONG[precision] for f in (*made["tiles"].values(), made["cublas"]))
            errors = {name: f["error"] for name, f in made["tiles"].items()}
            record.check(f"{key} {precision}: every tile is right", right, errors, WRONG[precision])
            say(f"    {made['chosen']} {made['chosen_us']} us, best {made['best']} {made['best_us']} us, "
                f"cuBLAS {made['cublas']['us']} us")  # fmt: skip
    backend.close()


def shapes(small: bool) -> list[tuple[str, int, int, int]]:
    """Each layout, m, k, n of the wide layers, those of W2 first."""
    if small:
        return [("weight", 20, 33, 17)]
    out: dict[tuple[str, int, int, int], None] = {}
    for name in ("W2", "W1", "W4", "W5", "W3"):
        w = workloads(False)[name]
        rows = w["batch"] * w["samples"]
        d, h = w["dim"], w["hidden"][0]
        for shape in (
            ("forward", w["batch"], d, h), ("weight", d, w["batch"], h),  # the encoder's first layer
            ("forward", rows, h, d), ("data", rows, d, h), ("weight", h, rows, d),  # the decoder's last
        ):  # fmt: skip
            out[shape] = None
    return list(out)


def compare(clock: Clock, layout: str, shape: tuple[int, int, int], precision: str, options: Options) -> dict[str, Any]:
    """Every tile, and the library."""
    from aevb_engine.backend.cupy import OPTIONS
    from aevb_engine.cuda.fused import captured
    from aevb_engine.cuda.product import TILES, Product, choose
    from aevb_engine.cuda.stages import Member

    m, k, n = shape
    xp, small, tensor_cores = clock.xp, options.small, precision == "tf32"
    a, b, last, expected = _operands(xp, layout, m, k, n)
    tiles = [t for t in TILES if t.rows >= 32 or not tensor_cores]
    y = xp.empty((m + (last is not None), n), np.float32)
    members = []
    for tile in tiles:
        product = Product(a, [b], last, tensor_cores, "plain", tile)
        product.store(y, "sum0[i]")
        source, given = product.text()
        members.append(Member(source, source.launch(*given)))
    made = captured([[member] for member in members], np.float32)
    module = xp.RawModule(code=made.code, options=OPTIONS)
    times = 2 if small else 60
    found: dict[str, dict[str, Any]] = {}

    def measure(call: Any, y: Any, expected: Any) -> dict[str, Any]:
        y[...] = np.nan
        clock.backend.enter()
        call()
        return {"error": _error(xp.asnumpy(y), expected), "us": round(clock.back_to_back(call, times) * 1e6, 3)}

    for tile, kernel in zip(tiles, made.kernels, strict=True):
        call = partial(module.get_function(kernel.name), kernel.grid, kernel.block, kernel.args)
        found[f"{tile.rows}x{tile.columns}"] = {"blocks": kernel.grid[0], **measure(call, y, expected)}
    of_library = xp.empty((m, n), np.float32)
    cublas = measure(library(clock.backend, a, b, of_library, precision), of_library, expected[:m])
    chosen = choose(m + (last is not None), k, n, tensor_cores)
    name = f"{chosen.rows}x{chosen.columns}"
    best = min(found, key=lambda tile: found[tile]["us"])
    return {
        "tiles": found, "cublas": cublas, "chosen": name, "chosen_us": found[name]["us"], "best": best,
        "best_us": found[best]["us"], "chosen_over_best": round(found[name]["us"] / found[best]["us"], 3),
    }  # fmt: skip


def _operands(xp: Any, layout: str, m: int, k: int, n: int) -> tuple[Any, Any, Any, Any]:
    """a (m, k), b (k, n) as a layer has them in memory, the row below a or None; the product in double."""
    rng = np.random.default_rng([m, k, n])

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    a = draw(k, m) if layout == "weight" else draw(m, k)
    b = draw(n, k) if layout == "data" else draw(k, n)
    last = draw(k) if layout == "weight" else None
    left = a.T if layout == "weight" else a
    right = b.T if layout == "data" else b
    whole = left if last is None else np.vstack([left, last])
    expected = whole.astype(np.float64) @ right.astype(np.float64)
    a, b = xp.asarray(a), xp.asarray(b)
    return (
        a.T if layout == "weight" else a, b.T if layout == "data" else b,
        None if last is None else xp.asarray(last), expected,
    )  # fmt: skip


def _error(actual: Any, expected: Any) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
