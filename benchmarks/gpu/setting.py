"""Where things are, what is missing here, and the environment in which the sections run.

The proof is of the checkout that this file belongs to, whether or not the project is installed. Two things that an
installation brings are made up for in a temporary folder, and said: the entry points by which plugins are found, and
threadpoolctl, without which the CPU backend cannot be imported.
"""

from __future__ import annotations

import importlib.util
import os
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PATHS = (ROOT, ROOT / "cli", ROOT / "plugins")
NEEDED = ("numpy", "cupy", "h5py", "click", "rich")
USEFUL = {  # what each missing package costs
    "pytest": "no kernel and no test is run on the device",
    "pytest_benchmark": "nothing here needs it",
    "torch": "no PyTorch figures",
    "jax": "no JAX figures",
    "matplotlib": "no figure of a run is drawn",
    "threadpoolctl": "a stand-in is used; BLAS is held to one thread by OPENBLAS_NUM_THREADS, OMP_NUM_THREADS",
}

THREADPOOLCTL = '''\
"""A stand-in for threadpoolctl: knows no library and limits nothing."""

import contextlib


def threadpool_info():
    return []


class ThreadpoolController:
    def limit(self, **limits):
        return contextlib.nullcontext()


def threadpool_limits(*limits, **named):
    return contextlib.nullcontext()
'''


def absent(names: object) -> list[str]:
    """Those of the packages that cannot be found."""
    return [n for n in names if importlib.util.find_spec(n) is None]  # type: ignore[attr-defined]


def describe_missing() -> list[str]:
    """A line for each package that is not there."""
    lines = [f"{n} is missing: many sections will fail" for n in absent(NEEDED)]
    return lines + [f"{n} is missing: {USEFUL[n]}" for n in absent(USEFUL)]


def prepare(work: Path) -> list[str]:
    """Write the stand-ins that are needed into ``work``; a line for each."""
    notes = []
    if not entry_points(group="aevb_engine.decoders"):
        _entry_points(work)
        notes.append("the project is not installed: its entry points are read from pyproject.toml")
    if absent(["threadpoolctl"]):
        (work / "threadpoolctl.py").write_text(THREADPOOLCTL, encoding="utf-8")
    return notes


def _entry_points(work: Path) -> None:
    """What an installer would have written, as far as the registry reads it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = work / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    folder.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(head, encoding="utf-8")
    lines: list[str] = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), ""]
    (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def environment(work: Path) -> dict[str, str]:
    """For the children: the checkout first, caches in ``work``, no memory taken before it is asked for."""
    found = dict(os.environ)
    old = [p for p in found.get("PYTHONPATH", "").split(os.pathsep) if p]
    found["PYTHONPATH"] = os.pathsep.join([*map(str, PATHS), str(work), *old])
    found.setdefault("CUPY_CACHE_DIR", str(work / "cupy"))
    found.setdefault("MPLCONFIGDIR", str(work / "matplotlib"))
    found["TORCHINDUCTOR_CACHE_DIR"] = str(work / "inductor")
    found["TRITON_CACHE_DIR"] = str(work / "triton")
    found["PYTHONDONTWRITEBYTECODE"] = "1"
    found["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    found.pop("TF_FORCE_UNIFIED_MEMORY", None)  # managed memory is never used here
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        found.pop(name, None)
    if absent(["threadpoolctl"]):
        found["OPENBLAS_NUM_THREADS"] = found["OMP_NUM_THREADS"] = "1"
    return found
