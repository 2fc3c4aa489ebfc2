"""A double of the few CuPy calls the engine makes: arrays live in host memory, launches run through the shim.

It is stricter than convenient: host arrays are refused where CuPy would refuse them, and reading a value on the host
(``int(array[0])``, ``.item()``) is counted, because on a device it waits for everything before it. The environment
variable AEVB_DOUBLE chooses a failure: "no driver", "no device", "no library", "no capture".
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import runner

sys.path.pop(0)

FAILURE = os.environ.get("AEVB_DOUBLE", "")
MULTIPROCESSORS, OCCUPANCY, MAJOR = 3, 1, 9  # of the device that there seems to be
counts = {"reads": 0, "allocations": 0, "launches": 0, "products": 0, "graphs": 0}

float32, float64, int64, uint8, uint32 = np.float32, np.float64, np.int64, np.uint8, np.uint32


class ndarray(np.ndarray):
    """A device array: host memory with a mark."""

    def _read(self) -> np.ndarray:
        _not_captured("a read by the host")
        _not_beside("a read by the host")
        counts["reads"] += 1
        return self.view(np.ndarray)

    def __int__(self) -> int:
        return int(self._read())

    def __float__(self) -> float:
        return float(self._read())

    def __bool__(self) -> bool:
        return bool(self._read())

    def item(self, *args: Any) -> Any:
        return self._read().item(*args)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return np.asarray(found).view(ndarray) if isinstance(found, np.generic) else found

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(value) is np.ndarray and value.ndim:
            raise TypeError("a host array cannot be assigned to a device array; use asarray")
        _not_captured("an assignment")
        _not_beside("an assignment")
        if isinstance(value, ndarray):
            _ordered(value)
        super().__setitem__(key, value)


class _State:
    """Streams as CuPy keeps them: ``use`` replaces the current one, and the end of a with-block goes back to the one
    around it, or to the null stream, whatever was in use before."""

    capturing: _Stream | None = None
    current: _Stream | None = None  # None: the null stream
    around: ClassVar[list[_Stream | None]] = [None]  # the null stream, then those of with-blocks
    main: _Stream | None = None  # the first in use: the engine's
    unordered: ClassVar[list[tuple[ndarray, _Stream]]] = []  # copied on another stream, and not waited for


def _not_beside(what: str) -> None:
    """Nothing orders the null stream and a stream that does not block."""
    if _State.main is not None and _State.current is None:
        raise CUDARuntimeError(f"a race: {what} on the null stream, beside the stream in use")


def _ordered(value: Any) -> None:
    """What another stream copies may be read only behind its event."""
    for array, stream in _State.unordered:
        if stream is not _State.current and np.may_share_memory(array, value):
            raise CUDARuntimeError("a race: an array is read before the stream that copies it was waited for")


def _not_captured(what: str) -> None:
    """A stream under capture takes launches alone; anything else spoils the graph, or is not part of it."""
    if _State.capturing is not None:
        raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} while a stream is capturing")


def _device(array: Any) -> ndarray:
    _not_captured("an allocation")
    _not_beside("an allocation")
    counts["allocations"] += 1
    return np.array(array).view(ndarray)


def _checked(*arrays: Any) -> None:
    for array in arrays:
        if not isinstance(array, ndarray):
            raise TypeError(f"Unsupported type {type(array)}")


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    return _device(np.zeros(shape, dtype))


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """Filled with what would be noticed."""
    array = _device(np.zeros(shape, dtype))
    array.view(np.ndarray).view(np.uint8)[...] = 0xFF
    return array


def ones(shape: Any, dtype: Any = float) -> ndarray:
    return _device(np.ones(shape, dtype))


def full(shape: Any, fill_value: Any, dtype: Any = None) -> ndarray:
    return _device(np.full(shape, fill_value, dtype))


def empty_like(prototype: Any) -> ndarray:
    return empty(prototype.shape, prototype.dtype)


def asarray(a: Any, dtype: Any = None) -> ndarray:
    if isinstance(a, ndarray) and dtype is None:
        return a
    made = _device(np.asarray(a, dtype))
    if _State.current is not _State.main and _State.current is not None:
        _State.unordered.append((made, _State.current))
    return made


def asnumpy(a: Any) -> np.ndarray:
    """What is not contiguous is copied in a with-block first, and so leaves no stream in use (CuPy 14.2)."""
    _not_captured("a copy to the host")
    _not_beside("a copy to the host")
    counts["reads"] += 1
    if not a.flags.c_contiguous:
        _State.current = _State.around[-1]
    return np.array(a.view(np.ndarray))


def ascontiguousarray(a: Any) -> ndarray:
    return a if a.flags.c_contiguous else _device(np.ascontiguousarray(a))


def take(a: Any, indices: Any, axis: Any = None, out: Any = None) -> Any:
    """CuPy has no ``mode``: it always wraps."""
    return np.take(a, indices, axis, out, mode="wrap")


class _Maximum:
    """CuPy reduces with add and multiply alone."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return np.maximum(*args, **kwargs)


maximum = _Maximum()


def matmul(a: Any, b: Any, out: Any = None) -> ndarray:
    """With the library missing: what CuPy raises."""
    if FAILURE == "no library":
        raise ImportError("libcublas.so.13: cannot open shared object file: No such file or directory")
    _checked(a, b, *([] if out is None else [out]))
    _not_beside("a product")
    if _State.capturing is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    counts["products"] += 1
    # What is contiguous in neither order is copied first, without a word.
    counts["allocations"] += sum(not (m.flags.c_contiguous or m.flags.f_contiguous) for m in (a, b))
    if out is not None and not out.flags.c_contiguous:
        raise ValueError("Output array must be C-contiguous")
    result = np.matmul(a.view(np.ndarray), b.view(np.ndarray), out=None if out is None else out.view(np.ndarray))
    return _device(result) if out is None else out


