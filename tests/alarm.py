"""An interrupt after some seconds, as by Ctrl-C, within a block and never behind it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """KeyboardInterrupt at some place in the block, which it ends; or none, where the block is done before."""
    armed = False

    def interrupt(*_: Any) -> None:
        if armed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
        armed = False
    except KeyboardInterrupt:  # the only one
        armed = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
