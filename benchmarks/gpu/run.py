"""The GPU path proved and measured on a device, in one command that fits in ten minutes::

    python benchmarks/gpu/run.py [--data-dir DIR] [--output FILE] [--seconds 540]

Nothing has to be installed but CuPy, NumPy, h5py, click and rich; pytest, PyTorch and JAX are used where they are.
Every section runs in a process of its own and the one JSON file is complete after each of them. The settings of the
device are read, never changed. Exit codes: 0; 1 a promised check failed; 5 no GPU can be used (nothing is written).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from result import say, write_json
from setting import HERE, ROOT, describe_missing, environment, prepare

FORMAT = 1
SECTIONS = {  # name: seconds at most; the most important first
    "machine": 30,
    "noise_bits": 40,
    "kernels": 120,
    "parity": 110,
    "trainers": 170,
    "quiet": 40,
    "peers": 170,
    "stages": 90,
    "products": 60,
    "questions": 40,
    "more_peers": 150,
    "speed": 90,
}
PROMISED = ("noise_bits", "kernels", "parity", "trainers", "quiet")  # one that does not end well fails the proof
SPARE = 5.0  # seconds kept for the end


def main() -> int:
    given = _arguments()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aevb-gpu-", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        notes = prepare(work)
        proof = Proof(given, work, start)
        machine = proof.section("machine")
        if machine["status"] == "no device":
            say(machine["message"])
            return 5
        for line in [*describe_missing(), *notes]:
            say(f"note: {line}")
        findings = machine.get("findings", {})
        if findings.get("simulated") and given.output is None:
            say("note: this is the double of CuPy, no device; a result is written only to --output FILE")
            return 5
        proof.begin(given.output or _default_output(findings), [*describe_missing(), *notes], machine)
        for name in given.sections or list(SECTIONS)[1:]:
            proof.put(name, proof.section(name))
        proof.finish()
        sys.stdout.write(proof.table() + "\n")
        return 0 if proof.passed else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/gpu-<date>-<device>[-<number>].json")
    parser.add_argument("--data-dir", type=Path, help="folder with mnist/; without it the glyphs data set is used")
    parser.add_argument(
        "--seconds", type=float, default=540.0, help="for everything together; small, nothing else limits a section"
    )
    parser.add_argument("--commit", help="where git cannot say it")
    parser.add_argument("--sections", type=lambda t: t.split(","), help=f"some of {','.join(list(SECTIONS)[1:])}")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script; the figures mean nothing")
    given = parser.parse_args()
    unknown = set(given.sections or []) - set(list(SECTIONS)[1:])
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}")
    return given


def _default_output(machine: dict[str, Any]) -> Path:
    """A name of its own: a second run on a day is added, and nothing measured is lost."""
    device = re.sub(r"[^a-z0-9]+", "-", str(machine.get("device", "device")).lower()).strip("-")
    name = f"gpu-{datetime.now(UTC):%Y-%m-%d}-{device}"
    folder = ROOT / "benchmarks" / "results"
    numbers = ("", *(f"-{i}" for i in range(2, 1000)))
    return next(path for i in numbers if not (path := folder / f"{name}{i}.json").exists())


def _git(*arguments: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20)
        if done.returncode == 0:
            return done.stdout.strip()
    return None


def _number(value: Any) -> str:
    """With two decimals; what is not finite is there as text."""
    return value if isinstance(value, str) else f"{value:.2f}"


class Proof:
    """The sections' processes and the file they end up in."""

    def __init__(self, given: argparse.Namespace, work: Path, start: float) -> None:
        self.given, self.work, self.start = given, work, start
        self.environment = environment(work)
        self.output: Path | None = None
        self.result: dict[str, Any] = {}

    def begin(self, output: Path, notes: list[str], machine: dict[str, Any]) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        changed = _git("status", "--porcelain", "--untracked-files=no")
        self.output = output
        self.result = {
            "format": FORMAT,
            "commit": self.given.commit or _git("rev-parse", "HEAD") or "unknown",
            "changed_since_commit": None if changed is None else bool(changed),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "small": self.given.small,
            "notes": notes,
            "passed": False,
            "asked": self.given.sections or "all",
            "ended": False,
            "sections": {},
        }
        self.put("machine", machine)

    def put(self, name: str, found: dict[str, Any]) -> None:
        self.result["sections"][name] = found
        self._write()

    def finish(self) -> None:
        self.result["ended"] = True
        self.result["seconds"] = round(time.monotonic() - self.start, 1)
        self._write()

    def _write(self) -> None:
        assert self.output is not None
        self.result["passed"] = self.passed
        write_json(self.output, self.result)

    @property
    def failures(self) -> list[str]:
        """Promised checks that failed, and promised sections that did not end."""
        out = []
        for name, section in self.result["sections"].items():
            out += [f"{name}: {check}" for check, held in section.get("checks", {}).items() if not held["passed"]]
            if name in PROMISED and section["status"] != "done":
                out.append(f"{name}: {section['status']}")
        return out

    @property
    def passed(self) -> bool:
        return not self.failures

    def section(self, name: str) -> dict[str, Any]:
        """Run one section; what it found, however it ended."""
        seconds: float = self.given.seconds if self.given.small else SECTIONS[name]
        if name != "machine":  # without which the rest means nothing
            seconds = min(seconds, self.given.seconds - SPARE - (time.monotonic() - self.start))
            if seconds < 5:
                return {"status": "no time left"}
            say(f"{name} (at most {seconds:.0f} s)")
        file = self.work / f"{name}.json"
        command = [sys.executable, str(HERE / "section.py"), name, str(file), "--work", str(self.work)]
        command += ["--seconds", str(seconds)]
        if self.given.small:
            command.append("--small")
        if self.given.data_dir is not None:
            command += ["--data-dir", str(self.given.data_dir.resolve())]
        begin = time.monotonic()
        code, words = self._child(command, seconds, quiet=name == "machine")
        found: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(file.read_text(encoding="utf-8"))
        status = {0: "done", 5: "no device", None: "out of time"}.get(code, "failed")
        found |= {"status": status, "seconds": round(time.monotonic() - begin, 1)}
        if code not in (0, None) and "error" not in found:
            found["error"] = f"exit code {code}"
        if words:
            found["message"] = words.strip().splitlines()[-1]
        if status == "out of time":
            say(f"  {name}: out of time, what was found so far is kept")
        return found

    def _child(self, command: list[str], seconds: float, quiet: bool) -> tuple[int | None, str]:
        """Exit code (None: ended for taking too long) and, if ``quiet``, what it said."""
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.DEVNULL if quiet else sys.stderr,
            stderr=subprocess.PIPE if quiet else None,
            text=True,
            start_new_session=True,  # so that what it started ends with it
        )
        try:
            words = process.communicate(timeout=seconds)[1]
            return process.returncode, words or ""
        except subprocess.TimeoutExpired:
            self._end(process)
            return None, ""
        except BaseException:
            self._end(process)
            raise

    def _end(self, process: subprocess.Popen[str]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that the driver holds would hold the proof, too
            process.wait(5)

    def table(self) -> str:
        """The short version."""
        machine = self.result["sections"]["machine"].get("findings", {})
        lines = [f"{machine.get('device', '?')}, driver {machine.get('driver', '?')}, commit {self.result['commit']}"]
        for name, section in self.result["sections"].items():
            checks = section.get("checks", {}).values()
            passed = sum(c["passed"] for c in checks)
            told = f"{passed} of {len(checks)} checks" if checks else ""
            lines.append(f"{name:12} {section['status']:12} {section.get('seconds', 0):6.1f} s  {told}".rstrip())
        lines += self._speeds()
        lines += [f"FAILED {failure}" for failure in self.failures]
        return "\n".join([*lines, f"{'passed' if self.passed else 'FAILED'}; {self.output}"])

    def _speeds(self) -> list[str]:
        """Microseconds a step."""
        speed = self.result["sections"].get("speed", {}).get("findings", {}).get("workloads", {})
        lines = [
            f"{w:4} {s['gpu']['wall_us']:8.1f} us a step, "
            f"device alone {s['device_only_us']:.1f} us, CPU {s['cpu']['wall_us']:.1f} us"
            for w, s in speed.items()
            if "gpu" in s and "cpu" in s
        ]
        ways = self.result["sections"].get("trainers", {}).get("findings", {}).get("workloads", {})
        lines += [
            f"{w:4} {f['wall_us']:8.1f} us a step: {kind}"
            for w, kinds in ways.items()
            for kind, f in kinds.items()
            if "wall_us" in f
        ]
        burda = self.result["sections"].get("trainers", {}).get("findings", {}).get("burda", {})
        lines += [
            f"Burda et al., {burda['schedule_steps']} steps: {f['projected_seconds']:.0f} s projected from "
            f"{f['measured_steps']} steps, {f['us_per_step']:.1f} us a step: {path}"
            for path, f in burda.items()
            if isinstance(f, dict)
        ]
        sections = [self.result["sections"].get(name, {}).get("findings", {}) for name in ("peers", "more_peers")]
        for found in sections:
            lines += [
                f"{w:4} {f['us_per_step']:8.1f} us a step, bound {_number(f['bound'])}: {who}"
                for who, figures in found.get("figures", {}).items()
                for w, f in figures.items()
                if isinstance(f, dict) and "us_per_step" in f
            ]
            lines += [
                f"{w:4} times the best peer ({ratios['best_peer']}): "
                + ", ".join(f"{path} {ratio}" for path, ratio in ratios.items() if path != "best_peer")
                for w, ratios in found.get("times_the_best_peer", {}).items()
            ]
        stages = self.result["sections"].get("stages", {}).get("findings", {}).get("workloads", {})
        lines += [
            f"{w}: {f['step_us']:.1f} us a persistent step, {f['over_arithmetic']} times its arithmetic; "
            f"work {f['work_us']:.1f}, barriers {f['barriers_us']:.1f}"
            for w, f in stages.items()
            if "step_us" in f
        ]
        return lines


if __name__ == "__main__":
    sys.exit(main())
