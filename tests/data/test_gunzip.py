"""Unpacking in memory under a cap."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest

from aevb_engine.data.gunzip import gunzip


def test_round_trip_up_to_the_cap() -> None:
    plain = bytes(range(256)) * 40
    assert gunzip(gzip.compress(plain), len(plain)) == plain


def test_bomb_stops_at_the_cap() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="unpacks to more than 1000 bytes"):
            gunzip(bomb, 1000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_every_truncation_is_noticed() -> None:
    packed = gzip.compress(b"some content " * 20)
    for length in range(len(packed)):
        with pytest.raises(ValueError, match="gzip file"):
            gunzip(packed[:length], 1000)


def test_damage_is_noticed() -> None:
    packed = bytearray(gzip.compress(b"some content " * 20))
    packed[-6] ^= 1  # in the check sum
    with pytest.raises(ValueError, match="damaged gzip file"):
        gunzip(bytes(packed), 1000)
