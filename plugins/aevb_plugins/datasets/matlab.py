"""A reader for one uint8 matrix of a MATLAB 5 file: every length is checked, nothing is executed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

_HEADER = 128
_INT8, _UINT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 2, 5, 6, 14, 15
_CLASS_UINT8 = 9
_COMPLEX = 0x0800
_SLACK = 4096  # bytes of tags, dimensions and name beside the elements


def read_matrix(data: bytes, name: str, shape: tuple[int, int]) -> npt.NDArray[Any]:
    """The uint8 matrix ``name`` of ``shape`` in a MATLAB 5 file; ValueError when absent, other or damaged."""
    if len(data) < _HEADER or data[126:128] not in (b"IM", b"MI"):
        raise ValueError("not a MATLAB 5 file")
    order = "<" if data[126:128] == b"IM" else ">"
    if struct.unpack(f"{order}H", data[124:126])[0] != 0x0100:
        raise ValueError("not a MATLAB 5 file (other version)")
    most = shape[0] * shape[1] + _SLACK
    for kind, body in _elements(data[_HEADER:], order):
        matrix = body
        if kind == _COMPRESSED:
            inner = next(_elements(_inflate(body, most), order), (0, b""))
            kind, matrix = inner
        if kind == _MATRIX:
            found = _matrix(matrix, order, name, shape)
            if found is not None:
                return found
    raise ValueError(f"MATLAB file without a matrix '{name}'")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each data element; ValueError when one reaches beyond the end."""
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise ValueError("MATLAB file ends within a tag")
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # small element: size and type share a word, the body is in the tag
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise ValueError("MATLAB file with a damaged small element")
            yield kind, data[at + 4 : at + 4 + size]
            at += 8
            continue
        if size > len(data) - at - 8:
            raise ValueError("MATLAB file ends within an element")
        yield kind, data[at + 8 : at + 8 + size]
        at += 8 + size + (0 if kind == _COMPRESSED else -size % 8)


def _inflate(body: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise ValueError(f"MATLAB file with a damaged compressed element ({error})") from None
    if len(plain) > most:
        raise ValueError(f"MATLAB file with an element that unpacks to more than {most} bytes")
    if not unpacker.eof:
        raise ValueError("MATLAB file with a compressed element cut short")
    return plain


def _matrix(body: bytes, order: str, name: str, shape: tuple[int, int]) -> npt.NDArray[Any] | None:
    """The matrix in an element, None when it has another name."""
    parts = _elements(body, order)
    kind, flags = next(parts, (0, b""))
    if kind != _UINT32 or len(flags) != 8:
        raise ValueError("MATLAB matrix without its flags")
    flag = struct.unpack(f"{order}II", flags)[0]
    kind, sizes = next(parts, (0, b""))
    if kind != _INT32 or len(sizes) % 4:
        raise ValueError("MATLAB matrix without its dimensions")
    kind, label = next(parts, (0, b""))
    if kind != _INT8:
        raise ValueError("MATLAB matrix without its name")
    if label.rstrip(b"\0") != name.encode("ascii"):
        return None
    found = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    if found != shape:
        raise ValueError(f"MATLAB matrix '{name}' of shape {found}, expected {shape}")
    kind, elements = next(parts, (0, b""))
    if flag & 0xFF != _CLASS_UINT8 or flag & _COMPLEX or kind != _UINT8:
        raise ValueError(f"MATLAB matrix '{name}' is not of uint8")
    if len(elements) != shape[0] * shape[1]:
        raise ValueError(f"MATLAB matrix '{name}' with {len(elements)} elements, expected {shape[0] * shape[1]}")
    return np.frombuffer(elements, dtype=np.uint8).reshape(shape, order="F")
