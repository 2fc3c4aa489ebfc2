"""Buffers, their shares and views, and what an operation declares about the arguments of its kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aevb_engine.kernel import kernel
from aevb_engine.operation import Buffer, Rows, custom, operation


@kernel("x: rc, factor: const, work: rc~ -> y: rc, total: rc!")
def _scaled(xp: Any, x: Any, factor: float, work: Any, y: Any, total: Any) -> None:
    xp.multiply(x, factor, out=work)
    y[...] = work
    total += work


def _buffers() -> tuple[Buffer, Buffer, Buffer, Buffer]:
    x = Buffer("x", np.arange(12.0).reshape(4, 3), 1)
    work, y, total = (Buffer(n, np.zeros((4, 3)), 1) for n in ("work", "y", "total"))
    return x, work, y, total


def test_reads_and_writes_follow_the_signature() -> None:
    x, work, y, total = _buffers()
    op = operation(_scaled, x, 2.0, work, y, total)
    assert op.name == "_scaled"
    assert op.reads == (x, total)  # an output updated in place is read too
    assert op.writes == (work, y, total)  # scratch is written


def test_bind_takes_the_share_of_its_rows() -> None:
    x, work, y, total = _buffers()
    total.array[...] = 1
    op = operation(_scaled, x, 2.0, work, y, total)
    op.bind(np, Rows(1, 3))()
    expected = np.zeros((4, 3))
    expected[1:3] = 2 * x.array[1:3]
    assert (y.array == expected).all()
    assert (total.array == expected + 1).all()


def test_wrong_arguments() -> None:
    x, work, y, total = _buffers()
    with pytest.raises(TypeError, match="takes 5 arguments, not 4"):
        operation(_scaled, x, work, y, total)
    with pytest.raises(TypeError, match="x must be a buffer"):
        operation(_scaled, 1.0, 2.0, work, y, total)


def test_views_share_memory_and_storage() -> None:
    samples = Buffer("s", np.zeros((6, 4)), 3)  # 2 data points, 3 samples
    assert samples.view(Rows(1, 2)).shape == (3, 4)
    cube = samples.reshaped(1, 2, 3, 4)
    half = cube.part((slice(None), slice(None), slice(0, 2)))
    half.view(Rows(1, 2))[...] = 7
    assert (samples.array[3:, :2] == 7).all()
    assert samples.array.sum() == 7 * 6
    assert {cube.storage, half.storage, samples.storage} == {"s"}
    table = Buffer("t", np.zeros((2, 2)))
    assert table.view(Rows(1, 2)) is table.array


def test_custom_operation_is_what_it_says() -> None:
    x, _, y, _ = _buffers()

    def bind(xp: Any, rows: Rows) -> Any:
        return lambda: xp.copyto(y.view(rows), x.view(rows))

    op = custom("copy", bind, (x,), (y,))
    op.bind(np, Rows(0, 2))()
    assert (op.name, op.reads, op.writes) == ("copy", (x,), (y,))
    assert (y.array[:2] == x.array[:2]).all()
    assert not y.array[2:].any()
