"""Random command lines and TOML files against what the command line promises; repeatable from seed and number.

python benchmarks/attacks/command_lines.py [--count N] [--seed S] [--only NUMBER] [--json FILE]

All commands and options are found in the program itself; values are fit, of a wrong type, huge, empty, very long, or
of characters that no name should have. Children run them one after the other, each in a folder of its own, with tiny
lengths of training, no network and bounded memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import random
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

CODES = (0, 1, 2, 3, 4, 5, 74, 75)
PROMISES = {
    "code": "exit codes of the contract, never 70",
    "traceback": "no traceback",
    "line": "one line for an error, nothing of it on stdout",
    "printable": "no control characters in what is said",
    "end": "an end within PATIENCE times a small run",
    "whole": "no half-written folder, no temporary file",
}
PATIENCE = 100  # times the small run
MEMORY = 6 << 30  # bytes of address space of a child
SMALL = ["--dataset", "simulated-binary", "-o", "dataset.train=60", "-o", "dataset.test=20", "--hidden", "5"]
HOSTILE: list[Any] = [
    "", " ", "x", "-1", "0", "nan", "inf", "-inf", "1e999", "1_000", "0x10", "9" * 30, "-" + "9" * 400, "1,2", ",", "=",
    "\N{ARABIC-INDIC DIGIT THREE}", "true", "none", "latest", ".", "..", "/", "/dev/null", "/proc/self/mem",
    "x" * 300, "x/" * 1500, "y" * 70_000, "\x00", "a\nb", "\x1b[31m", "\u202e", "\udcff", "\U0001f600", "--help", "-h",
    "*", "$HOME", "%s", "{}", "'", '"', "[/]", "$\\frac$", "a.b=c", "decoder.mean=sigmoid",
]  # fmt: skip
FIT = {
    "dataset": ["glyphs", "faces", "mnist", "freyfaces", "simulated-normal"], "decoder": ["gaussian", "bernoulli"],
    "hidden": ["3", "4,4", "none"], "activation": ["relu"], "latent_dim": ["1", "3"], "objective": ["iwae", "mcem"],
    "samples": ["2", "is=3"], "optimizer": ["sgd", "adagrad"], "lr": ["0.01", "1e30"], "lr_schedule": ["linear:0.5"],
    "weight_decay": ["1"], "batch_size": ["1", "7", "1000"], "epochs": ["0.1"], "steps": ["1", "2"], "seed": ["3"],
    "eval_every": ["1"], "threads": ["1", "2", "1000"], "replicas": ["2"], "vary": ["lr=0.1,0.2", "seed=1,2", "x="],
    "config": ["c.toml"], "option": ["optimizer.beta1=0.5", "dataset.noise=1"], "output": ["out", "base", "c.toml"],
    "validation": ["0.5", "0.001"], "data_dir": [".", "nowhere"], "minibatch": ["2", "2,3"], "latent_samples": ["1"],
    "replicates": ["4"], "objectives": ["elbo", "elbo,mcem"], "train_rows": ["20"], "seen": ["10", "10,20"],
    "rows": ["2", "3"], "temperatures": ["2"], "chains": ["2"], "methods": ["is", "ais", "none"], "workloads": ["W1"],
    "name": ["base", "latest", "mnist", "gaussian"], "kind": ["decoder", "dataset"], "cadence": ["eval"],
}  # fmt: skip
PATHS = [
    "", "\x00", "~nobody/x", "x" * 300, "x" * 5000, "x/" * 1500, "x/" * 2030, "/dev/null", "/proc/x", "c.toml/x",
    "base/x", "\x1b[31m", "a\nb", "\udcff", "-x", "~", "/",
]  # fmt: skip
# Given at the end where the line has not given them: what would take long, but for what it is about.
LENGTHS = {
    "run": [*SMALL, "--steps", "2", "--threads", "1"],
    "study variance": [*SMALL, "--replicates", "4", "--minibatch", "2", "--latent-samples", "1"],
    "study learners": [
        *SMALL,
        "--batch-size",
        "5",
        "--seen",
        "10",
        "--rows",
        "2",
        "--temperatures",
        "2",
        "--chains",
        "2",
    ],
    "evaluate": ["--samples", "3", "--temperatures", "2", "--rows", "2", "--method", "is"],
    "bench": ["--workloads", "W3"],
}
WORK = ("steps", "epochs", "seen", "replicas", "replicates", "temperatures", "chains", "rows", "samples", "minibatch")


def commands(group: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every command of the program by its words."""
    found = {}
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            found |= commands(command, (*path, name))
        else:
            found[" ".join((*path, name))] = command
    return found


