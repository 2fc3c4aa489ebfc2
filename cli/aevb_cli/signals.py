"""Stop on request: the first SIGINT or SIGTERM ends a run after the steps under way, any other command where it stands;
the second leaves at once."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from aevb_cli.boundary import Interrupted, Signalled
from aevb_cli.text import columns, wrap

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = 3.0  # seconds until the exception of a signal is raised once more: what calls back from C drops exceptions


class Interrupt:
    """Holds the handlers of both signals while a run is under way.

    ``event`` is what the training loop looks at. ``restore`` puts the terminal right before leaving at once: every
    file of a run survives a kill at any moment, so nothing else has to be done.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.number = 0  # of the first signal
        self.announce: Callable[[], None] = lambda: None
        self.restore: Callable[[], None] = lambda: None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for each in SIGNALS:
                self._before[each] = signal.signal(each, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def check(self) -> None:
        """Raise Interrupted after a signal; called while there is nothing yet that could be resumed."""
        if self.number:
            raise Interrupted(self.number, "interrupted while the data were being loaded; no run was begun")

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.number:
            with contextlib.suppress(OSError):
                self.restore()
            os._exit(128 + number)
        self.number = number
        self.event.set()
        with contextlib.suppress(OSError):
            self.announce()


class Leave(Interrupt):
    """The same for a command that leaves nothing to go on from: the first signal raises Signalled wherever it is."""

    def __init__(self) -> None:
        super().__init__()
        self._repeated = False
        self._timer: threading.Timer | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().__exit__(kind, error, trace)

    def check(self) -> None:
        """Nothing to look at: the exception is on its way."""

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._repeated:
            self._repeated = False
        elif self.number:
            super()._handle(number, frame)
        self.number = number
        self._timer = threading.Timer(AGAIN, self._repeat)
        self._timer.daemon = True
        self._timer.start()
        raise Signalled(number)

    def _repeat(self) -> None:
        """In a thread of its own: let the main thread handle the signal again."""
        self._repeated = True
        if hasattr(signal, "pthread_kill"):  # wakes it, too, where it waits
            signal.pthread_kill(threading.main_thread().ident or 0, self.number)
        else:
            _thread.interrupt_main(signal.Signals(self.number))


def say(text: str) -> None:
    """Write to stderr from a signal handler: past the buffers that the handler may have interrupted."""
    os.write(2, wrap(text, columns(sys.stderr)).encode())
