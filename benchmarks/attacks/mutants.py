"""Mutants: files of runs and models with flipped bits, changed bytes, cuts and swaps, and what is then made of them.

    python benchmarks/attacks/mutants.py [--count N] [--seed S] [--quick] [--only NUMBER] [--json FILE]

Every case is drawn from the seed and its number: a run that is done, stopped or was killed, or a saved model; one file
of it (checkpoint, hash file, best.json, metrics.h5, run.json, model); one change. Then `show`, `load`, `evaluate` and
`resume`, as far as they read that file, must say so (a line, an error of one line) or give what they give without the
change, to the bit. Most mutants of metrics.h5 are read in the process itself, which takes milliseconds; ``--quick``:
all are such.

The cases are worked on by another process, which may die or hang of one: both are counted.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
LIMIT = 300.0  # seconds after which a case counts as hanging
PROMISES = {
    "no silent change": "what is read of a changed file is told (a line, an error), or is what was written, to the bit",
    "no hang": f"no case takes more than {LIMIT:.0f} s",
    "no crash": "no process but the reading child dies of a file",
    "one line": "what is told is an AevbError of one line or a note, never a traceback",
}
CONFIG: dict[str, Any] = {
    "dataset": "simulated-binary", "dataset_options": {"train": 60, "test": 40}, "hidden": (8,), "batch_size": 20,
    "steps": 60, "eval_every": 10, "lr": 0.03, "lr_schedule": "constant", "validation": 0.3, "backend": "cpu",
    "threads": 1,
}  # fmt: skip
AT = 40  # the step at which runs are stopped or killed
STATES = ("done", "stopped", "killed")
NAMES = (*("metrics",) * 6, "checkpoint", "checkpoint", "hash", "best", "record", "record", "model")
READ = "read in the process"  # an outcome of which the process may die: in earnest a child does this
Outcome = tuple[str, Any]  # "told" and the line, or "same" and what was found


def prepare(place: Path) -> None:
    """Two runs of each state, that differ in their seeds, and two models."""
    import numpy as np

    from aevb_engine import VAE
    from aevb_engine.errors import Stopped
    from aevb_engine.experiment import run
    from aevb_engine.experiment.config import RunConfig

    run.CHECKPOINT_SECONDS, run.CHECKPOINT_SHARE = 0.0, 0
    for name, seed in (("one", 4), ("two", 5)):
        config = RunConfig(**CONFIG, seed=seed)
        run.start(config, place / name / "done")
        event = threading.Event()

        class Halfway(run.Quiet):
            def __init__(self, name: str, event: threading.Event) -> None:
                self.name, self.stop = name, event
                self.folder = Path()

            def begin(self, folder: Any, session: Any) -> None:
                self.folder = folder.path

            def steps(self, rows: Any, total: int, seconds: float) -> None:
                if rows[-1, 0] > AT and not self.stop.is_set():
                    shutil.copytree(self.folder, place / self.name / "killed")  # as a kill at this moment leaves it
                    self.stop.set()

        with contextlib.suppress(Stopped):
            run.start(config, place / name / "stopped", display=Halfway(name, event), stop=event)
        vae = VAE(hidden=8, latent_dim=2, seed=seed)
        vae.fit((np.random.default_rng(seed).random((60, 12)) < 0.4).astype(np.float32), steps=30, progress=False)
        vae.save(place / name / "model.h5")


def change(draw: random.Random, path: Path, place: Path, name: str) -> str:
    """Change a file in a way that is drawn; what was done, in words. ``place`` / "two" has the other's files."""
    data = bytearray(path.read_bytes())
    end = len(data) if draw.random() < 0.6 else min(len(data), 4096)
    kinds = ["flip", "flips", "bytes", "zeros", "ones", "noise", "cut", "exchange", "insert", "remove", "grow", "other"]
    if path.suffix != ".h5":
        kinds += ["digit"] * 6
    kind = draw.choice(kinds)
    at = draw.randrange(max(end, 1))
    length = min(draw.choice((1, 2, 8, 64, 512, 4096)), len(data) - at)
    if kind == "flip":
        data[at] ^= 1 << draw.randrange(8)
    elif kind == "flips":
        for _ in range(draw.choice((2, 3, 20))):
            data[draw.randrange(end)] ^= 1 << draw.randrange(8)
    elif kind == "bytes":
        for _ in range(draw.choice((1, 1, 4))):
            data[draw.randrange(end)] = draw.randrange(256)
    elif kind in ("zeros", "ones", "noise"):
        data[at : at + length] = {"zeros": bytes(length), "ones": b"\xff" * length}.get(kind, draw.randbytes(length))
    elif kind == "cut":
        del data[draw.randrange(len(data)) :]
    elif kind == "exchange":
        other = draw.randrange(end)
        data[at : at + 8], data[other : other + 8] = data[other : other + 8], data[at : at + 8]
    elif kind == "insert":
        data[at:at] = draw.randbytes(length)
    elif kind == "remove":
        del data[at : at + length]
    elif kind == "grow":
        data += draw.choice((bytes(length), draw.randbytes(length)))
    elif kind == "digit":
        places = [m.start() for m in re.finditer(rb"[0-9]", data)]
        data[draw.choice(places)] = draw.choice(b"0123456789")
    else:
        return _swapped(draw, path, place, name)
    path.write_bytes(data)
    return kind


