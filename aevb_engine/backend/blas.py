"""BLAS at one thread, for as long as anybody in this process wants it.

The number is one for the whole process. Two models trained by two threads of Python enter and leave at will: the first
sets it, the last sets it back, or one that ends would give the other's products more threads, and other bits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import threadpoolctl

_lock = threading.Lock()
_wanted = 0
_limit = ExitStack()


@contextmanager
def one_thread(controller: threadpoolctl.ThreadpoolController) -> Iterator[None]:
    """``controller`` knows the libraries that are loaded."""
    global _wanted
    with _lock:
        if not _wanted:
            _limit.enter_context(controller.limit(limits=1, user_api="blas"))
        _wanted += 1
    try:
        yield
    finally:
        with _lock:
            _wanted -= 1
            if not _wanted:
                _limit.close()


def _anew() -> None:
    """In a forked process, where nobody else is: who held the lock, or wanted the limit, did not come along."""
    global _lock, _wanted, _limit
    _lock, _wanted, _limit = threading.Lock(), 0, ExitStack()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_anew)
