"""The first 48 bytes of an HDF5 file: whether its writer has closed it, and a copy that opens as if it had.

A file that is being written, or whose writer was killed, is marked; libhdf5 opens it for single-writer reading alone,
and then reads each damaged block a hundred times, with longer and longer waits, because it may be half written. A copy
in memory without the mark is read once, and damage is told at once. Only version 3, that of `libver="latest"`, has it.
"""

from __future__ import annotations

import struct

SIZE = 48
_START = b"\x89HDF\r\n\x1a\n\x03\x08\x08"  # signature, version, bytes of an offset and of a length
_FLAGS, _END = 11, 28  # where the mark and the end of the file stand
_MASK = 0xFFFFFFFF


class NotSound(ValueError):
    """The checksum of these bytes is not the one they hold."""


def marked(head: bytes) -> bool:
    """Whether the file is marked as open for writing; NotSound where its first bytes are damaged.

    False, too, for a file without such a mark.
    """
    if not head.startswith(_START):
        return False
    if len(head) < SIZE or lookup3(head[: SIZE - 4]) != int.from_bytes(head[SIZE - 4 : SIZE], "little"):
        raise NotSound("the checksum of its first bytes is wrong")
    return head[_FLAGS] != 0


def settle(image: bytearray) -> None:
    """Takes the mark from a copy of a marked file, and says that it ends where the copy does."""
    image[_FLAGS] = 0
    image[_END : _END + 8] = struct.pack("<Q", len(image))
    image[SIZE - 4 : SIZE] = lookup3(bytes(image[: SIZE - 4])).to_bytes(4, "little")


def lookup3(data: bytes) -> int:
    """Jenkins' hash that HDF5 keeps of its own blocks (lookup3.c, hashlittle, initial value 0)."""
    x: int
    y: int
    z: int
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    while len(data) > 12:
        x, y, z = struct.unpack_from("<3I", data)
        a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
        a = (a - c) & _MASK ^ _turn(c, 4)
        c = (c + b) & _MASK
        b = (b - a) & _MASK ^ _turn(a, 6)
        a = (a + c) & _MASK
        c = (c - b) & _MASK ^ _turn(b, 8)
        b = (b + a) & _MASK
        a = (a - c) & _MASK ^ _turn(c, 16)
        c = (c + b) & _MASK
        b = (b - a) & _MASK ^ _turn(a, 19)
        a = (a + c) & _MASK
        c = (c - b) & _MASK ^ _turn(b, 4)
        b = (b + a) & _MASK
        data = data[12:]
    if not data:
        return c
    x, y, z = struct.unpack("<3I", data.ljust(12, b"\0"))
    a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
    c = ((c ^ b) - _turn(b, 14)) & _MASK
    a = ((a ^ c) - _turn(c, 11)) & _MASK
    b = ((b ^ a) - _turn(a, 25)) & _MASK
    c = ((c ^ b) - _turn(b, 16)) & _MASK
    a = ((a ^ c) - _turn(c, 4)) & _MASK
    b = ((b ^ a) - _turn(a, 14)) & _MASK
    return ((c ^ b) - _turn(b, 24)) & _MASK


def _turn(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & _MASK