def value(rng: random.Random, name: str) -> str:
    """For an option or argument of that name; of what asks for work only little or nothing fit."""
    if name in ("output", "data_dir", "config", "name") and rng.random() < 0.6:
        return rng.choice(PATHS)
    if name in FIT and rng.random() < 0.5:
        return rng.choice(FIT[name])
    hostile: str = rng.choice(HOSTILE)
    if name in WORK and hostile.strip().replace("_", "").isdigit() and hostile != "0":
        return "-5"  # a length that is possible would be done
    return hostile


def line(rng: random.Random, known: dict[str, Any]) -> list[str]:
    """A command line."""
    name = rng.choice([*known, "run", "run", "run"])
    command = known[name]
    options = [p for p in command.params if p.param_type_name == "option" and p.name not in ("help", "debug")]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    given: list[str] = []
    paths = [o for o in options if o.name in ("output", "data_dir", "config")]
    if paths and rng.random() < 0.3:
        options = paths
    for option in rng.sample(options, min(len(options), rng.choice((1, 1, 2, 3, 5)))):
        given.append(rng.choice(option.opts))
        if not option.is_flag:
            given.append(value(rng, option.name))
    given += [value(rng, argument.name) for argument in arguments if rng.random() < 0.95]
    if rng.random() < 0.05:
        given.insert(rng.randrange(len(given) + 1), rng.choice(HOSTILE))
    extra = LENGTHS.get(name, [])
    for flag, one in zip(extra[::2], extra[1::2], strict=True):
        if flag not in given or flag == "-o":
            given[:0] = [flag, one]
    if name in ("run", "resume", "study variance", "study learners") and rng.random() < 0.9:
        given[:0] = ["--no-figures"]
    return [*name.split(), *given]


