"""An interrupt after some seconds, as by Ctrl-C, within a call and never behind it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any


def interrupted(work: Callable[[], object], seconds: float) -> None:
    """``work()``, ended by KeyboardInterrupt at some place; or not, where it is done before."""
    armed = False

    def interrupt(*_: Any) -> None:
        if armed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    timer = signal.getitimer(signal.ITIMER_REAL)  # pytest's, which ends a test that hangs
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)
        work()
        armed = False
    except KeyboardInterrupt:  # the only one
        armed = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)
