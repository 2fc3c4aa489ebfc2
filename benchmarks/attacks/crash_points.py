"""Crash points: runs whose n-th write, fsync, rename, ... fails or is the last thing they do, then a resume.

    python benchmarks/attacks/crash_points.py [--count N] [--seed S] [--only CASE ...] [--json FILE]

A case is ``SCENARIO:MODE:N``, such as ``run:kill:17`` or ``resume:once-EIO:40``: in a new run, in a resumed one
(``again``: before its first checkpoint), or in one that is made ``longer``, the N-th call that changes the folder fails
once, or it and all later ones, or the process is killed there. Afterwards every checkpoint that was acknowledged must
be sound, and a plain resume must lead to the folder of an uninterrupted run: parameters, metrics, best.json, result,
and nothing else. The calls are those of Python and of libhdf5: a preloaded library (faults.c) counts them. Needs Linux
and a C compiler.
"""

from __future__ import annotations

import argparse
import atexit
import ctypes
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
LIBRARY = "AEVB_FAULTS"  # where the preloaded library is, in the process that has it
MODES = {"count": 0, "once": 1, "on": 2, "kill": 3}
ERRORS = ("EIO", "ENOSPC", "EACCES", "EROFS")
LEAST, TIMES = 30.0, 20.0  # a process hangs after so many seconds and so many times those of the uninterrupted run
PROMISES = {
    "nothing acknowledged is lost": "every checkpoint that was saved before the fault is sound after it",
    "every point recovers": "a resume ends in the folder of an uninterrupted run, best.json and result among it",
    "nothing stays behind": "no temporary file is left after the resume",
    "no hang": f"no process takes longer than {LEAST:.0f} s and {TIMES:.0f} times an uninterrupted run",
    "one line": "a failure is an error of one line, never internal (70) and never a traceback",
}
OPTIONS = (
    "--dataset", "simulated-binary", "-o", "dataset.train=60", "-o", "dataset.test=40", "--hidden", "8",
    "--batch-size", "20", "--lr", "0.03", "--lr-schedule", "constant", "--validation", "0.3", "--eval-every", "10",
    "--seed", "4", "--backend", "cpu", "--threads", "1", "--quiet", "--no-figures",
)  # fmt: skip
STEPS, SHORT = 60, 20


@dataclass(frozen=True)
class Attempt:
    """A process that has ended: its code (negative: the signal), what it had saved, the call that failed, its words."""

    code: int
    saved: list[tuple[int, bool]]  # step, and whether it was the best
    call: str
    words: str
    hung: bool


