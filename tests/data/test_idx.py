"""The IDX reader: what it reads, and that it believes no header."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from aevb_plugins.datasets.idx import read_idx

BODY = np.arange(24, dtype=np.uint8)
GOOD = struct.pack(">BBBBIII", 0, 0, 8, 3, 2, 3, 4) + BODY.tobytes()


def test_reads() -> None:
    assert np.array_equal(read_idx(GOOD, (2, 3, 4)), BODY.reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "ends within its header"),
        (GOOD[:15], "ends within its header"),
        (GOOD[:-1], "with 23 elements, its header says 24"),
        (GOOD + b"x", "with 25 elements, its header says 24"),
        (b"\1" + GOOD[1:], "begins with 01000803, expected 00000803"),
        (GOOD[:2] + b"\x0d" + GOOD[3:], "begins with 00000d03"),
        (GOOD[:3] + b"\1" + GOOD[4:], "begins with 00000801"),
        (GOOD[:4] + b"\xff\xff\xff\xff" + GOOD[8:], r"shape \(4294967295, 3, 4\), expected \(2, 3, 4\)"),
        (b"<html>not found</html>", "begins with 3c68746d"),
    ],
)
def test_refuses(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_idx(data, (2, 3, 4))