def toml(rng: random.Random, fields: list[str]) -> bytes:
    """A configuration file: keys that exist or not, values of any type, sometimes no TOML at all."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(200))
    lines = []
    for _ in range(rng.randrange(4)):
        key = rng.choice([*fields, "x", "a b", "\u202e"]).replace("_", rng.choice("-_"))
        text = json.dumps(value(rng, key.replace("-", "_")).encode("utf-8", "replace").decode())
        number = rng.choice(["1", "-1", "0", "2.5", "nan", "1e400", "0x10", "9" * 30])
        fit = "1" if key in WORK else number
        kind = rng.choice([text, fit, "true", f"[{text}]", f"[{fit}, {text}]", "{}", "{ x = 1 }", "1979-05-27", ""])
        lines.append(f"{json.dumps(key) if not key.replace('-', '').isalnum() else key} = {kind}")
    if rng.random() < 0.3:
        lines.append(f"[{rng.choice(['decoder', 'dataset', 'optimizer', 'objective'])}-options]\nmean = 3")
    return "\n".join(lines).encode()


def case(seed: int, number: int) -> tuple[list[str], bytes]:
    """The command line and the configuration file of a number."""
    from dataclasses import fields

    from aevb_cli.main import cli
    from aevb_engine.experiment.config import RunConfig

    rng = random.Random(f"{seed} {number}")
    return line(rng, commands(cli)), toml(rng, [f.name for f in fields(RunConfig)])


# In a child --------------------------------------------------------------------------------------------------------


def child(seed: int) -> None:
    """Runs the numbers that arrive on stdin; the first answer is the time of a small run."""
    from dataclasses import replace

    import aevb_engine.bench as timing
    import aevb_engine.data.download as download

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError("no network")

    download.open_https = refused
    for name, workload in timing.WORKLOADS.items():
        timing.WORKLOADS[name] = replace(workload, rows=1200)
    timing.measure.__defaults__ = (1, 0.001)
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        os.environ |= {"XDG_CACHE_HOME": f"{place}/cache", "TMPDIR": place}
        tempfile.tempdir = place
        base = ["run", *SMALL, "--steps", "2", "--no-figures", "--quiet", "--threads", "1", "--output"]
        run([*base, f"{place}/warm"], Path(place), None, b"")
        began = time.monotonic()
        run([*base, f"{place}/base"], Path(place), None, b"")
        print(json.dumps(time.monotonic() - began), file=answers, flush=True)
        for text in sys.stdin:
            number = int(text)
            args, file = case(seed, number)
            found = run(args, Path(place, "case"), Path(place, "base"), file)
            print(json.dumps({"number": number, "args": args, **found}), file=answers, flush=True)


def run(args: list[str], folder: Path, base: Path | None, file: bytes) -> dict[str, Any]:
    """One command in a folder that holds a run and a configuration file; its code, and the promises that it broke."""
    from click.testing import CliRunner

    from aevb_cli.main import cli

    if base is not None:
        subprocess.run(["rm", "-rf", str(folder)], check=False)  # however deep it is
        shutil.copytree(base, folder / "base")
        (folder / "c.toml").write_bytes(file)
    os.chdir(folder)
    before = listing(folder)
    result = CliRunner().invoke(cli, args, prog_name="aevb-engine")
    said = result.stdout + result.stderr
    errors = [text for text in result.stderr.splitlines() if text.startswith("error: ")]
    broken = []
    if result.exit_code not in CODES:
        broken.append("code")
    if "Traceback" in said or not (result.exception is None or isinstance(result.exception, SystemExit)):
        broken.append("traceback")
    if len(errors) != (result.exit_code not in (0, 75)) and not (result.exit_code == 2 and "Usage:" in result.stderr):
        broken.append("line")
    if any(not c.isprintable() and c != "\n" for c in said):
        broken.append("printable")
    if base is not None and half(folder, before, result.exit_code):
        broken.append("whole")
    return {"code": result.exit_code, "broken": broken, "last": (result.stderr.splitlines() or [""])[-1][:300]}


def listing(folder: Path) -> set[str]:
    """Every path below a folder, however deep."""
    found, waiting = set(), [str(folder)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                found.add(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return found


def half(folder: Path, before: set[str], code: int) -> bool:
    """Whether something is left that should not be: by a refused command anything, by others what is no whole run."""
    from aevb_engine.errors import AevbError
    from aevb_engine.experiment.folder import RunFolder

    new = listing(folder) - before
    if code in (2, 3, 5) and any("base" not in Path(path).relative_to(folder).parts[:1] for path in new):
        return True
    if any(Path(path).name.startswith(".aevb-") or path.endswith(".part") for path in new):
        return True
    for path in new:
        if Path(path).name == "checkpoints":
            try:
                RunFolder.open(Path(path).parent)
            except AevbError:
                return True
    return False


# In the parent -----------------------------------------------------------------------------------------------------


class Worker:
    """A child with its time limit."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._start()

    def _start(self) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--child", "--seed", str(self.seed)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.limit = PATIENCE * max(json.loads(self._answer(600)), 0.2)

    def _answer(self, seconds: float) -> bytes:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return b""
        return self.process.stdout.readline()

    def ask(self, number: int) -> dict[str, Any]:
        """What a case came to."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n".encode())
        self.process.stdin.flush()
        answer = self._answer(self.limit)
        if answer:
            found: dict[str, Any] = json.loads(answer)
            return found
        code = "no end" if self.process.poll() is None else "died"
        self.close()
        self._start()
        return {"number": number, "args": case(self.seed, number)[0], "code": code, "broken": ["end"], "last": ""}

    def close(self) -> None:
        """End the child, whatever it is at."""
        self.process.kill()
        self.process.wait()


def attack(count: int, seed: int, workers: int = 2, only: int | None = None) -> dict[str, Any]:
    """The record of so many cases."""
    began = time.monotonic()
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(count) if only is None else [only]:
        numbers.put(number)
    found: list[dict[str, Any]] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            worker = Worker(seed)
            try:
                while True:
                    found.append(worker.ask(numbers.get_nowait()))
            except queue.Empty:
                pass
            finally:
                worker.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(min(workers, count))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    bad = sorted((case for case in found if case["broken"]), key=lambda case: case["number"])
    lost = Counter(name for case in bad for name in case["broken"])
    return {
        "attack": "command_lines",
        "count": len(found),
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "broken": [
            f"{c['number']}: {', '.join(c['broken'])}; code {c['code']}: {ascii(c['args'])[:300]}: {c['last']}"
            for c in bad
        ],
        "outcomes": {str(code): n for code, n in sorted(Counter(str(c["code"]) for c in found).items())},
        "promises": {text: f"{len(found) - lost[name]} of {len(found)}" for name, text in PROMISES.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this number alone")
    parser.add_argument("--json", type=Path, help="file for the record")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.seed)
        return 0
    record = attack(given.count, given.seed, only=given.only)
    for text, kept in record["promises"].items():
        print(f"{kept:>14}  {text}")  # noqa: T201
    print(f"{record['count']} command lines in {record['seconds']} s; exit codes {record['outcomes']}")  # noqa: T201
    for text in record["broken"]:
        print(f"broken: {text}")  # noqa: T201
    if given.json:
        given.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 1 if record["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
