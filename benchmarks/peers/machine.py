"""What the figures were measured on, and how much each engine installs."""

from __future__ import annotations

import datetime
import importlib.util
import os
import re
import subprocess
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from aevb_engine.experiment.environment import environment, package_version, processor

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"ours": ["aevb-engine"], "jit": ["aevb-engine", "numba"], "torch": ["torch"], "jax": ["jax"]}


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def facts() -> dict[str, Any]:
    """Machine, versions, BLAS, commit and load."""
    found = environment()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "processor": processor(),
        "logical_cores": os.cpu_count(),
        "unset": ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"],
        "versions": {
            "python": found["python"],
            **{
                p: package_version(p)
                for p in ("aevb-engine", "numpy", "threadpoolctl", "numba", "torch", "jax", "jaxlib")
            },
        },
        "installed_bytes": {e: installed_bytes(p) for e, p in SIZES.items() if installed(p[-1].replace("-", "_"))},
        "load_before": os.getloadavg(),
    }


def commit() -> str:
    """The checkout's commit, with ``+`` where files differ from it."""
    try:
        told = [
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told[0] + ("+" if told[1] else "")


def installed_bytes(packages: list[str]) -> int:
    """Bytes on disk of the packages and all that they need (extras left out)."""
    seen: dict[str, int] = {}
    waiting = list(packages)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        seen[name] = _files(found)
        needed = [r for r in found.requires or [] if "extra ==" not in r]
        waiting += [re.split(r"[ ;<>=!~\[(]", r, maxsplit=1)[0] for r in needed]
    return sum(seen.values())


def _files(found: Distribution) -> int:
    paths = [Path(str(found.locate_file(f))) for f in found.files or []]
    if found.metadata["Name"] == "aevb-engine" and not any(p.suffix == ".py" for p in paths):  # installed editable
        paths = [p for part in ("aevb_engine", "cli", "plugins/aevb_plugins") for p in (ROOT / part).rglob("*.*")]
    return sum(p.stat().st_size for p in paths if p.is_file())
