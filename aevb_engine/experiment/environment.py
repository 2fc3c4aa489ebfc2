"""What a run's bits depend on: versions, BLAS build, core type, compiled loops, C library, variables.

Threads are no part of it: a run keeps the number that it began with in its configuration, and BLAS is held to one.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from aevb_engine import jit

PACKAGES = ("aevb-engine", "numpy", "h5py", "click", "rich", "matplotlib", "threadpoolctl", "numba", "llvmlite")
BLAS_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
# How BLAS and numba choose among their ways to compute the same.
STEERING = (
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES", "NUMBA_OPT", "NUMBA_LOOP_VECTORIZE", "NUMBA_SLP_VECTORIZE", "NUMBA_DISABLE_INTEL_SVML",
)  # fmt: skip
GPU_PACKAGES = (
    "cupy-cuda12x", "cupy-cuda13x", "cupy", "nvidia-cublas-cu12", "nvidia-cublas", "nvidia-cuda-nvrtc-cu12",
    "nvidia-cuda-nvrtc",
)  # fmt: skip
# A difference in one of these may change the last bits of a step.
BIT_KEYS = (
    "aevb-engine", "numpy", "simd", "numba", "llvmlite", "compiled loops", "blas", "libc", "machine", "steering",
)  # fmt: skip
GPU_KEYS = ("gpu libraries", "device")  # of a run on a GPU


def environment() -> dict[str, Any]:
    """Versions, BLAS (library, version, kernel it chose), processor, and variables that steer them."""
    import numpy  # noqa: F401 - BLAS is listed only once it is loaded
    import threadpoolctl

    blas = [i for i in threadpoolctl.threadpool_info() if i.get("user_api") == "blas"]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": f"{platform.machine()} {processor()}",
        "cores": os.cpu_count() or 1,
        "blas": [f"{b.get('internal_api')} {b.get('version')} {b.get('architecture', '')}".strip() for b in blas],
        "blas_variables": {v: os.environ[v] for v in BLAS_VARIABLES if v in os.environ},
        "steering": {v: os.environ[v] for v in STEERING if v in os.environ},
        "simd": _simd(),
        "libc": _libc(),
        "gpu libraries": [f"{p} {v}" for p in GPU_PACKAGES if (v := package_version(p)) != "not installed"],
        "compiled loops": jit.available(),  # not where AEVB_JIT=0
        **{package: package_version(package) for package in PACKAGES},
    }


def package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _simd() -> list[str]:
    """The instruction sets that NumPy uses here; NPY_DISABLE_CPU_FEATURES takes some away."""
    import numpy as np

    config: Any = np.show_config(mode="dicts")
    found = config.get("SIMD Extensions", {})
    return [*found.get("baseline", []), *found.get("found", [])]


def _libc() -> str:
    """The C library, whose exp and log NumPy and Python use where they have none of their own."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return f"{platform.system()} {platform.release()}"


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def differences(recorded: dict[str, Any], now: dict[str, Any], keys: tuple[str, ...] = BIT_KEYS) -> list[str]:
    """The keys in which two environments may compute other bits, with both values."""
    return [
        f"{k}: {recorded.get(k, 'not recorded')} then, {now.get(k)} now"
        for k in keys
        if k not in recorded or recorded[k] != now.get(k)
    ]