def __getattr__(name: str) -> Any:
    """Array code of plugins without device text: NumPy's functions, their results marked by the array type."""
    if name.startswith("__") or not hasattr(np, name):
        raise AttributeError(name)
    return getattr(np, name)


class RawModule:
    """A text compiled with g++, by its first launch; functions check their arguments as ctypes needs them."""

    def __init__(self, *, code: str, options: tuple[str, ...] = (), enable_cooperative_groups: bool = False) -> None:
        _not_captured("a compilation")
        self.code, self.cooperative = code, enable_cooperative_groups
        self._program: Any = None

    def get_function(self, name: str) -> _Function:
        _not_captured("loading a function")
        return _Function(self, name)

    def program(self) -> Any:
        if self._program is None:
            self._program = runner.compile_text(self.code)
        return self._program


class _Function:
    """A kernel. Its code is loaded by looking at its attributes, or else by its first launch."""

    def __init__(self, module: RawModule, name: str) -> None:
        self._module, self._name = module, name
        self._loaded = False
        self.kernel = types.SimpleNamespace(ptr=id(self))

    @property
    def num_regs(self) -> int:
        _not_captured("loading a function")
        self._loaded = True
        return 32

    def __call__(self, grid: Any, block: Any, args: Any) -> None:
        _checked(*(a for a in args if not isinstance(a, np.generic)))
        counts["launches"] += 1
        if self._module.cooperative and np.prod(grid) > MULTIPROCESSORS * OCCUPANCY:
            raise AssertionError(f"{self._name}: {grid} blocks do not fit; CuPy would launch fewer without a word")

        _not_beside("a launch")

        def run() -> None:
            schedule = os.environ.get("AEVB_SCHEDULE", "forward")
            self._module.program().call(self._name, grid, block, args, schedule, cooperative=self._module.cooperative)

        stream = _State.capturing
        if stream is None:
            self._loaded = True
            run()
        elif not self._loaded:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: loading a function while a stream is capturing")
        elif self._module.cooperative:
            raise CUDARuntimeError("cudaErrorNotSupported: a cooperative launch in a graph")
        else:
            stream.recorded.append(run)


class _Stream:
    def __init__(self, non_blocking: bool = False) -> None:
        self.non_blocking = non_blocking
        self.recorded: list[Any] = []

    def use(self) -> _Stream:
        _State.current = self
        _State.main = _State.main or self
        return self

    def synchronize(self) -> None:
        _not_captured("waiting")

    def record(self) -> Any:
        """An event: what was copied on this stream so far."""
        _not_captured("an event")
        return [a for a, stream in _State.unordered if stream is self]

    def wait_event(self, event: Any) -> None:
        """What follows on this stream comes behind the event."""
        done = {id(a) for a in event}
        _State.unordered = [(a, stream) for a, stream in _State.unordered if id(a) not in done]

    def begin_capture(self, mode: Any = None) -> None:
        if FAILURE == "no capture" or not self.non_blocking or _State.capturing is not None:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted")
        _State.capturing, self.recorded = self, []

    def end_capture(self) -> _Graph:
        if _State.capturing is not self:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream is not capturing")
        _State.capturing = None
        return _Graph(self.recorded)

    def __enter__(self) -> _Stream:
        _State.around.append(self)
        _State.current = self
        return self

    def __exit__(self, *exc: object) -> None:
        _State.around.pop()
        _State.current = _State.around[-1]


class _Graph:
    """Recorded launches."""

    def __init__(self, launches: list[Any]) -> None:
        self._launches = launches

    def upload(self, stream: _Stream) -> None:
        _not_captured("an upload")

    def launch(self, stream: _Stream) -> None:
        counts["graphs"] += 1
        for run in self._launches:
            run()


class CUDARuntimeError(RuntimeError):
    """What CuPy's runtime raises."""


def _device_count() -> int:
    if FAILURE == "no driver":
        raise CUDARuntimeError(
            "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
        )
    if FAILURE == "no device":
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    return 1


class _Pool:
    def total_bytes(self) -> int:
        return 0

    def used_bytes(self) -> int:
        return 0


def get_default_memory_pool() -> _Pool:
    return _Pool()


runtime = types.SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    driverGetVersion=lambda: 0 if FAILURE == "no driver" else 13000,
    runtimeGetVersion=lambda: 13000,
    getDeviceCount=_device_count,
    getDeviceProperties=lambda i: {"name": b"shim", "multiProcessorCount": MULTIPROCESSORS, "major": MAJOR},
    memGetInfo=lambda: (0, 0),
)
driver = types.SimpleNamespace(occupancyMaxActiveBlocksPerMultiprocessor=lambda function, threads, shared: OCCUPANCY)
cuda = types.SimpleNamespace(
    runtime=runtime, driver=driver, Stream=_Stream, Device=lambda: types.SimpleNamespace(id=0),
    get_current_stream=lambda: _State.current,
)  # fmt: skip


class _Core(types.SimpleNamespace):
    """The private module with the setting of float32 products."""

    _routines_linalg = types.SimpleNamespace(COMPUTE_TYPE_TF32=7)
    compute_type = 1

    def get_compute_type(self, dtype: Any) -> int:
        return self.compute_type

    def set_compute_type(self, dtype: Any, compute_type: int) -> None:
        self.compute_type = compute_type


_core = _Core()
__version__ = "double"
