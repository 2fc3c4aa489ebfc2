"""How long a test waits for what has to come: multiples of what a small process takes on this machine now.

No test fails because the machine is slow or busy: what is waited for is an event, and the ceiling is only there so that
what hangs is told with words. pytest's own ``timeout`` ends everything else.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache

AGAIN = 60.0  # seconds after which the unit is measured anew: load comes and goes
PAUSE = 0.01  # seconds between two looks


def patience(units: float = 300) -> float:
    """Seconds: so many times what a process takes that imports the engine, which is never counted as below a second."""
    return units * max(1.0, _unit(int(time.monotonic() // AGAIN)))


@cache
def _unit(_: int) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import aevb_engine, numpy, h5py"], check=True)
    return time.monotonic() - began


def until(condition: Callable[[], object], what: str, units: float = 300) -> None:
    """Return as soon as ``condition()`` holds; AssertionError that names ``what`` where it does not come."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited > units and waited > patience(units) and not condition():  # measured only where it may be over
            raise AssertionError(f"{what} did not come within {waited:.0f} s")
        time.sleep(PAUSE)
