"""The GPU backend: CuPy arrays, the engine's CUDA texts, products by cuBLAS, everything on one stream.

The only module that imports cupy. Clear errors tell a missing package, driver, device or library apart; the backend
never falls back to the CPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.backend.base import Call, Phases, Plan, Replay
from aevb_engine.backend.stream import make_current
from aevb_engine.cuda.launch import Launch
from aevb_engine.cuda.lower import Product, Text, lower
from aevb_engine.cuda.module import module
from aevb_engine.errors import BackendError
from aevb_engine.operation import Buffer, Operation, Rows

OPTIONS = ("--std=c++17",)


class CupyBackend:
    """One GPU; operations are lowered to launches when a step is built."""

    name = "gpu"
    threads = 1
    asynchronous = True

    def __init__(self) -> None:
        self.xp: Any = open_cupy()
        self.stream, self._copies = _streams(self.xp)
        self.enter()

    def enter(self) -> None:
        make_current(self.xp, self.stream)

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        self.enter()
        return self.xp.zeros(shape, dtype)

    def upload(self, array: npt.NDArray[Any]) -> Any:
        self.enter()
        return self._copied(array)

    def _copied(self, array: npt.NDArray[Any]) -> Any:
        return self.xp.asarray(np.ascontiguousarray(array))

    def upload_beside(self, arrays: Sequence[npt.NDArray[Any]]) -> list[Any]:
        make_current(self.xp, self._copies)
        try:
            made = [self._copied(a) for a in arrays]
            done = self._copies.record()
        finally:
            self.enter()
        self.stream.wait_event(done)
        return made

    def download(self, array: Any) -> npt.NDArray[Any]:
        self.enter()
        # Contiguous, or CuPy would copy it in a with-block of its own, and leave the null stream.
        host: npt.NDArray[Any] = self.xp.asnumpy(self.xp.ascontiguousarray(array))
        return host

    def device(self) -> str:
        properties = self.xp.cuda.runtime.getDeviceProperties(self.xp.cuda.Device().id)
        name = properties["name"]
        return name.decode() if isinstance(name, bytes) else str(name)

    @property
    def tf32(self) -> bool:
        """Compute capability 8.0 (Ampere) or later; cuBLAS would use full float32 without a word."""
        return int(self.xp.cuda.runtime.getDeviceProperties(self.xp.cuda.Device().id)["major"]) >= 8

    def memory(self) -> dict[str, int]:
        """Bytes: held by the pool, used of it, free and total on the device."""
        pool = self.xp.get_default_memory_pool()
        free, total = self.xp.cuda.runtime.memGetInfo()
        return {"pool": pool.total_bytes(), "used": pool.used_bytes(), "free": free, "total": total}

    def bind(
        self,
        operations: Sequence[Operation],
        rows: Rows,
        products: str = "fp32",
        read: Sequence[Buffer] | None = None,
    ) -> list[Call]:
        self.enter()
        items = lower(operations, read)
        launches = {i: t.source.launch(*t.arrays(rows)) for i, t in enumerate(items) if isinstance(t, Text)}
        functions: dict[str, Any] = {}
        if launches:
            used = [t.source for t in items if isinstance(t, Text)]
            code = module(used, number(launches.values()))
            compiled = self.xp.RawModule(code=code, options=OPTIONS)
            functions = {s.name: compiled.get_function(s.name) for s in used}
        rounded = self._in_tf32 if products == "tf32" else lambda call: call
        calls: list[Call] = []
        for i, item in enumerate(items):
            if isinstance(item, Text):
                calls.append(_launch(functions[launches[i].name], launches[i]))
            elif isinstance(item, Product):
                calls.append(rounded(self._product(*(b.view(rows) for b in (item.x, item.weight, item.y)))))
            else:
                calls.append(rounded(item.bind(self.xp, rows)))
        return calls

    def replay(self, plan: Plan, operations: Sequence[Operation], rows: Rows, read: Sequence[Buffer] = ()) -> Replay:
        from aevb_engine.backend.replay import Graph, Persistent  # few runs need it

        self.enter()
        made: Callable[..., Replay] = Graph if plan.path == "graph" else Persistent
        return made(self.xp, self.stream, operations, rows, plan.products, read)

    def _product(self, x: Any, weight: Any, y: Any) -> Call:
        matmul = self.xp.matmul
        return lambda: matmul(x, weight, out=y)

    def _in_tf32(self, call: Call) -> Call:
        """The call with CuPy's float32 products in TF32, which is off before and after."""
        core = self.xp._core
        tf32 = core._routines_linalg.COMPUTE_TYPE_TF32

        def run() -> None:
            before = core.get_compute_type(np.float32)
            core.set_compute_type(np.float32, tf32)
            try:
                call()
            finally:
                core.set_compute_type(np.float32, before)

        return run

    def run(self, phases: Phases, times: int) -> None:
        calls = [call for phase in phases for share in phase for call in share]
        self.enter()
        for _ in range(times):
            for call in calls:
                call()

    def repeat(self, phases: Phases, operations: Sequence[Operation]) -> Callable[[int], None]:
        return lambda times: self.run(phases, times)

    def close(self) -> None:
        self.stream.synchronize()


