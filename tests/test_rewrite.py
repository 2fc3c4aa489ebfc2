"""The one condition under which a rule may leave out what an operation writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from aevb_engine.kernel import kernel
from aevb_engine.memory import Place
from aevb_engine.operation import Buffer, Operation, custom, operation
from aevb_engine.rewrite import begins, read_by, rewrite


@kernel("x: rc -> y: rc")
def _next(xp: Any, x: Any, y: Any) -> None:
    xp.add(x, 1, out=y)


@kernel("x: rc, work: rc~ -> y: rc!")
def _more(xp: Any, x: Any, work: Any, y: Any) -> None:
    xp.add(x, y, out=y)


def _buffers(names: str) -> list[Buffer]:
    return [Buffer(name, np.zeros((4, 3)), 1) for name in names]


def _two(rest: Sequence[Operation]) -> tuple[int, list[Operation]] | None:
    """y = x + 1, z = y + 1 as one: y is left out."""
    if not begins(rest, "_next", "_next"):
        return None
    (x,), (z,) = rest[0].reads, rest[1].writes
    return 2, [custom("both", lambda xp, rows: lambda: None, (x,), (z,))]


def _names(operations: Sequence[Operation], read: Sequence[Buffer] | None = ()) -> list[str]:
    return [op.name for op in rewrite(operations, [_two], lambda op: op, read)]


def test_what_nobody_reads_is_left_out() -> None:
    a, b, c, d = _buffers("abcd")
    pair = [operation(_next, a, b), operation(_next, b, c)]
    assert _names(pair) == ["both"]
    apart = ["_next", "_next"]
    assert _names([*pair, operation(_more, b, a, d)]) == [*apart, "_more"]  # read later
    assert _names([*pair, operation(_more, a, b, d)]) == ["both", "_more"]  # as scratch
    assert _names([*pair, operation(_more, a, d, b)]) == [*apart, "_more"]  # changed in place
    assert _names([*pair, operation(_next, a, b), operation(_more, b, a, d)]) == ["both", "_next", "_more"]
    half = b.part(slice(2))
    assert _names([*pair, operation(_more, half, half, d.part(slice(2)))]) == [*apart, "_more"]
    again = custom("half", lambda xp, rows: lambda: None, (a,), (half,))
    assert _names([*pair, again, operation(_more, b, a, d)]) == [*apart, "half", "_more"]


def test_lists_run_again_and_others_between() -> None:
    a, b, c, d = _buffers("abcd")
    pair = [operation(_next, a, b), operation(_next, b, c)]
    assert _names(pair, [b]) == _names(pair, None) == ["_next", "_next"]
    assert _names(pair, [b.part((slice(None), slice(1)))]) == ["_next", "_next"]
    assert _names(pair, [a, c, d]) == ["both"]
    first = operation(_more, b, d, c)  # the next time the list runs
    assert _names([first, *pair]) == ["_more", "_next", "_next"]
    assert [buffer.name for buffer in read_by([[first, *pair], pair])] == ["b", "c", "a", "a"]


def test_an_item_reads_only_what_is_there() -> None:
    """A rule that goes on where one that has been left out wrote."""
    a, b, c, _ = _buffers("abcd")
    pair = [operation(_next, a, b), operation(_next, b, c)]

    def wrong(rest: Sequence[Operation]) -> Any:
        return (2, [rest[1]]) if begins(rest, "_next", "_next") else None

    assert [op.name for op in rewrite(pair, [wrong], lambda op: op, [c])] == ["_next", "_next"]


@pytest.mark.parametrize("finished", [False, True])
def test_what_is_unfinished_counts_as_left_out(finished: bool) -> None:
    a, b, c, d = _buffers("abcd")
    pair = [operation(_next, a, b), operation(_next, b, c)]

    def rule(rest: Sequence[Operation]) -> Any:
        if not begins(rest, "_next", "_next"):
            return None
        begun = Operation("begun", rest[0].bind, (a,), (b,), unfinished=True)
        return 2, [begun, custom("end", rest[1].bind, (b,), (b, c) if finished else (c,))]

    names = [op.name for op in rewrite([*pair, operation(_more, b, a, d)], [rule], lambda op: op, ())]
    assert names == (["begun", "end", "_more"] if finished else ["_next", "_next", "_more"])


def test_several_arrays_hold_one() -> None:
    flat = np.zeros(12)
    pieces = [Place(flat[lo:hi]) for lo, hi in ((5, 12), (0, 3), (3, 5))]
    assert Place(flat).within(pieces)
    assert not Place(flat).within(pieces[:2])
    square = flat.reshape(4, 3)
    left, right = Place(square[:, :1]), Place(square[:, 1:])
    assert left.within([left])
    assert not left.touches([right])
    assert not Place(flat).within([left, right])  # not seen, and said so
