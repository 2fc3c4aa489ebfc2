"""The engine and its peers on the workloads W1 to W5, in turns.

    python benchmarks/peers/run.py [--cores 1,2] [--workloads W1,W2] [--only ours,torch,jax] [--rounds 5] [--output F]
    python benchmarks/peers/run.py --table FILE [--into benchmarks/README.md]

Each engine has its own process, pinned to the same cores, with as many threads; in each round every process trains one
block of steps while the others wait. Ratios are medians over rounds. W2 also estimates log-likelihoods, and on two
cores trains beside a busy process. Engines: ours (NumPy alone), jit (with numba), torch (eager), compile, jax. Unless
asked for by --only, compile runs on one core alone: a step gains little, and each process compiles for ten seconds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
import numpy as np
import rounds
import table

from aevb_engine import bench

PACKAGES = {"ours": "numpy", "jit": "numba", "torch": "torch", "compile": "torch", "jax": "jax"}
RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> None:
    options = arguments()
    if options.table:
        text = table.markdown(json.loads(options.table.read_text(encoding="utf-8")))
        if options.into:
            table.put(options.into, text)
        else:
            sys.stdout.write(text)
        return
    asked = options.only or list(PACKAGES)
    engines = [e for e in asked if machine.installed(PACKAGES[e])]
    for engine in asked:
        if engine not in engines:
            say(f"{engine} is left out: {PACKAGES[engine]} is not installed")
    result: dict[str, Any] = {"schema": 1, **machine.facts(), "rounds": options.rounds, "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "inductor")  # cold at first
        for name in options.workloads:
            data = Path(folder) / f"{name}.npy"
            np.save(data, bench.draw(bench.WORKLOADS[name]))
            for cores in options.cores:
                chosen = [e for e in engines if options.only or e != "compile" or cores == 1]
                run = rounds.measure(name, data, cores, chosen, options.rounds)
                result["runs"].append(run)
                result["load_after"] = os.getloadavg()
                write(options.output, result)
                us = {e: round(float(np.median(f["seconds"])) * 1e6) for e, f in run["engines"].items()}
                say(f"{name}, {cores} core(s), us a step: {us}")
            data.unlink()
    sys.stdout.write(table.markdown(result))


def write(path: Path, result: dict[str, Any]) -> None:
    """All that is measured so far: a run that is stopped leaves whole workloads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    today = datetime.date.today().isoformat()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", type=_names(bench.WORKLOADS), default=list(bench.WORKLOADS))
    parser.add_argument("--only", type=_names(PACKAGES), help="of ours, jit, torch, compile, jax")
    parser.add_argument("--cores", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / f"peers-{today}.json")
    parser.add_argument("--table", type=Path, help="only print the table of this result")
    parser.add_argument("--into", type=Path, help="with --table: replace the table in this page")
    return parser.parse_args()


def _names(known: Any) -> Any:
    def names(text: str) -> list[str]:
        given = text.split(",")
        if not set(given) <= set(known):
            raise argparse.ArgumentTypeError(f"{text}: known are {', '.join(known)}")
        return given

    return names


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
