"""Unpack gzip data in memory, never beyond a cap: an archive bomb stops there."""

from __future__ import annotations

import zlib

MAGIC = b"\x1f\x8b"


def gunzip(data: bytes, most: int) -> bytes:
    """The content of a gzip file, at most ``most`` bytes; ValueError when it is longer, cut or damaged."""
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(data, most + 1)
    except zlib.error as error:
        raise ValueError(f"damaged gzip file ({error})") from None
    if len(content) > most:
        raise ValueError(f"unpacks to more than {most} bytes")
    if not unpacker.eof:
        raise ValueError(f"gzip file cut short after {len(data)} bytes")
    return content
