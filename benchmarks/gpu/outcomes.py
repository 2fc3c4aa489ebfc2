"""A pytest plugin: one JSON line a test as soon as it ends, into the file named by AEVB_OUTCOMES.

So that a run which is ended from outside has not been in vain. Also makes ``tests`` the checkout's, whatever package
of that name is installed, and keeps the i-th of n shards of the tests where AEVB_SHARD is i/n.
"""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

tests = types.ModuleType("tests")
tests.__path__ = [str(Path(__file__).resolve().parents[2] / "tests")]
sys.modules.setdefault("tests", tests)


def together(item: Any) -> str:
    """Tests for which this is equal are of one shard."""
    return str(item.nodeid)


@pytest.hookimpl(trylast=True)  # of what -k and -m have left
def pytest_collection_modifyitems(items: list[Any]) -> None:
    number, count = map(int, os.environ.get("AEVB_SHARD", "0/1").split("/"))
    kept = set(list(dict.fromkeys(map(together, items)))[number::count])
    items[:] = [item for item in items if together(item) in kept]


def pytest_runtest_logreport(report: Any) -> None:
    if report.when != "call" and report.outcome == "passed":
        return
    why = "" if report.outcome == "passed" else str(report.longrepr)[-1500:]
    line = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3), "why": why}
    with open(os.environ["AEVB_OUTCOMES"], "a", encoding="utf-8") as file:  # noqa: PTH123
        file.write(json.dumps(line) + "\n")
