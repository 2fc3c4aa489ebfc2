"""How products are asked of BLAS: the same numbers whichever way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aevb_engine.backend.products import bind
from aevb_engine.kernels.affine import affine_backward_data
from aevb_engine.operation import Buffer, Rows, operation


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(6, 40, 9), (20, 40, 30), (21, 40, 30), (40, 8, 3)])
def test_data_gradient_of_a_share(rows: int, inputs: int, outputs: int, dtype: Any) -> None:
    rng = np.random.default_rng(rows)
    dy, weight = rng.standard_normal((rows, outputs)), rng.standard_normal((inputs, outputs))
    dx = np.full((rows, inputs), np.nan, dtype)
    made = operation(
        affine_backward_data,
        Buffer("dy", dy.astype(dtype), 1),
        Buffer("weight", weight.astype(dtype)),
        Buffer("dx", dx, 1),
    )
    bind(made, Rows(1, rows - 2))()
    np.testing.assert_allclose(dx[1:-2], dy[1:-2] @ weight.T, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-12)
    assert np.isnan(dx[[0, -2, -1]]).all()


def test_few_rows_are_turned_and_many_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the order of the factors that NumPy is given."""
    asked: list[tuple[int, ...]] = []
    matmul = np.matmul

    def spy(a: Any, b: Any, out: Any) -> Any:
        asked.append(a.shape)
        return matmul(a, b, out=out)

    monkeypatch.setattr(np, "matmul", spy)
    for rows in (20, 21):
        arrays = [np.ones(s, np.float32) for s in ((rows, 9), (40, 9), (rows, 40))]
        buffers = [Buffer(str(i), a, per) for i, (a, per) in enumerate(zip(arrays, (1, 0, 1), strict=True))]
        bind(operation(affine_backward_data, *buffers), Rows(0, rows))()
    assert asked == [(40, 9), (21, 9)]
