"""Launch descriptions: what follows from the text and from the given arrays."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import aevb_engine.kernels
from aevb_engine.cuda import handwritten
from aevb_engine.cuda.source import generate
from aevb_engine.kernel import Kernel, kernel
from tests.cuda_on_cpu.catalog import declared, engine, plugins


def _scale(xp: Any, x: Any, factor: float, y: Any) -> None: ...


SCALE = generate(kernel("x: rc, factor: const -> y: rc", cuda="y = factor * x;")(_scale))


def test_arguments_in_the_order_of_the_text() -> None:
    x, y = np.ones((5, 7), np.float32), np.ones((5, 40), np.float32)[:, :7]
    launch = SCALE.launch(x, 0.5, y)
    assert (launch.name, launch.grid, launch.block) == ("aevb__scale", (1, 1, 1), (32, 8, 1))
    assert launch.args[0] is x
    assert launch.args[4] is y
    assert [type(a) for a in launch.args[1:4]] == [np.int32, np.int32, np.float32]
    assert launch.args[1:4] == (7, 1, 0.5)
    assert launch.args[5:] == (40, 1, 5, 7)  # strides of the view, then the sizes


def test_arguments_by_name() -> None:
    x, y = np.ones((2, 5, 7))
    by_place, by_name = SCALE.launch(x, 2, y), SCALE.launch(x, y=y, factor=2)
    assert by_place.args[1:4] == by_name.args[1:4]
    assert type(by_name.args[3]) is np.float64


def test_leading_axes_are_merged_and_axes_of_one_broadcast() -> None:
    x, y = np.ones((1, 1, 7)), np.ones((5, 3, 7))
    args = SCALE.launch(x, 1.0, y).args
    assert args[1:3] == (0, 1)
    assert args[-2:] == (15, 7)


@pytest.mark.parametrize(
    ("x", "y", "problem"),
    [
        (np.ones((5, 7)), np.ones((5, 8)), "along c"),
        (np.ones((5, 7)), np.ones((1, 7)), "along r"),
        (np.ones((5, 7), np.float32), np.ones((5, 7)), "one of float32, float64"),
        (np.ones((5, 7), np.int64), np.ones((5, 7), np.int64), "one of float32, float64"),
        (np.ones((5, 6, 7))[:, :3], np.ones((15, 7)), "does not fit the axes"),
        (np.broadcast_to(np.float64(1), (2**31, 1)), np.broadcast_to(np.float64(1), (2**31, 1)), "32 bits"),
    ],
)
def test_what_does_not_fit_is_refused(x: Any, y: Any, problem: str) -> None:
    with pytest.raises((ValueError, TypeError), match=problem):
        SCALE.launch(x, 1.0, y)


def test_missing_and_unknown_arguments() -> None:
    x, y = np.ones((2, 5, 7))
    for given, named in (((x, y), {}), ((x, 1.0, y, y), {}), ((x, 1.0), {"z": y})):
        with pytest.raises((TypeError, ValueError)):
            SCALE.launch(*given, **named)


def test_scratch_is_accepted_and_ignored() -> None:
    source = generate(declared()["tanh_backward"])
    assert source.accepts == ("h", "slope", "dh")
    h, dh = np.ones((2, 5, 7))
    assert len(source.launch(h, None, dh).args) == 8


def test_counters_must_be_64_bits_wide() -> None:
    source = handwritten.sources()["advance"]
    orders, rates = np.zeros((5, 9), np.int64), np.zeros((5, 2))
    with pytest.raises(TypeError, match="cursor is int32, not int64"):
        source.launch(np.zeros(1, np.int32), orders, rates, np.zeros(9, np.int64), np.zeros(2))


def test_a_list_must_be_contiguous() -> None:
    source = next(s for s in plugins() if s.name == "aevb_sgd_update")
    with pytest.raises(ValueError, match=r"coef .* contiguous"):
        source.launch(np.ones(9), np.ones(4)[::2], 0.0, np.ones(9))


@pytest.mark.parametrize(
    ("columns", "block"), [(1, (32, 8, 1)), (256, (32, 8, 1)), (257, (256, 1, 1)), (5000, (256, 1, 1))]
)
def test_the_order_of_a_sum_depends_on_the_columns_alone(columns: int, block: tuple[int, int, int]) -> None:
    source = generate(declared()["standard_normal_log_density"])
    for rows in (1, 100, 5000):
        assert source.launch(np.ones((rows, columns)), None, np.ones(rows)).block == block


def test_grids_keep_the_limits_of_the_device() -> None:
    x = np.broadcast_to(np.float32(1), (2**30, 1))
    grid = SCALE.launch(x, 1.0, x).grid
    assert grid == (1, 65535, 1)


def test_every_kernel_has_a_text_or_is_a_product() -> None:
    names = [m.name for m in pkgutil.iter_modules(aevb_engine.kernels.__path__, "aevb_engine.kernels.")]
    items = (i for n in names for i in vars(importlib.import_module(n)).items())
    bare = {name for name, value in items if isinstance(value, Kernel) and value.cuda is None}
    products = {"product", "affine", "affine_backward_data", "affine_backward_weight"}
    assert bare - products <= set(handwritten.sources())


def test_names_are_unique() -> None:
    names = [s.name for s in (*engine(), *plugins())]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("signature", ["x: rc -> y: r+, z: c+", "x: blz -> y: l+, z: l+"])
def test_sums_without_a_form_are_refused(signature: str) -> None:
    def both(xp: Any, x: Any, y: Any, z: Any) -> None: ...

    with pytest.raises(TypeError, match="sums"):
        generate(kernel(signature, cuda="y += x; z += x;")(both))


def test_a_kernel_without_text_is_refused() -> None:
    with pytest.raises(TypeError, match="no CUDA text"):
        generate(kernel("x: rc, factor: const -> y: rc")(_scale))


def test_texts_need_no_cupy() -> None:
    code = (
        "import sys, aevb_engine.cuda.source, aevb_engine.cuda.handwritten as h, aevb_engine.cuda.likelihood,"
        " aevb_engine.cuda.optimizer; h.sources(); sys.exit('cupy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
