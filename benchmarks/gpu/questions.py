"""What the plan for a faster path needs to know of the device. Each answer stands alone.

Launch cost, cuBLAS under capture, the gap between the nodes of a graph, the latency of the barrier over the grid, and
whether TF32 is off.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from captured import Cublas, capture
from result import Record
from section import Options
from timing import Clock

ROWS, INPUTS, OUTPUTS = 100, 784, 500  # the widest layer of W2 at its batch
NODES = 100


def run(record: Record, options: Options) -> None:
    from aevb_engine.backend.cupy import CupyBackend

    backend = CupyBackend()
    clock = Clock(backend)
    record.attempt("tf32", lambda: tf32(clock))
    record.attempt("grid_barrier", lambda: grid_barrier(clock))
    if not clock.real:
        record.note(not_asked="the other questions need a device")
        return
    record.attempt("launch_us", lambda: launches(clock))
    record.attempt("graph", lambda: graph_nodes(clock))
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


WAITS = {  # of a block's first thread at the engine's barrier: changes of its text
    "as it is": [],
    "no pause between looks": [("            __nanosleep(20);\n", "")],
    "a longer pause": [("__nanosleep(20)", "__nanosleep(100)")],
    "relaxed looks, one fence": [
        ("ld.acquire.gpu.global.u32", "ld.relaxed.gpu.global.u32"),
        ("        }\n    }\n    __syncthreads();\n    return !late;",
         "        }\n        __threadfence();\n    }\n    __syncthreads();\n    return !late;"),
    ],
}  # fmt: skip
ROUNDS = """
extern "C" __global__ void __launch_bounds__(256) rounds(unsigned int* state, int times, int limit)
{
    unsigned int goal = state[BEGAN];
    for (int i = 0; i < times; i++)
        if (!meet(state, goal += gridDim.x, limit))
            return;
    if (blockIdx.x == 0 && threadIdx.x == 0)
        state[BEGAN] = goal;
}
"""


def barrier_text(changes: list[tuple[str, str]]) -> str:
    """The engine's barrier in a loop."""
    from aevb_engine.cuda.module import read

    text = read("barrier.cuh")
    for old, new in changes:
        if text.count(old) != 1:
            raise ValueError(f"the barrier has {text.count(old)} times {old!r}")
        text = text.replace(old, new)
    return text + ROUNDS


def grid_barrier(clock: Clock, limit: int = 2_000_000) -> dict[str, Any]:
    """Microseconds of the persistent trainer's barrier over all blocks, one a multiprocessor, and of other waits."""
    from aevb_engine.backend.cupy import OPTIONS

    xp, times = clock.xp, 2000 if clock.real else 3
    blocks = _multiprocessors(clock)
    found: dict[str, Any] = {"blocks": blocks}
    for name, changes in WAITS.items():
        text = barrier_text(changes)
        if not clock.real and "__nanosleep" not in text:
            continue  # where blocks take turns there
        module = xp.RawModule(code=text, options=OPTIONS, enable_cooperative_groups=True)
        function, seconds = module.get_function("rounds"), {}
        state = xp.asarray(np.zeros(3, np.uint32))
        begun = 0
        for n in (1, times):
            given, taken = (state, np.int32(n), np.int32(limit)), []
            for _ in range(5):
                taken.append(clock.device(partial(function, (blocks, 1, 1), (256, 1, 1), given), 1e-3))
                begun += n * blocks
                if xp.asnumpy(state).tolist() != [begun, begun, 0]:
                    raise RuntimeError(f"{name}: state {xp.asnumpy(state).tolist()} after {begun} arrivals")
            seconds[n] = float(np.median(taken))
        found[name] = round((seconds[times] - seconds[1]) / (times - 1) * 1e6, 3)
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
