"""Every declared kernel: its CUDA text against its array code."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from aevb_engine.cuda import module
from aevb_engine.cuda.source import generate
from aevb_engine.kernel import Kernel
from tests.cuda_on_cpu.catalog import declared, engine
from tests.cuda_on_cpu.guard import Guarded, close
from tests.cuda_on_cpu.runner import SCHEDULES, compile_text

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

# rows, samples (the middle axis), columns
SIZES = [(1, 1, 1), (3, 3, 31), (9, 1, 33), (33, 3, 100), (2, 3, 257)]
NUMBERS = [np.float32, np.float64]


def check(
    kernel: Kernel, dtype: Any, sizes: tuple[int, int, int], schedule: str, strided: bool, sanitize: bool
) -> None:
    """Run the text between guard bands and compare with the array code in double."""
    rng = np.random.default_rng([ord(c) for c in kernel.name])
    space = kernel.space
    axes = dict(zip(space[:1] + space[1:-1] + space[-1:], sizes if len(space) == 3 else sizes[::2], strict=False))
    if len(space) == 1:
        axes = {space: sizes[0] * sizes[2]}
    shapes = {a.name: tuple(axes[x] for x in a.letters) or (1,) for a in kernel.arguments}
    inputs: dict[str, Any] = {}
    for a in kernel.arguments:
        inputs[a.name] = 0.37 if a.shape == "const" else rng.standard_normal(shapes[a.name]).astype(dtype)
        if a.name == "h" and not a.output:  # what an activation gives: never negative for two of the three
            inputs[a.name] = np.maximum(inputs[a.name], 0)
    wide = [v if isinstance(v, float) else v.astype(np.float64) for v in inputs.values()]
    kernel(np, *wide)
    expected = dict(zip(inputs, wide, strict=True))
    guarded = {n: v if isinstance(v, float) else Guarded(v, strided and n != "s") for n, v in inputs.items()}
    arrays = [v.array if isinstance(v, Guarded) else v for v in guarded.values()]
    program = compile_text(module(engine(), dtype), sanitize)
    program.run(generate(kernel).launch(*arrays), schedule)
    for a in kernel.arguments:
        held = guarded[a.name]
        if not isinstance(held, Guarded):
            continue
        what = f"{kernel.name}: {a.name}"
        held.check(what)
        if a.output:
            terms = int(np.prod(list(axes.values()))) // held.array.size
            close(held.array, expected[a.name].reshape(held.array.shape), dtype, what, max(1, terms))
        else:  # inputs stay, and so does scratch, which the text keeps in registers
            np.testing.assert_array_equal(held.array, inputs[a.name], err_msg=what)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", declared())
def test_text_agrees_with_array_code(name: str, sizes: tuple[int, int, int], dtype: Any) -> None:
    for schedule in SCHEDULES:
        check(declared()[name], dtype, sizes, schedule, strided=False, sanitize=False)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("name", declared())
def test_rows_may_be_apart(name: str, dtype: Any) -> None:
    check(declared()[name], dtype, (9, 3, 33), "shuffled", strided=True, sanitize=False)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("name", declared())
def test_no_undefined_behaviour(name: str, dtype: Any, capfd: pytest.CaptureFixture[str]) -> None:
    for sizes in SIZES:
        check(declared()[name], dtype, sizes, "forward", strided=False, sanitize=True)
    assert "runtime error" not in capfd.readouterr().err


def test_every_sum_is_the_same_in_every_schedule() -> None:
    """Equal to the bit: the order of a sum depends on shapes alone."""
    kernel = declared()["gaussian_log_density"]
    rng = np.random.default_rng(1)
    x, mean, logvar = rng.standard_normal((3, 5, 300)).astype(np.float32)
    program = compile_text(module(engine(), np.float32))
    results = []
    for schedule in SCHEDULES:
        logp = np.zeros(5, np.float32)
        program.run(generate(kernel).launch(x, mean, logvar, None, None, logp), schedule)
        results.append(logp.tobytes())
    assert len(set(results)) == 1