def _swapped(draw: random.Random, path: Path, place: Path, name: str) -> str:
    """Another file in its place: that of the other run (with its hash file), or one beside it."""
    if name == "model":
        shutil.copy(place / "one" / "done" / "metrics.h5", path)
        return "a log in its place"
    theirs = place / "two" / path.relative_to(place / "mine")
    if theirs.exists() and draw.random() < 0.6:
        shutil.copy(theirs, path)
        beside = Path(f"{theirs}.sha256")
        if beside.exists() and draw.random() < 0.7:
            shutil.copy(beside, f"{path}.sha256")
            return "another run's with its hash file"
        return "another run's"
    beside = draw.choice([p for p in sorted(path.parent.rglob("*")) if p.is_file() and p != path])
    shutil.copy(beside, path)
    if Path(f"{beside}.sha256").exists() and draw.random() < 0.7:
        shutil.copy(f"{beside}.sha256", f"{path}.sha256")
    return "one beside it"


class Attacked:
    """The cases of one place, and what is found without a change."""

    def __init__(self, place: Path, seed: int, *, quick: bool = False) -> None:
        from aevb_engine.experiment import run

        run.CHECKPOINT_SECONDS = 1e9  # which checkpoints a resume makes must not depend on the machine's speed
        self.place, self.seed, self.quick = place, seed, quick
        self.mine = place / "mine"
        self.plain: dict[tuple[str, str], Any] = {}

    def case(self, number: int, tell: Callable[[str], None]) -> dict[str, str]:
        """One case; ``tell`` is called with what comes next. The outcome by name, and "broken" where a promise is."""
        draw = random.Random(f"{self.seed}/{number}")
        name = "metrics" if self.quick else draw.choice(NAMES)
        state = "model" if name == "model" else draw.choice(STATES)
        quick = self.quick or (name == "metrics" and draw.random() < 0.9)
        uses = [READ] if quick else USES[name]
        plain = {use: self.found(use, state) for use in uses}  # before the change
        self.fresh(state)
        path = self.target(draw, name, state)
        before = path.read_bytes(), self.hash_of(path)
        kind = change(draw, path, self.place, name)
        what = f"{name} of a run that is {state}, {kind}" if name != "model" else f"model, {kind}"
        if (path.read_bytes(), self.hash_of(path)) == before:
            return {"outcome": "no change", "what": what}
        outcomes = []
        for use in uses:
            tell(f"{use}: {what}")
            told, found = self.attempt(use, state)
            if told == "same" and found != plain[use]:
                return {
                    "outcome": "silent",
                    "what": what,
                    "broken": f"{what}: {use} gives something else: {_brief(found)}",
                }
            if told == "broken":
                return {"outcome": "broken", "what": what, "broken": f"{what}: {use}: {found}"}
            outcomes.append(told)
        return {"outcome": f"{name}: {'told' if 'told' in outcomes else 'the same'}", "what": what}

    @staticmethod
    def hash_of(path: Path) -> bytes:
        beside = Path(f"{path}.sha256")
        return beside.read_bytes() if beside.exists() else b""

    def fresh(self, state: str) -> None:
        shutil.rmtree(self.mine, ignore_errors=True)
        self.mine.mkdir()
        if state == "model":
            shutil.copy(self.place / "one" / "model.h5", self.mine / "model.h5")
        else:
            shutil.copytree(self.place / "one" / state, self.mine / state)

    def target(self, draw: random.Random, name: str, state: str) -> Path:
        folder = self.mine / state
        if name == "checkpoint":
            return draw.choice(sorted((folder / "checkpoints").glob("ckpt-*.h5")))
        if name == "hash":
            return draw.choice(sorted((folder / "checkpoints").glob("ckpt-*.sha256")))
        inside = {"best": "checkpoints/best.json", "metrics": "metrics.h5", "record": "run.json"}
        return self.mine / "model.h5" if name == "model" else folder / inside[name]

    def found(self, use: str, state: str) -> Any:
        if (use, state) not in self.plain:
            self.fresh(state)
            told, found = self.attempt(use, state)
            assert told == "same", (use, state, found)
            self.plain[use, state] = found
        return self.plain[use, state]

    def attempt(self, use: str, state: str) -> Outcome:
        """What comes of a use, in a folder of its own where it writes."""
        from aevb_engine.errors import AevbError

        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                lines, found = WAYS[use](self.mine / ("model.h5" if state == "model" else state))
        except AevbError as error:
            one = len(str(error).splitlines()) == 1 and error.exit_code in (2, 3, 4, 5, 74)
            return ("told", str(error)) if one else ("broken", f"not one line, or {error.exit_code}: {error!r}")
        except Exception:
            return "broken", traceback.format_exc().strip().replace("\n", " | ")[-600:]
        lines = [*lines, *(str(w.message) for w in caught)]
        return ("told", lines[0]) if lines else ("same", found)


