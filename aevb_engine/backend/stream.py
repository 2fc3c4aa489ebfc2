"""The stream in use, without with-blocks: the end of one leaves the null stream, not the stream in use before it."""

from __future__ import annotations

from typing import Any


def make_current(xp: Any, stream: Any) -> None:
    """What this thread enqueues from now on goes to ``stream``.

    CuPy's ``with stream:`` and ``stream.use()`` do not mix: a block goes back to the block around it, or to the null
    stream, which nothing would order with ours. So no block is used, and whoever enters the backend makes its stream
    current, and leaves it so.
    """
    if xp.cuda.get_current_stream() != stream:
        stream.use()
