"""Philox4x32-10, the counter-based generator of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3").

Random words are a pure function of (seed, stream, step, row, column): the key is the 64-bit seed; the counter words are
(column group, row, step, stream). Four columns share one counter. Integer arithmetic only: the same bits everywhere.
"""

from __future__ import annotations

import zlib
from typing import Any

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
MASK = 0xFFFFFFFF
CHUNK = 4096  # counters a pass: the working set stays in the second-level cache


def stream_id(name: str) -> int:
    """The counter word of a named stream (CRC-32 of the name), stable for ever."""
    return zlib.crc32(name.encode("ascii"))


def key(seed: int) -> tuple[int, int]:
    """The two key words of a seed in 0 .. 2^64 - 1."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed {seed} is outside 0 .. 2^64 - 1")
    return seed & MASK, seed >> 32


class Philox:
    """Counters in, words out, on scratch of a fixed size: four uint64 arrays that each hold 32-bit words."""

    def __init__(self, xp: Any, seed: int, size: int = CHUNK) -> None:
        self.xp = xp
        self.size = size
        self.key = key(seed)
        self._work = tuple(xp.empty(size, dtype=xp.uint64) for _ in range(6))

    def __call__(self, c0: Any, c1: Any, c2: Any, c3: Any) -> tuple[Any, Any, Any, Any]:
        """The four output words (uint64 views, valid until the next call) of broadcastable counter words (n,)."""
        xp = self.xp
        n = max(getattr(c, "size", 1) for c in (c0, c1, c2, c3))
        a, b, c, d, p, q = (w[:n] for w in self._work)
        a[...], b[...], c[...], d[...] = c0, c1, c2, c3
        u64 = xp.uint64
        mask, half = u64(MASK), u64(32)
        m0, m1 = u64(MULTIPLIERS[0]), u64(MULTIPLIERS[1])
        k0, k1 = self.key
        for _ in range(ROUNDS):
            xp.multiply(a, m0, out=p)
            xp.multiply(c, m1, out=q)
            xp.right_shift(q, half, out=a)
            xp.bitwise_xor(a, b, out=a)
            xp.bitwise_xor(a, u64(k0), out=a)
            xp.bitwise_and(q, mask, out=b)
            xp.right_shift(p, half, out=c)
            xp.bitwise_xor(c, d, out=c)
            xp.bitwise_xor(c, u64(k1), out=c)
            xp.bitwise_and(p, mask, out=d)
            k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
        return a, b, c, d
