"""Ctrl-C while a fit is under way: the first one waits for the end of the block of steps, the second one does not."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from aevb_engine import jit


class Interrupt:
    """In the main thread holds SIGINT back until ``deliver``, then hands it to the handler that was there before.

    That one raises KeyboardInterrupt where nobody has changed it. A second signal goes to it at once, and so does the
    first while loops are being compiled: no step is under way then. Worker processes ignore the terminal's signals.
    """

    def __init__(self) -> None:
        self._before: Any = None
        self._waiting = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            before = signal.getsignal(signal.SIGINT)
            if callable(before):  # neither ignored nor the system's
                self._before = before
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            if kind is None:
                self.deliver()

    def deliver(self) -> None:
        """Between two blocks: what has been held back."""
        if self._waiting:
            self._waiting = False
            self._before(signal.SIGINT, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._waiting or jit.compiling() is not None:
            self._waiting = False
            self._before(number, frame)
        else:
            self._waiting = True
