"""The MATLAB 5 reader: plain, compressed, either byte order; damage is an error of one kind."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
import pytest

from aevb_plugins.datasets.matlab import read_matrix

MATRIX = np.arange(12, dtype=np.uint8).reshape(3, 4)


def element(order: str, kind: int, body: bytes, small: bool = False) -> bytes:
    if small and len(body) <= 4:
        return struct.pack(f"{order}I", len(body) << 16 | kind) + body.ljust(4, b"\0")
    return struct.pack(f"{order}II", kind, len(body)) + body + b"\0" * (-len(body) % 8)


def matrix(order: str = "<", name: bytes = b"ff", flags: int = 9, kind: int = 2, small: bool = True) -> bytes:
    return element(
        order,
        14,
        element(order, 6, struct.pack(f"{order}II", flags, 0))
        + element(order, 5, struct.pack(f"{order}ii", *MATRIX.shape))
        + element(order, 1, name, small)
        + element(order, kind, MATRIX.tobytes(order="F")),
    )


def file(*elements: bytes, order: str = "<", version: int = 0x0100) -> bytes:
    mark = b"IM" if order == "<" else b"MI"
    return b"MATLAB 5.0".ljust(124) + struct.pack(f"{order}H", version) + mark + b"".join(elements)


def packed(plain: bytes, order: str = "<") -> bytes:
    body = zlib.compress(plain)
    return struct.pack(f"{order}II", 15, len(body)) + body  # compressed elements are not padded


@pytest.mark.parametrize(
    "data",
    [
        file(matrix()),
        file(matrix(small=False)),
        file(matrix(">"), order=">"),
        file(packed(matrix())),
        file(packed(matrix(">"), ">"), order=">"),
        file(matrix(name=b"other"), packed(matrix(name=b"another")), packed(matrix())),
        file(element("<", 1, b"something else"), matrix()),
    ],
)
def test_reads(data: bytes) -> None:
    assert np.array_equal(read_matrix(data, "ff", (3, 4)), MATRIX)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a MATLAB 5 file"),
        (b"<html>" * 100, "not a MATLAB 5 file"),
        (file(matrix(), version=0x0200), "other version"),
        (file(), "without a matrix 'ff'"),
        (file(matrix(name=b"gg")), "without a matrix 'ff'"),
        (file(matrix(flags=6)), "is not of uint8"),
        (file(matrix(flags=0x0809)), "is not of uint8"),
        (file(matrix(kind=1)), "is not of uint8"),
        (file(matrix())[:-1], "ends within an element"),
        (file(matrix(), b"abc"), None),
        (file(packed(matrix())[:-5]), "ends within an element"),
        (file(struct.pack("<II", 15, 20) + b"x" * 20), "damaged compressed element"),
        (file(packed(b"\0" * 10**7)), "unpacks to more than 4108 bytes"),
        (file(struct.pack("<II", 15, 10) + zlib.compress(matrix())[:10]), "cut short"),
    ],
)
def test_refuses(data: bytes, why: str | None) -> None:
    if why is None:  # what follows the matrix is not looked at
        assert np.array_equal(read_matrix(data, "ff", (3, 4)), MATRIX)
        return
    with pytest.raises(ValueError, match=why):
        read_matrix(data, "ff", (3, 4))


def test_other_shape() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 4\), expected \(4, 3\)"):
        read_matrix(file(matrix()), "ff", (4, 3))


def test_any_damage_is_a_value_error_or_harmless() -> None:
    chance = random.Random(1)
    for original in (file(matrix()), file(packed(matrix()))):
        for _ in range(2000):
            data = bytearray(original[: chance.randrange(120, len(original) + 1)])
            for _ in range(chance.randrange(3)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            try:
                found = read_matrix(bytes(data), "ff", (3, 4))
            except ValueError:
                continue
            assert found.shape == (3, 4)
