"""How many cores this process may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

TIMES_CORES, LEAST_WORKERS = 4, 8


def most_workers() -> int:
    """Workers beyond which more only wait for a core: some times the cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(LEAST_WORKERS, TIMES_CORES * allowed)


def crowded(threads: int | None) -> list[str]:
    """What there is to say of more threads than workers: one line, or none."""
    most = most_workers()
    if threads is None or threads <= most:
        return []
    return [
        f"--threads {threads}: {most} workers do the shares of {threads}, as there are so few cores; the result is "
        f"that of {threads} threads to the bit, but fewer would be quicker"
    ]


def physical_cores() -> int:
    """Physical cores this process may use, whole ones of what its control group is granted."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        cores = set(_core_lines(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")))
    except OSError:
        cores = set()
    return max(1, min(allowed, len(cores) or allowed, _granted(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))))


def _granted(root: Path, groups: Path) -> int:
    """Whole cores that the control groups of this process grant it; many where they set no limit."""
    try:
        lines = groups.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return sys.maxsize
    least = sys.maxsize
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        place = top / path.lstrip("/")
        for folder in (place, *place.parents):  # in a container the path may be the host's: only the top is there
            if top in (folder, *folder.parents):
                least = min(least, _limit(folder))
    return max(1, least)


def _limit(folder: Path) -> int:
    """Whole cores by the files of one control group, of either version."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / n).read_text(encoding="ascii") for n in names).split()
            return int(quota) // int(period) if int(quota) > 0 else sys.maxsize
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return sys.maxsize


def _core_lines(cpuinfo: str) -> list[tuple[str, str]]:
    """(package, core) of every processor listed in /proc/cpuinfo."""
    found = []
    package = "0"
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "physical id":
            package = value.strip()
        elif name.strip() == "core id":
            found.append((package, value.strip()))
    return found
