"""What the plan for a faster path needs to know of the device. Each answer stands alone.

Launch cost, cuBLAS under capture, the gap between the nodes of a graph, the latency of a barrier over the grid, a
simple product of our own against the library, and whether TF32 is off.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from captured import Cublas, capture
from result import Record
from section import Options
from setting import HERE
from timing import Clock

ROWS, INPUTS, OUTPUTS = 100, 784, 500  # the widest layer of W2 at its batch
NODES = 100


def run(record: Record, options: Options) -> None:
    from aevb_engine.backend.cupy import CupyBackend

    backend = CupyBackend()
    clock = Clock(backend)
    record.attempt("tf32", lambda: tf32(clock))
    record.attempt("products", lambda: products(clock, options.small))
    if not clock.real:
        record.note(not_asked="the other questions need a device")
        return
    record.attempt("launch_us", lambda: launches(clock))
    record.attempt("graph", lambda: graph_nodes(clock))
    record.attempt("grid_barrier", lambda: grid_barrier(clock))
    record.attempt("cublas_under_capture", lambda: cublas_under_capture(clock))
    record.attempt("cupy_product_under_capture", lambda: cupy_under_capture(clock))
    backend.close()


def tf32(clock: Clock) -> dict[str, Any]:
    """The relative error of a float32 product: about 1e-7 in full precision, about 3e-4 in TF32."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((512, 512)).astype(np.float32) for _ in range(2))
    xp = clock.xp
    y = xp.asnumpy(xp.matmul(xp.asarray(a), xp.asarray(b), out=xp.empty_like(xp.asarray(a))))
    error = _error(y, a.astype(np.float64) @ b)
    return {"relative_error": error, "off": error < 1e-5}