@cache
def _streams(cupy: Any) -> tuple[Any, Any]:
    """One stream for every backend of the process: what two models enqueue stays in order with their copies.

    Beside it one for copies to the device that the work under way does not need.
    """
    return cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)


def _launch(function: Any, launch: Launch) -> Call:
    grid, block, args = launch.grid, launch.block, launch.args
    return lambda: function(grid, block, args)


def number(launches: Any) -> Any:
    """float32 or float64: the type of the arrays among the arguments; small integer tables do not count."""
    for launch in launches:
        for argument in launch.args:
            kind = np.dtype(argument.dtype)
            if hasattr(argument, "strides") and np.ndim(argument) and kind in (np.float32, np.float64):
                return kind
    return np.float32


def open_cupy() -> Any:
    """The cupy module with a working device, or a BackendError that names the cause and the mend."""
    try:
        cupy = importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise BackendError(f"backend gpu: CuPy cannot be imported ({error}); reinstall it: {mend()}") from error
        raise BackendError(f"backend gpu: CuPy is not installed; {mend()}, or use --backend cpu") from error
    except ImportError as error:
        raise BackendError(f"backend gpu: CuPy cannot be imported ({_line(error)}); reinstall it: {mend()}") from error
    runtime = cupy.cuda.runtime
    try:
        driver = runtime.driverGetVersion()
        count = runtime.getDeviceCount() if driver else 0
    except runtime.CUDARuntimeError as error:
        driver, count = 0, 0
        if "no CUDA-capable device" in str(error):
            driver = 1
        elif "InsufficientDriver" not in str(error):
            raise BackendError(f"backend gpu: CUDA fails ({_line(error)}); look at nvidia-smi") from error
    if not driver:
        raise BackendError(
            "backend gpu: no NVIDIA driver, or one older than CuPy needs; install one, or use --backend cpu"
        )
    if not count:
        raise BackendError(
            "backend gpu: no CUDA device is visible; look at nvidia-smi and CUDA_VISIBLE_DEVICES, or use --backend cpu"
        )
    try:  # the compiler and the product library load on first use; find out now what is missing
        one = cupy.ones((2, 2), np.float32)
        cupy.matmul(one, one, out=cupy.empty_like(one))
        cupy.RawModule(code='extern "C" __global__ void probe() {}', options=OPTIONS).get_function("probe")
    except Exception as error:  # CuPy has kinds of its own beside ImportError and RuntimeError
        raise BackendError(
            f"backend gpu: a CUDA library is missing or fails ({_line(error)}); install CuPy with them: {mend()}"
        ) from error
    return cupy


def mend() -> str:
    """How CuPy is installed here."""
    from aevb_engine import install  # what it needs takes long to import

    return f"{install.command('gpu')} (CUDA 13) or python -m pip install 'cupy-cuda12x[ctk]>=14' (CUDA 12)"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