def read(folder: Path) -> tuple[list[str], Any]:
    from aevb_engine.experiment.folder import RunFolder
    from aevb_engine.experiment.log import find_here

    found = find_here(folder / "metrics.h5", patience=0.0, run=RunFolder(folder).read_record()["id"])
    record = RunFolder(folder).read_record()
    for name, count in record.get("rows", {}).items():
        if len(found.tables.get(name, ((), ()))[1]) < count:
            return ["rows are lost"], None
    return [found.damage] if found.damage else [], {n: (c, _digest(r)) for n, (c, r) in found.tables.items()}


def show(folder: Path) -> tuple[list[str], Any]:
    from aevb_cli.show import csv, gather
    from aevb_engine.experiment.folder import RunFolder

    opened = RunFolder.open(folder, changed=True)
    found = gather(opened)
    run_says = (found["result"] or {}).get("warnings") or []
    lines = [line for line in found.pop("warnings") if line not in run_says]
    del found["checkpoints"]  # steps and sizes of files, whatever is in them
    return lines, json.dumps(
        [found, [] if lines else [csv(opened, name) for name in ("train", "eval")]], sort_keys=True
    )


def load(path: Path) -> tuple[list[str], Any]:
    import aevb_engine

    vae = aevb_engine.load(path)
    step, state = vae._stored
    return [], (_digest(vae.model.parameters.theta), step, {n: _digest(a) for n, a in state.items()}, str(vae.config))


def evaluate(folder: Path) -> tuple[list[str], Any]:
    from aevb_engine.experiment.evaluate import open_run

    opened = open_run(folder)
    return opened.warnings, (_digest(opened.session.model.parameters.theta), opened.which, opened.step)


