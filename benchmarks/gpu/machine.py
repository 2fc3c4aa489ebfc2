"""What the figures were measured on: device, driver, versions, clocks as found. Reads settings, changes none."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from result import Record
from section import Options
from setting import ROOT

QUERIES = (  # the second where a driver does not know a name of the first
    "name,driver_version,persistence_mode,compute_mode,mig.mode.current,pstate,clocks.sm,clocks.mem,clocks.max.sm,"
    "clocks.max.mem,power.draw,power.limit,temperature.gpu,utilization.gpu,memory.used,memory.total",
    "name,driver_version,clocks.sm,clocks.mem",
)
PACKAGES = ("aevb-engine", "numpy", "h5py", "numba", "torch", "triton", "jax", "jaxlib", "pytest")
PROPERTIES = (
    "multiProcessorCount", "major", "minor", "totalGlobalMem", "l2CacheSize", "sharedMemPerMultiprocessor",
    "sharedMemPerBlockOptin", "regsPerMultiprocessor", "memoryBusWidth", "ECCEnabled",
)  # fmt: skip


def run(record: Record, options: Options) -> None:
    from aevb_engine.backend.cupy import CupyBackend

    backend = CupyBackend()
    xp = backend.xp
    asked = smi()
    record.note(
        device=backend.device(),
        simulated=xp.__version__ == "double",
        driver=(asked or {}).get("driver_version", f"CUDA {xp.cuda.runtime.driverGetVersion()}"),
        cuda_of_driver=xp.cuda.runtime.driverGetVersion(),
        cupy=xp.__version__,
        nvidia_smi=asked,
        versions={name: _version(name) for name in PACKAGES},
        tf32=os.environ.get("CUPY_TF32"),
        sources=_sources(),
    )
    record.attempt("properties", lambda: _properties(xp))
    record.attempt("libraries", lambda: _libraries(xp))
    record.attempt("host", _host)
    backend.close()


def smi() -> dict[str, str] | None:
    """nvidia-smi's answers by name; None where it is not there."""
    for query in QUERIES:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
            if done.returncode == 0 and done.stdout.strip():
                values = [v.strip() for v in done.stdout.splitlines()[0].split(",")]
                return dict(zip(query.split(","), values, strict=False))
    return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _properties(xp: Any) -> dict[str, Any]:
    properties = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)
    return {name: properties[name] for name in PROPERTIES if name in properties}


def _libraries(xp: Any) -> dict[str, Any]:
    """Versions of the CUDA libraries that CuPy has loaded."""
    found: dict[str, Any] = {}
    runtime = xp.cuda.runtime
    for name in ("runtimeGetVersion", "_getLocalRuntimeVersion"):
        with contextlib.suppress(Exception):
            found[name.strip("_")] = getattr(runtime, name)()
    with contextlib.suppress(Exception):
        found["nvrtc"] = xp.cuda.nvrtc.getVersion()
    with contextlib.suppress(Exception):
        found["cublas"] = xp.cuda.cublas.getVersion(xp.cuda.Device().cublas_handle)
    return found


def _host() -> dict[str, Any]:
    from aevb_engine.experiment.environment import environment

    return environment()


def _sources() -> str:
    """SHA-256 of the engine and plugins, which says what was measured where git cannot."""
    digest = hashlib.sha256()
    for folder in ("aevb_engine", "plugins/aevb_plugins"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".cu", ".cuh"):
                digest.update(str(path.relative_to(ROOT)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()
