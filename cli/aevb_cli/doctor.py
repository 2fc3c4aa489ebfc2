"""``aevb-engine doctor``: what this installation runs on, and what to mend."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from aevb_cli.boundary import one_line
from aevb_cli.options import CONTEXT, Command, debug_option, json_option
from aevb_cli.text import echo_json, pairs, say, size
from aevb_engine.errors import AevbError, BackendError

STEERING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # they replace what OpenBLAS finds out about the processor

# Runs in a child process: a driver or cupy that crashes or hangs takes nothing with it.
PROBE = """
import ctypes, importlib.util, json, sys
facts = {"cupy": None, "driver": None, "cuda": None, "devices": [], "cause": None}
try:
    cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    status = cuda.cuInit(0)
    version = ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(version)) == 0:
        facts["driver"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
    count = ctypes.c_int()
    if status == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0:
        for i in range(count.value):
            name = ctypes.create_string_buffer(256)
            cuda.cuDeviceGetName(name, 256, i)
            facts["devices"].append(name.value.decode("utf-8", "replace"))
except OSError:
    pass
try:
    from aevb_engine.backend.cupy import CupyBackend
    if importlib.util.find_spec("cupy") is not None:
        import cupy
        facts["cupy"] = cupy.__version__
    backend = CupyBackend()
    version = cupy.cuda.runtime.runtimeGetVersion()
    facts["cuda"] = f"{version // 1000}.{version % 1000 // 10}"
    facts["devices"] = facts["devices"] or [backend.device()]
except BaseException as error:
    facts["cause"] = str(error).removeprefix("backend gpu: ") or type(error).__name__
print("\\n" + sys.argv[1] + json.dumps(facts), flush=True)
"""


@click.command(
    cls=Command,
    context_settings=CONTEXT,
    short_help="Versions, BLAS, threads, GPU, data folder, disk.",
    epilog="\b\nExamples:\n  aevb-engine doctor\n  aevb-engine doctor --json",
)
@json_option
@debug_option
def doctor(as_json: bool) -> None:
    """Show what this installation runs on, and what is in its way."""
    record = examine()
    if as_json:
        echo_json(record)
    else:
        say(report(record))


def examine() -> dict[str, Any]:
    """All facts and warnings."""
    from warnings import catch_warnings, simplefilter

    try:
        from aevb_engine import jit
        from aevb_engine.experiment.environment import environment

        with catch_warnings():  # what they warn of is shown here
            simplefilter("ignore")
            amiss = None if jit.works() else jit.problem()
            facts = environment()
        from aevb_engine.backend.choice import wanted
        from aevb_engine.backend.cores import physical_cores
        from aevb_engine.backend.crew import possible
    except ImportError as error:
        raise BackendError(
            f"a package that the engine needs cannot be imported ({error}); install aevb-engine again"
        ) from error
    warnings = [
        f"{name}={os.environ[name]} is set: it overrides what OpenBLAS finds out about the processor and can halve the "
        "speed; unset it unless you know why it is there"
        for name in STEERING
        if name in os.environ
    ]
    if not facts["blas"]:
        warnings.append("NumPy's BLAS is unknown to threadpoolctl: threads cannot be held to one, speed may vary")
    warnings += [amiss] if amiss else []
    data = _data_folder(warnings)
    gpu = gpu_state()
    return {
        "schema": 1,
        "environment": facts,
        "threads": physical_cores(),
        "workers": "alone" if wanted() == "alone" else "processes" if possible() else "threads",
        "workers_chosen_by": "AEVB_WORKERS" if wanted() else "time",
        "gpu": gpu,
        "data_folder": data,
        "runs_folder": {"path": str(Path("runs").absolute()), **_space(Path("runs").absolute())},
        "warnings": warnings,
    }


def gpu_state() -> dict[str, Any]:
    """Driver, devices, CUDA and CuPy versions, and in ``cause`` why no GPU can be used (None: one can)."""
    facts: dict[str, Any] = {"cupy": None, "driver": None, "cuda": None, "devices": [], "cause": None}
    try:
        mark = secrets.token_hex(16)  # what else is printed there is no answer
        command = [sys.executable, "-P", "-c", PROBE, mark]
        child = subprocess.run(command, capture_output=True, timeout=60, check=False)
        answers = [line for line in child.stdout.split(b"\n") if line.startswith(mark.encode())]
        facts = json.loads(answers[0].removeprefix(mark.encode()))
    except subprocess.TimeoutExpired:
        facts["cause"] = "the driver or CuPy did not answer within a minute"
    except (OSError, ValueError, IndexError):
        facts["cause"] = "looking for a GPU crashed"
    return {**facts, "usable": facts["cause"] is None}


def _data_folder(warnings: list[str]) -> dict[str, Any]:
    from aevb_engine.data.files import search_folders

    try:
        folders = [str(f.path) for f in search_folders(None)]
    except AevbError as error:
        warnings.append(str(error))
        return {"path": None, "searched": [], "writable": False, "free_bytes": None}
    return {"path": folders[0], "searched": folders, **_space(Path(folders[0]))}


def _space(path: Path) -> dict[str, Any]:
    """Free bytes at the nearest folder that exists, and whether it can be written."""
    existing = next((p for p in (path, *path.parents) if os.path.exists(p)), Path("/"))  # noqa: PTH110 # never raises
    try:
        free: int | None = shutil.disk_usage(existing).free
    except OSError:
        free = None
    return {"exists": existing == path, "writable": os.access(existing, os.W_OK), "free_bytes": free}


def _loops(facts: dict[str, Any]) -> str:
    """Whether loops are compiled, and how to have them so."""
    from aevb_engine import install, jit

    if facts["compiled loops"]:
        return f"compiled by numba {facts['numba']}"
    if jit.problem():
        return f"not compiled by numba {facts['numba']}; see the warning"
    if facts["numba"] != "not installed":
        return f"not compiled, as AEVB_JIT=0 asks; numba {facts['numba']} is there"
    return f"not compiled; training is faster with numba (200 MB): {install.command('jit')}"


def report(record: dict[str, Any]) -> str:
    """The record as people read it."""
    facts, gpu = record["environment"], record["gpu"]
    versions = ("numpy", "h5py", "click", "rich", "matplotlib", "threadpoolctl")
    versions_gpu = f"CUDA {gpu['cuda']}, driver for CUDA {gpu['driver']}, CuPy {gpu['cupy']}"
    usable = f"usable: {', '.join(gpu['devices'])}, {versions_gpu}" if gpu["usable"] else f"not usable: {gpu['cause']}"
    ways = "one alone" if record["workers"] == "alone" else record["workers"]
    if record["workers_chosen_by"] == "time":
        ways = f"{'processes, ' if ways == 'processes' else ''}threads or one alone, whichever is quicker as it goes on"
    workers = f"up to {record['threads']} (physical cores granted), in training as {ways}"
    rows = [
        ("aevb-engine", facts["aevb-engine"]),
        ("Python", f"{facts['python']} at {sys.executable}"),
        ("system", facts["system"]),
        ("packages", ", ".join(f"{name} {facts[name]}" for name in versions)),
        ("processor", f"{facts['machine']}, {facts['cores']} logical cores"),
        ("BLAS", "; ".join(facts["blas"]) or "unknown"),
        ("threads", f"{workers}; BLAS itself is held to one"),
        ("loops", _loops(facts)),
        ("GPU", usable),
    ]
    if not gpu["usable"] and gpu["devices"]:
        rows.append(("", f"found: {', '.join(gpu['devices'])}, driver for CUDA {gpu['driver']}"))
    for name, folder in (("data folder", record["data_folder"]), ("runs folder", record["runs_folder"])):
        if folder["path"] is None:
            rows.append((name, "none"))
            continue
        free = f", {size(folder['free_bytes'])} free" if folder["free_bytes"] is not None else ""
        state = "" if folder["exists"] else ", not there yet"
        rows.append((name, one_line(folder["path"]) + state + ("" if folder["writable"] else ", NOT WRITABLE") + free))
    text = pairs(rows)
    return "\n".join([text, *(f"warning: {line}" for line in record["warnings"])])
