"""Every kernel text on the device, and the whole GPU suite: the project's tests, in child processes.

``texts``: the tests that compare each text with its array code, which CI runs through a C++ compiler, with the
launches sent to the device instead (``on_device.py``); guard bands travel along. ``suite``: ``pytest -m gpu``, where a
skip counts as a failure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from result import Record
from section import Options
from setting import HERE, ROOT

TEXTS = [f"tests/cuda_on_cpu/test_{name}.py" for name in ("declared", "handwritten", "noise", "plugins")]
NOT_ON_A_DEVICE = "not test_no_undefined_behaviour"  # what a sanitized build of the C++ compiler reports
MARKERS = ("slow", "gpu", "peers", "data", "timeout(n)")
INI = "\n".join(["[pytest]", "markers =", *(f"    {m}: as in pyproject.toml" for m in MARKERS), ""])


def run(record: Record, options: Options) -> None:
    ini = options.work / "kernels.ini"
    ini.write_text(INI, encoding="utf-8")
    few = "test_text_agrees_with_array_code and softplus" if options.small else NOT_ON_A_DEVICE
    texts = ["-p", "on_device", "-k", few, *TEXTS]
    suite = ["-m", "gpu", "tests/gpu"]
    if options.small:
        suite += ["-k", "bit_identical and elbo"]
    for name, arguments, share in (("texts", texts, 0.6), ("suite", suite, 0.95)):
        found = pytest(ini, arguments, options.work / f"{name}.jsonl", options.left() * share)
        record.note(**{name: found})
        good = found["exit"] == 0 and found["passed"] > 0 and not found["failed"] and not found["skipped"]
        value = {k: found[k] for k in ("passed", "failed", "skipped", "exit")}
        record.check(f"{name}: all tests pass, none is skipped", good, value)


def pytest(ini: Path, arguments: list[str], outcomes: Path, seconds: float) -> dict[str, Any]:
    """Run it; the number of each outcome and the names of what did not pass, also where it ran out of time."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join([environment.get("PYTHONPATH", ""), str(HERE)])
    environment |= {"AEVB_REQUIRE_GPU": "1", "AEVB_OUTCOMES": str(outcomes)}
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-c", str(ini)]
    command += ["--rootdir", str(ROOT), "--import-mode=importlib", "-p", "no:cacheprovider", "-p", "outcomes"]
    try:
        done = subprocess.run(
            [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=max(1.0, seconds)
        )
        code: int | str = done.returncode
        words = done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        code, words = "out of time", ""
    return {"exit": code, **count(outcomes), "last_words": words.splitlines()[-12:] if code != 0 else []}


def count(outcomes: Path) -> dict[str, Any]:
    """From the lines that ``outcomes.py`` wrote."""
    found = [json.loads(line) for line in outcomes.read_text().splitlines()] if outcomes.exists() else []
    number = Counter(f["outcome"] for f in found)
    bad = {f["test"]: f["why"] for f in found if f["outcome"] != "passed"}
    return {
        "passed": number["passed"],
        "failed": number["failed"],
        "skipped": number["skipped"],
        "not_passed": dict(list(bad.items())[:100]),
        "seconds": round(sum(f["seconds"] for f in found), 1),
    }