def _error(actual: Any, expected: Any) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def products(clock: Clock, small: bool) -> dict[str, Any]:
    """Forward x W, data gradient dy W^T, weight gradient x^T dy: our simple tiles, CuPy's matmul."""
    xp = clock.xp
    rows, inputs, outputs = (9, 35, 33) if small else (ROWS, INPUTS, OUTPUTS)
    module = xp.RawModule(code=(HERE / "product.cu").read_text(encoding="utf-8"))
    rng = np.random.default_rng(1)
    x, w, dy = (rng.standard_normal(s).astype(np.float32) for s in ((rows, inputs), (inputs, outputs), (rows, outputs)))
    there = {name: xp.asarray(a) for name, a in (("x", x), ("w", w), ("dy", dy))}
    found = {}
    for name, a, b, m, n, k, expected in (
        ("forward", "x", "w", rows, outputs, inputs, x.astype(np.float64) @ w),
        ("data", "dy", "w", rows, inputs, outputs, dy.astype(np.float64) @ w.T),
        ("weight", "x", "dy", inputs, outputs, rows, x.T.astype(np.float64) @ dy),
    ):
        y = xp.empty((m, n), np.float32)
        function = module.get_function(f"product_{name}")
        grid = (-(-n // 32), -(-m // 32), 1)
        given = (there[a], there[b], y, np.int32(m), np.int32(n), np.int32(k))
        left = there[a].T if name == "weight" else there[a]
        right = there[b].T if name == "data" else there[b]
        times = 2 if small else 200

        def own(function: Any = function, grid: Any = grid, given: Any = given) -> None:
            function(grid, (256, 1, 1), given)

        def library(left: Any = left, right: Any = right, y: Any = y) -> None:
            xp.matmul(left, right, out=y)

        result: dict[str, Any] = {"flop": 2 * m * n * k}
        for who, call in (("own", own), ("cublas", library)):
            y[...] = np.nan
            call()
            result[f"{who}_error"] = _error(xp.asnumpy(y), expected)
            result[f"{who}_us"] = round(clock.back_to_back(call, times) * 1e6, 3)
        found[name] = result
    return found


def launches(clock: Clock) -> dict[str, float]:
    """Microseconds of the host for one launch, behind a busy stream."""
    xp = clock.xp
    a = xp.zeros((64, 64), np.float32)
    y = xp.zeros((64, 64), np.float32)
    one = np.int32(1)
    wide = (a, one, one, a, one, one, a, one, one, a, one, one, np.float32(0), one, one, np.int64(1))
    empty, many = clock.functions["empty"], clock.functions["wide"]
    found = {
        "no argument": _host(clock, lambda: empty((1,), (32,), ())),
        "16 arguments": _host(clock, lambda: many((1, 1, 1), (256, 1, 1), wide)),
        "matmul": _host(clock, lambda: xp.matmul(a, a, out=y)),
    }
    graph = capture(clock.stream, partial(_repeat, partial(many, (1, 1, 1), (256, 1, 1), wide), NODES))
    found[f"graph of {NODES} launches"] = _host(clock, lambda: graph.launch(clock.stream), 20)
    return found


def _host(clock: Clock, call: Any, times: int = 300) -> float:
    taken = []
    clock.backend.enter()
    for _ in range(5):
        call()
    for _ in range(7):
        clock.stream.synchronize()
        clock.busy(0.05)
        start = time.perf_counter()
        for _ in range(times):
            call()
        taken.append((time.perf_counter() - start) / times)
    clock.stream.synchronize()
    return round(float(np.median(taken)) * 1e6, 3)


def graph_nodes(clock: Clock) -> dict[str, float]:
    """Microseconds a node, in a chain of empty kernels of one block and of one block per multiprocessor."""
    found = {}
    for name, blocks in (("1 block", 1), ("a block per multiprocessor", _multiprocessors(clock))):
        one = partial(clock.functions["empty"], (blocks,), (256,), ())
        seconds = []
        for nodes in (1, NODES):
            graph = capture(clock.stream, partial(_repeat, one, nodes))
            graph.upload(clock.stream)
            seconds.append(clock.back_to_back(partial(graph.launch, clock.stream), 20))
        found[f"{name}: a node more"] = round((seconds[1] - seconds[0]) / (NODES - 1) * 1e6, 3)
        found[f"{name}: a graph of one"] = round(seconds[0] * 1e6, 3)
        found[f"{name}: launched eagerly, queue full"] = round(clock.back_to_back(one, 300) * 1e6, 3)
    return found


def _repeat(call: Any, times: int) -> None:
    for _ in range(times):
        call()


def _multiprocessors(clock: Clock) -> int:
    runtime = clock.xp.cuda.runtime
    return int(runtime.getDeviceProperties(clock.xp.cuda.Device().id)["multiProcessorCount"])


def grid_barrier(clock: Clock, rounds: int = 2000, limit: int = 2_000_000) -> dict[str, Any]:
    """Microseconds a barrier over all blocks by one atomic counter; no hang: a block that waits too long gives up."""
    xp = clock.xp
    code = (HERE / "device.cu").read_text(encoding="utf-8")
    function = xp.RawModule(code=code, enable_cooperative_groups=True).get_function("barrier")
    blocks = _multiprocessors(clock)
    found: dict[str, Any] = {"blocks": blocks}
    for threads in (32, 256):
        seconds = {}
        for n in (1, rounds):
            times = []
            for _ in range(5):
                arrived, late = xp.zeros(1, np.uint32), xp.zeros(1, np.int32)
                given = (arrived, late, np.int32(n), np.int32(limit))
                times.append(clock.device(partial(function, (blocks,), (threads,), given), 1e-3))
                if int(late[0]) or int(arrived[0]) != n * blocks:
                    raise RuntimeError(f"{int(arrived[0])} of {n * blocks} arrivals; late {int(late[0])}")
            seconds[n] = float(np.median(times))
        found[f"{threads} threads a block"] = round((seconds[rounds] - seconds[1]) / (rounds - 1) * 1e6, 3)
    return found


def cublas_under_capture(clock: Clock) -> dict[str, Any]:
    """The three products of a layer as nodes of one graph: right, and how long a replay takes."""
    xp = clock.xp
    rng = np.random.default_rng(2)
    shapes = {"x": (ROWS, INPUTS), "w": (INPUTS, OUTPUTS), "dy": (ROWS, OUTPUTS)}
    x, w, dy = (xp.asarray(rng.standard_normal(s).astype(np.float32)) for s in shapes.values())
    y, dx, dw = (xp.empty(s, np.float32) for s in ((ROWS, OUTPUTS), (ROWS, INPUTS), (INPUTS, OUTPUTS)))
    xp.matmul(x, w, out=y)
    cublas = Cublas(xp, clock.stream)

    def all_three() -> None:
        cublas.product(x, w, y)
        cublas.product(dy, w, dx, turned_b=True)
        cublas.product(x, dy, dw, turned_a=True)

    clock.backend.enter()
    all_three()
    graph = capture(clock.stream, all_three)
    errors = []
    for array in (y, dx, dw):
        array[...] = np.nan
    graph.launch(clock.stream)
    for array, a, b in ((y, x, w), (dx, dy, w.T), (dw, x.T, dy)):
        errors.append(_error(xp.asnumpy(array), xp.asnumpy(a).astype(np.float64) @ xp.asnumpy(b)))
    replay = clock.back_to_back(lambda: graph.launch(clock.stream), 50)
    eager = clock.back_to_back(all_three, 100)
    cublas.close()
    return {
        "works": max(errors) < 1e-5,
        "relative_errors": errors,
        "replay_us": round(replay * 1e6, 3),
        "eager_device_us": round(eager * 1e6, 3),
    }


def cupy_under_capture(clock: Clock) -> dict[str, Any]:
    """Whether CuPy's own product may be captured; asked last, on a stream of its own."""
    xp = clock.xp
    stream = xp.cuda.Stream(non_blocking=True)
    a, y = xp.ones((64, 64), np.float32), xp.empty((64, 64), np.float32)
    clock.stream.synchronize()
    try:
        capture(stream, lambda: xp.matmul(a, a, out=y))
    except Exception as error:
        return {"works": False, "error": f"{type(error).__name__}: {error}"}
    finally:
        clock.backend.enter()
    return {"works": True}