class Bench:
    """Processes forked from one that has loaded all, with the preloaded library armed or not."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.faults = ctypes.CDLL(os.environ[LIBRARY])
        self.run_ = ("run", *OPTIONS, "--steps", str(STEPS))
        self.limit, self.slowest = 600.0, 0.0  # seconds
        import h5py  # noqa: F401 - loaded before the forks

        import aevb_engine.experiment.replicas
        import aevb_engine.experiment.run  # noqa: F401

    def attempt(self, folder: Path, args: tuple[str, ...], mode: str = "count", n: int = 0) -> Attempt:
        """The command in a process of its own, with a fault at the n-th call that changes ``folder``."""
        reader, writer = os.pipe()
        words = self.place / "words"
        process = os.fork()
        if process == 0:
            os.close(reader)
            self._become(folder, args, mode, n, writer, words)
        os.close(writer)
        began = time.monotonic()
        code, hung = _wait(process, self.limit)
        self.slowest = max(self.slowest, time.monotonic() - began)
        told = os.fdopen(reader, "r").read().splitlines()
        saved = [(int(line.split()[1]), line.split()[2] == "True") for line in told if line.startswith("saved")]
        call = next((line for line in told if line.startswith("call")), "")
        return Attempt(code, saved, call, words.read_text(errors="replace"), hung)

    def calls(self, folder: Path, args: tuple[str, ...]) -> int:
        """How many calls of the command change the folder."""
        for line in self.attempt(folder, args).words.splitlines():
            if line.startswith("calls "):
                return int(line.split()[1])
        raise SystemExit(f"{' '.join(args)} did not end well")

    def _become(self, folder: Path, args: tuple[str, ...], mode: str, n: int, pipe: int, words: Path) -> None:
        """The child: never returns."""
        code = 99
        try:
            out = os.open(words, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(out, 1)
            os.dup2(out, 2)
            from aevb_cli.main import main
            from aevb_engine.experiment import checkpoint, run

            save = checkpoint.CheckpointStore.save

            def told(self: Any, found: Any, *, best: bool = False, score: float | None = None) -> Path:
                path = save(self, found, best=best, score=score)
                os.write(pipe, f"saved {found.step} {best}\n".encode())
                return path

            checkpoint.CheckpointStore.save = told  # type: ignore[method-assign,assignment]
            run.CHECKPOINT_SECONDS = 1e9  # which checkpoints there are must not depend on the machine's speed
            sys.argv = ["aevb-engine", *args]
            kind, _, name = mode.partition("-")
            self.faults.fault_arm(
                os.fsencode(folder), ctypes.c_long(n), MODES[kind], getattr(errno, name) if name else 0, pipe
            )
            try:
                main()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1 if end.code else 0
            if mode == "count":
                print(f"calls {self.faults.fault_count()}")  # noqa: T201
            sys.stdout.flush()
            sys.stderr.flush()
            atexit._run_exitfuncs()
            ctypes.CDLL(None).exit(code)  # as a program ends: libhdf5 has things to do then
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


def _wait(process: int, limit: float) -> tuple[int, bool]:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), False
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return -9, True


@dataclass(frozen=True)
class Scenario:
    """Where the faults come: a folder to begin with, the command that meets them, and the one that mends."""

    base: Path | None
    command: Callable[[Path], tuple[str, ...]]
    recovery: Callable[[Path], tuple[str, ...]]
    wanted: dict[str, str]
    calls: int


def scenarios(bench: Bench, names: set[str]) -> dict[str, Scenario]:
    """A new run, one that is resumed in its middle, one that is made longer: each with its uninterrupted folder."""
    from folders import content

    def begin(folder: Path) -> tuple[str, ...]:
        return (*bench.run_, "--output", str(folder))

    def go_on(folder: Path) -> tuple[str, ...]:
        return ("resume", str(folder), "--quiet", "--no-figures")

    def longer(folder: Path) -> tuple[str, ...]:
        return (*go_on(folder), "--steps", str(STEPS))

    whole = bench.place / "whole"
    calls = bench.calls(whole, begin(whole))
    bench.limit, bench.slowest = LEAST + TIMES * bench.slowest, 0.0
    found = {"run": Scenario(None, begin, go_on, content(whole), calls)}
    if "again" in names:
        early = bench.place / "early"
        for n in range(15, calls):  # the first point at which there is a log
            shutil.rmtree(early, ignore_errors=True)
            bench.attempt(early, begin(early), "kill", n)
            if (early / "metrics.h5").exists():
                break
        trial = Path(shutil.copytree(early, bench.place / "begun"))
        found["again"] = Scenario(early, go_on, go_on, content(whole), bench.calls(trial, go_on(trial)))
    if "resume" in names:
        half = bench.place / "half"
        bench.attempt(half, begin(half), "kill", calls // 2)
        trial = Path(shutil.copytree(half, bench.place / "trial"))
        found["resume"] = Scenario(half, go_on, go_on, content(whole), bench.calls(trial, go_on(trial)))
    if "longer" in names:
        short = bench.place / "short"
        bench.attempt(short, ("run", *OPTIONS, "--steps", str(SHORT), "--output", str(short)))
        trial = Path(shutil.copytree(short, bench.place / "lengthened"))
        calls = bench.calls(trial, longer(trial))
        found["longer"] = Scenario(short, longer, longer, content(trial), calls)
    return found


def attack(bench: Bench, of: Scenario, folder: Path, mode: str, n: int) -> tuple[str, list[str]]:
    """One case: its outcome, and what it broke."""
    from folders import SET_ASIDE, content, differences

    from aevb_engine.experiment.checkpoint import CheckpointStore

    if of.base is not None:
        shutil.copytree(of.base, folder)
    hit = bench.attempt(folder, of.command(folder), mode, n)
    broken = [] if hit.call else ["the call never came"]
    if hit.hung:
        broken.append(f"hangs at {hit.call}")
    if mode != "kill":
        broken += _told_well(hit)
    if hit.saved and not hit.hung:
        store = CheckpointStore(folder / "checkpoints")
        newest, best = store.newest(), store.best_score()
        named = [step for step, is_best in hit.saved if is_best]
        if newest is None or newest.step < hit.saved[-1][0] or store.warnings:
            broken.append(f"step {hit.saved[-1][0]} was saved, {newest and newest.step} is there: {store.warnings}")
        if named and (best is None or best[0] < named[-1]):
            broken.append(f"step {named[-1]} was the best saved, {best} is named")
    anew = not _begun(folder)
    if anew:
        shutil.rmtree(folder, ignore_errors=True)  # as its error says: there is nothing to resume
    cure = bench.attempt(folder, of.command(folder) if anew else of.recovery(folder))
    ended = "killed" if hit.code == -signal.SIGKILL else f"exit {hit.code}"
    outcome = f"{ended}, {'begun anew' if anew else 'resumed'}"
    if cure.hung or cure.code:
        return outcome, [*broken, f"does not recover ({'hangs' if cure.hung else cure.code}): {cure.words[-300:]!r}"]
    outcome += ", a torn log set aside" if list(folder.glob(SET_ASIDE)) else ""
    broken += [f"after the resume {line}" for line in differences(content(folder), of.wanted)]
    return outcome, [f"{line} (at {hit.call})" for line in broken]


def _told_well(hit: Attempt) -> list[str]:
    lines = hit.words.strip().splitlines()
    if hit.code in (0, 4, 5, 74) and "Traceback" not in hit.words and (hit.code == 0 or lines):
        return []
    return [f"ends with {hit.code} at {hit.call}: {' | '.join(lines[-3:])[-300:]}"]


def _begun(folder: Path) -> bool:
    try:
        return "config" in json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=750)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="CASE", nargs="+", help="SCENARIO:MODE:N")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="aevb-crash-")).resolve()  # no object whose end a forked process would bring
    try:
        return _again(place) if LIBRARY not in os.environ else _all(place, options)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _all(place: Path, options: argparse.Namespace) -> int:
    os.environ.pop("LD_PRELOAD", None)  # not into processes that these start
    from folders import Report

    from aevb_cli import boundary  # noqa: F401 - the command line is loaded before the forks

    bench, report = Bench(place), Report("crash points", PROMISES)
    if options.only:
        wanted = [tuple(case.split(":")) for case in options.only]
        known = scenarios(bench, {scenario for scenario, _, _ in wanted})
    else:
        known = scenarios(bench, {"again", "resume", "longer"})
        wanted = _drawn(known, options.count, random.Random(options.seed))
    for scenario, mode, n in wanted:
        folder = place / "r"
        outcome, broken = attack(bench, known[scenario], folder, mode, int(n))
        report.add(f"{scenario}:{mode}:{n}", f"{scenario}, {mode.partition('-')[0]}: {outcome}", broken)
        shutil.rmtree(folder, ignore_errors=True)
    report.promises["no hang"] += f"; the slowest took {bench.slowest:.1f} of {bench.limit:.0f} s"
    return report.finish(options.json)


def _drawn(known: dict[str, Scenario], count: int, draw: random.Random) -> list[tuple[str, ...]]:
    """So many cases, of kills, failures that pass and failures that stay as many each, as far as there are so many."""
    cases: list[tuple[str, ...]] = []
    for i, kind in enumerate(("kill", "once", "on")):
        modes = ["kill"] if kind == "kill" else [f"{kind}-{error}" for error in ERRORS]
        every = [(name, mode, str(n)) for name, of in known.items() for mode in modes for n in range(1, of.calls + 1)]
        cases += draw.sample(every, min((count + 2 - i) // 3, len(every)))
    return cases


def _again(place: Path) -> int:
    """This program with the library before all others; exit 5 where there is no compiler or another system."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        sys.stderr.write("error: Linux and a C compiler are needed\n")
        return 5
    library = place / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "faults.c"), "-ldl"]
    subprocess.run(command, check=True)
    one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")  # threads do not survive a fork
    environment = {**os.environ, **one, "LD_PRELOAD": str(library), LIBRARY: str(library)}
    return subprocess.run([sys.executable, __file__, *sys.argv[1:]], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
