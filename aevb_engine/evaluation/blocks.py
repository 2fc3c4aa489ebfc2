"""Data points cut into blocks of one size, the same whatever the threads, the chunks and the rows asked for.

What a product of matrices gives for a row depends in its last bits on how many rows it is given: BLAS takes other
paths for other shapes. Where decisions follow, accepting a proposal of a Markov chain, the last bits become nats. So
every product is given rows of one number, the last data point repeated where some are missing, and a data point stands
at the same place of its block always.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from aevb_engine.backend.base import Backend, Call
from aevb_engine.operation import Buffer, Operation, Rows

ROWS = 256  # of a block, with all samples; of fewer rows a product costs more a row


def block(samples: int, rows: int = 0) -> int:
    """Data points of a block with so many samples each: a power of two, so that small blocks fill large ones."""
    return 1 << max(0, ((rows or ROWS) // samples).bit_length() - 1)


def whole(count: int, size: int) -> int:
    """The least number of at least ``count`` data points that whole blocks hold."""
    return -(-count // size) * size


def chunk(count: int, size: int, rows: int, least: int = 1) -> int:
    """Data points of one pass, in whole blocks: all ``count``, or about ``rows`` of them and at least ``least``."""
    return min(whole(count, size), max(whole(least, size), rows // size * size))


def bind(
    backend: Backend, operations: Sequence[Operation], batch: int, size: int, threads: int, read: Sequence[Buffer]
) -> list[list[Call]]:
    """The calls of each thread, block after block. A device takes the whole batch at once."""
    if backend.xp is not np:
        return [backend.bind(operations, Rows(0, batch), read=read)]
    edges = [batch // size * t // threads for t in range(threads + 1)]
    return [
        [call for i in range(lo, hi) for call in backend.bind(operations, Rows(i * size, (i + 1) * size), read=read)]
        for lo, hi in pairwise(edges)
        if hi > lo
    ]
