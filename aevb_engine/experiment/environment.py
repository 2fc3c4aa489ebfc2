"""What a run's bits depend on: versions, BLAS build, core type, threads."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from aevb_engine import jit

PACKAGES = ("aevb-engine", "numpy", "h5py", "click", "rich", "matplotlib", "threadpoolctl", "numba")
BLAS_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
# A difference in one of these may change the last bits of a matrix product.
BIT_KEYS = ("numpy", "numba", "compiled loops", "blas", "machine")


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
        "compiled loops": jit.available(),  # not where AEVB_JIT=0
        **{package: package_version(package) for package in PACKAGES},
    }


def package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


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


def differences(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys in which two environments may compute other bits, with both values."""
    return [f"{k}: {recorded.get(k)} then, {now.get(k)} now" for k in BIT_KEYS if recorded.get(k) != now.get(k)]
