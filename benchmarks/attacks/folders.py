"""What the attacks on runs share: what a run folder holds, in a form that compares, and how an attack is reported."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aevb_engine.experiment.checkpoint import CheckpointStore
from aevb_engine.experiment.log import read

OF_TIME = {"run", "seconds", "steps_per_second", "saved", "config", "trainer"}  # what two equal runs differ in
SET_ASIDE = "metrics.damaged-*.h5"


def content(folder: Path) -> dict[str, str]:
    """What is in a run folder, by name: a digest, or the facts themselves where they are few; no times, no place.

    A damaged log that was kept beside the one in its place is no part of it.
    """
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock" and not p.match(SET_ASIDE)]
    found = {str(p.relative_to(folder)): "" for p in files}
    store = CheckpointStore(folder / "checkpoints")
    for step in store.steps():
        one = store.load(step)
        name = f"checkpoints/{store.path(step).name}"
        if one is None:
            found[name] = "damaged"
            continue
        digest = hashlib.sha256()
        for array in sorted(one.arrays):
            digest.update(f"{array} {one.arrays[array].dtype} {one.arrays[array].shape}".encode())
            digest.update(one.arrays[array].tobytes())
        found[name] = f"{digest.hexdigest()} {_timeless(one.meta)}"
    best = folder / "checkpoints" / "best.json"
    if best.exists():
        found["checkpoints/best.json"] = best.read_text()
    for table, (columns, rows) in read(folder / "metrics.h5").items():
        found[f"metrics {table}"] = f"{columns} {rows.shape} {hashlib.sha256(rows.tobytes()).hexdigest()}"
    record = json.loads((folder / "run.json").read_text())
    kept = ("status", "step", "total_steps", "error", "held_out", "eval_every")
    found["run.json"] = f"{[(k, record.get(k)) for k in kept]} {_timeless(record.get('result') or {})}"
    return found


def _timeless(facts: Any) -> str:
    return json.dumps({k: v for k, v in dict(facts).items() if k not in OF_TIME}, sort_keys=True)


def differences(mine: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """A line for each name that only one has, or that holds something else."""
    lines = [f"{name} is missing" for name in wanted.keys() - mine.keys()]
    lines += [f"{name} is too much" for name in mine.keys() - wanted.keys()]
    lines += [f"{name} is another" for name in wanted.keys() & mine.keys() if mine[name] != wanted[name]]
    return sorted(lines)


@dataclass
class Report:
    """What an attack came to: how often each outcome, and a line for each promise broken."""

    attack: str
    promises: dict[str, str]  # by name, in words
    outcomes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    count: int = 0
    began: float = field(default_factory=time.monotonic)

    def add(self, case: str, outcome: str, broken: Iterable[str]) -> None:
        """One case, with what it broke."""
        self.count += 1
        self.outcomes[outcome] += 1
        for line in broken:
            self.broken.append(f"{case}: {line}")
            sys.stderr.write(f"broken: {self.broken[-1]}\n")

    def finish(self, json_file: Path | None, printed: Any = print) -> int:
        """The table, the JSON object, the exit code."""
        seconds = round(time.monotonic() - self.began, 1)
        printed(f"{self.attack}: {self.count} cases in {seconds:.0f} s")
        for outcome, number in self.outcomes.most_common():
            printed(f"  {number:6}  {outcome}")
        for line in self.promises.values():
            printed(f"  promised: {line}")
        printed("  nothing broken" if not self.broken else f"  {len(self.broken)} broken")
        if json_file is not None:
            record = {
                "attack": self.attack,
                "count": self.count,
                "seconds": seconds,
                "broken": self.broken,
                "outcomes": dict(self.outcomes),
                "promises": self.promises,
            }
            json_file.write_text(json.dumps(record, indent=2) + "\n")
        return 1 if self.broken or not self.count else 0
