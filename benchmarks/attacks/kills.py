"""Kills: real runs of many configurations are killed at random moments, then resumed, and compared with whole ones.

    python benchmarks/attacks/kills.py [--count N] [--seed S] [--only CASE] [--json FILE]

A case is its number under the seed: it tells the configuration, who is killed (the program, one of its worker
processes, or its whole process group), when, and whether the resume is killed too. A checkpoint that lay in the folder
before the kill must be sound after it, and the run finished by `resume` must have the arrays, the metrics, best.json
and the result of the uninterrupted one, to the bit. Needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from folders import Report, content, differences

from aevb_engine.experiment.checkpoint import CheckpointStore

LIMIT = 300.0  # seconds after which a process counts as hanging
PROMISES = {
    "no committed step lost": "every checkpoint in the folder before the kill is sound after it",
    "resume is bit-identical": "arrays, metrics, best.json and result are those of an uninterrupted run",
    "nothing stays behind": "no temporary file is left after the resume, and no worker outlives its program",
}
TARGETS = ("program", "worker", "group")
BASE = ("--dataset", "simulated-binary", "-o", "dataset.train=300", "-o", "dataset.test=60", "--hidden", "20",
        "--batch-size", "50", "--eval-every", "100", "--steps", "3000", "--backend", "cpu", "--quiet",
        "--no-figures")  # fmt: skip
REAL = ("--dataset", "simulated-normal", "-o", "dataset.train=300", "-o", "dataset.test=60")
CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "adam": ("--threads", "1"),
    "adam, two workers": ("--threads", "2"),
    "validation": ("--threads", "1", "--validation", "0.2", "--lr", "0.02"),
    "validation, two workers": ("--threads", "2", "--validation", "0.2", "--lr", "0.02"),
    "until converged": ("--threads", "1", "--validation", "0.2", "--until-converged"),
    "often evaluated": ("--threads", "1", "--validation", "0.2", "--eval-every", "7"),
    "adagrad, gaussian": (*REAL, "--threads", "2", "--optimizer", "adagrad"),
    "momentum, gaussian": (*REAL, "--threads", "1", "--optimizer", "momentum", "--lr-schedule", "exponential:0.5:1000"),
    "rmsprop": ("--threads", "2", "--optimizer", "rmsprop"),
    "sgd, no state": ("--threads", "1", "--optimizer", "sgd"),
    "importance-weighted": ("--threads", "2", "--objective", "iwae", "--samples", "5"),
    "beta, warm-up": ("--threads", "1", "--objective", "beta", "-o", "objective.warmup=500", "--validation", "0.2"),
    "autoencoder": ("--threads", "1", "--objective", "autoencoder", "--validation", "0.2"),
    "wake-sleep": ("--threads", "2", "--objective", "wake-sleep"),
    "mcem, chains": ("--threads", "1", "--objective", "mcem", "--steps", "600"),
    "linear, float64": ("--threads", "1", "--hidden", "none", "--precision", "float64"),
    "images": ("--dataset", "faces", "-o", "dataset.train=300", "-o", "dataset.test=60", "--threads", "2", "--steps",
               "1500"),
}  # fmt: skip


class Attack:
    """A folder for all, and the uninterrupted run of each configuration, made when first needed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._whole: dict[str, tuple[dict[str, str], float]] = {}

    def whole(self, name: str) -> tuple[dict[str, str], float]:
        """What the folder of the uninterrupted run holds, and the seconds it took once it had begun."""
        if name not in self._whole:
            folder = self.place / re.sub(r"\W+", "-", name)
            child = _start(self.command(name, folder))
            _await(child, folder)
            began = time.monotonic()
            code, words = _end(child)
            if code:
                raise SystemExit(f"'{name}' ends with {code}: {words}")
            self._whole[name] = _stable(content(folder)), time.monotonic() - began
        return self._whole[name]

    def command(self, name: str, folder: Path) -> tuple[str, ...]:
        return ("run", *BASE, *CONFIGURATIONS[name], "--seed", "4", "--output", str(folder))

    def case(self, number: int, seed: int) -> tuple[str, str, list[str]]:
        """Name, outcome and what was broken of the case with this number."""
        draw = random.Random(f"{seed} {number}")
        name = list(CONFIGURATIONS)[number % len(CONFIGURATIONS)]
        kills = 1 + (draw.random() < 0.4)
        wanted, seconds = self.whole(name)
        folder = self.place / "r"
        shutil.rmtree(folder, ignore_errors=True)
        broken: list[str] = []
        hit: list[str] = []
        for _ in range(kills):
            options = CONFIGURATIONS[name]
            alone = options[options.index("--threads") + 1] == "1"
            target = draw.choice(TARGETS[::2] if alone else ("worker", *TARGETS))
            moment = draw.uniform(-0.1, 1.1) * seconds  # below zero: while it starts
            args = _resumed(folder) if _begun(folder) else self.command(name, folder)
            if not _begun(folder):
                shutil.rmtree(folder, ignore_errors=True)
            hit.append(self._kill(args, folder, target, moment, broken))
        for _ in range(2):  # a worker that is killed is one end, which a resume goes on from
            if not _begun(folder):
                shutil.rmtree(folder, ignore_errors=True)
            code, words = _end(_start(_resumed(folder) if _begun(folder) else self.command(name, folder)))
            if code == 0:
                break
        label = f"{number} ({name}; {', then '.join(hit)})"
        outcome = hit[-1].partition(" at ")[0]
        if code:
            return label, outcome, [*broken, f"does not recover: {code} {words[-300:]!r}"]
        return label, outcome, broken + differences(_stable(content(folder)), wanted)

    def _kill(self, args: tuple[str, ...], folder: Path, target: str, moment: float, broken: list[str]) -> str:
        """Start, wait, kill; what was killed, and when. Notes what was lost."""
        child = _start(args)
        if moment > 0:
            _await(child, folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(abs(moment))
        soon = time.monotonic() + 1.0  # a worker may be yet to come
        store = CheckpointStore(folder / "checkpoints")
        before = max(store.steps(), default=0)
        workers = _workers(child.pid)
        while target == "worker" and not workers and child.poll() is None and time.monotonic() < soon:
            time.sleep(0.01)
            workers = _workers(child.pid)
        hit, killed = f"{target} at {moment:.2f} s", child.poll() is None
        if not killed:
            hit = f"nobody, done before {moment:.2f} s"
        elif target == "worker" and workers:
            _signal(workers[-1])
        elif target == "group":
            os.killpg(child.pid, signal.SIGKILL)
        else:
            hit = hit.replace("worker", "program, no worker")
            child.kill()
        code, words = _end(child)
        if killed and target == "worker" and workers and (code not in (0, 5) or "Traceback" in words):
            broken.append(f"a killed worker ends the program with {code}: {words[-300:]!r}")
        deadline = time.monotonic() + 30
        while workers and (alive := [w for w in workers if Path(f"/proc/{w}").exists() and not _zombie(w)]):
            if time.monotonic() > deadline:
                broken.append(f"{len(alive)} workers outlive the program by 30 s")
                break
            time.sleep(0.02)
        newest = store.newest()
        if before and (newest is None or newest.step < before or store.warnings):
            broken.append(f"step {before} was there, {newest and newest.step} is left: {store.warnings}")
        return hit


def _stable(found: dict[str, str]) -> dict[str, str]:
    """Without the checkpoints that the clock chose: the best and the last one stay."""
    steps = sorted(name for name in found if re.fullmatch(r"checkpoints/ckpt-\d+\.h5", name))
    best = re.search(r'"file": "([^"]+)"', found.get("checkpoints/best.json", ""))
    kept = {steps[-1], f"checkpoints/{best[1]}" if best else ""} if steps else set()
    return {name: text for name, text in found.items() if not name.startswith("checkpoints/ckpt-") or name in kept}


def _resumed(folder: Path) -> tuple[str, ...]:
    return ("resume", str(folder), "--quiet", "--no-figures")


def _begun(folder: Path) -> bool:
    record = folder / "run.json"
    return record.exists() and '"config"' in record.read_text()


def _start(args: tuple[str, ...]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "aevb_engine", *args]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, stdin=quiet, stdout=quiet, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def _await(child: subprocess.Popen[str], folder: Path) -> None:
    """Until the run has begun, or the program has ended."""
    while child.poll() is None and not _begun(folder):
        time.sleep(0.005)


def _end(child: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and last words; what hangs is killed and counts as 124."""
    try:
        _, words = child.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return 124, "hangs"
    return child.returncode, words


def _workers(process: int) -> list[int]:
    """Those that compute for a program now; a child that only reads a file is none."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return [each for each in found if "inspect" not in _line(each)]


def _line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace")
    except OSError:
        return "inspect"


def _zombie(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _signal(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="CASE", help="the number of a case")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = Report("kills", PROMISES)
    with tempfile.TemporaryDirectory(prefix="aevb-kills-") as name:
        attack = Attack(Path(name))
        for number in range(options.count) if options.only is None else [options.only]:
            label, outcome, broken = attack.case(number, options.seed)
            report.add(label, f"killed: {outcome}", broken)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