def resume(folder: Path) -> tuple[list[str], Any]:
    """The end of a run: its log, its result, and the parameters that stand for it; the log is sound whatever it was."""
    from folders import OF_TIME

    from aevb_engine.experiment import run
    from aevb_engine.experiment.chosen import chosen
    from aevb_engine.experiment.log import is_open, read_safely

    lines: list[str] = []

    class Notes(run.Quiet):
        def note(self, line: str) -> None:
            lines.append(line)

    opened, session, result = run.resume(folder, display=Notes())
    session.backend.close()
    record, stands = opened.read_record(), chosen(opened.checkpoints)
    tables = read_safely(opened.metrics_path, 60.0, run=record["id"], rows=record["rows"])
    assert not is_open(opened.metrics_path), "the log is marked as open"
    return [*(line for line in lines if line not in result["warnings"]), *stands.warnings], {
        "result": {k: v for k, v in result.items() if k not in OF_TIME},
        "record": [record[k] for k in ("status", "step", "total_steps", "config", "data", "rows")],
        "stands": (stands.which, stands.checkpoint.step, stands.checkpoint.best),
        "arrays": {name: _digest(array) for name, array in stands.checkpoint.arrays.items()},
        "log": {name: (columns, _digest(rows)) for name, (columns, rows) in tables.items()},
    }


def _digest(array: Any) -> str:
    return f"{array.shape} {array.dtype} {hashlib.sha256(array.tobytes()).hexdigest()}"


def _brief(found: Any) -> str:
    return str(found)[:200]


WAYS: dict[str, Callable[[Path], tuple[list[str], Any]]] = {
    READ: read, "show": show, "load": load, "evaluate": evaluate, "resume": resume,
}  # fmt: skip
ALL = ["show", "load", "evaluate", "resume"]
USES = {
    "metrics": ["show", "resume"], "checkpoint": ALL, "hash": ALL, "best": ALL,
    "record": ["show", "evaluate", "resume"], "model": ["load"],
}  # fmt: skip


def work(place: Path, seed: int, first: int, last: int, quick: int) -> None:
    """The process that does the cases: a line before each use and a JSON object after each case."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(line: str) -> None:
        print(line, file=answers, flush=True)

    attacked = Attacked(place, seed, quick=bool(quick))
    for number in range(first, last):
        tell(f"case {number}")
        tell(json.dumps({"number": number, **attacked.case(number, tell)}))


def run_all(place: Path, seed: int, first: int, last: int, report: Any, *, quick: bool = False) -> None:
    """All cases, in processes that are started anew where one dies or hangs."""
    while first < last:
        command = [sys.executable, __file__, "--work", str(place), str(seed), str(first), str(last), str(int(quick))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            first = _listen(child, first, report)


def _listen(child: subprocess.Popen[bytes], first: int, report: Any) -> int:
    """Takes the answers of a process until it ends; the number of the next case."""
    assert child.stdout is not None
    assert child.stderr is not None
    said, rest, errors, hung = "", b"", b"", False
    pipes = [child.stdout, child.stderr]
    while pipes:
        ready, _, _ = select.select(pipes, [], [], LIMIT)
        if not ready:
            hung = True
            child.kill()
            break
        for pipe in ready:
            data = os.read(pipe.fileno(), 65536)
            if not data:
                pipes.remove(pipe)
            elif pipe is child.stderr:
                errors = (errors + data)[-2000:]
            else:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if not line.startswith(b"{"):
                        said = line.decode()
                        continue
                    found = json.loads(line)
                    broken = [found["broken"]] if "broken" in found else []
                    report.add(f"case {found['number']}", found["outcome"], broken)
                    first = found["number"] + 1
    code = child.wait()
    if hung:
        report.add(f"case {first}", "hang", [f"{said}: no end within {LIMIT:.0f} s"])
        return first + 1
    if code == 0:
        return first
    if said.startswith(READ) and code < 0:
        report.add(f"case {first}", "metrics: the reader died (in earnest a child)", [])
    else:
        words = errors.decode(errors="replace").strip().splitlines()[-3:]
        report.add(f"case {first}", "died", [f"{said}: the process ended with {code}: {' | '.join(words)}"])
    return first + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", type=int, metavar="NUMBER")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        place, *numbers = options.work
        work(Path(place), *map(int, numbers))
        return 0
    from folders import Report

    report = Report("mutants", PROMISES)
    with tempfile.TemporaryDirectory(prefix="aevb-mutants-") as place:
        prepare(Path(place))
        first, last = (0, options.count) if options.only is None else (options.only, options.only + 1)
        run_all(Path(place), options.seed, first, last, report, quick=options.quick)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
