"""The noise of the CUDA text is that of the array code, to the bit."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from aevb_engine.cuda import module
from aevb_engine.cuda.handwritten import sources
from aevb_engine.kernels.noise import Noise, box_muller
from aevb_engine.kernels.philox import key, stream_id
from tests.cuda_on_cpu.catalog import engine
from tests.cuda_on_cpu.guard import Guarded
from tests.cuda_on_cpu.runner import SCHEDULES, compile_text

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

SEED = 0x0123456789ABCDEF


def _fill(kind: str, out: Any, step: int, row: int, sanitize: bool = False, schedule: str = "forward") -> None:
    """``out`` (steps, rows, columns) from (step, row) given partly by the device's counters, partly by constants."""
    program = compile_text(module(engine(), np.float64 if out.dtype == np.float64 else np.float32), sanitize)
    ahead, offset = 2, row % 5
    counters = np.array([step - ahead], np.int64), np.array([(row - offset) // 5], np.int64)
    words = key(SEED)
    program.run(sources()[kind].launch(*counters, ahead, 5, offset, stream_id("noise"), *words, out), schedule)


def _expected(kind: str, shape: tuple[int, ...], step: int, row: int) -> Any:
    steps, rows, columns = shape
    if kind == "words":
        padded = np.empty((steps, rows, 4 * -(-columns // 4)), np.uint32)
        Noise(np, SEED, "noise").words(step, row, padded)
        return padded[..., :columns]
    out = np.empty(shape, np.float32)
    getattr(Noise(np, SEED, "noise"), kind)(step, row, out)
    return out


@pytest.mark.parametrize("kind", ["normal", "uniform", "words"])
def test_a_million_numbers_are_equal_to_the_bit(kind: str) -> None:
    shape = (2, 500, 1001)
    out = Guarded(np.zeros(shape, np.uint32 if kind == "words" else np.float32))
    _fill(kind, out.array, 12345, 2**31 - 100)
    out.check(kind)
    assert out.array.size > 1_000_000
    np.testing.assert_array_equal(out.array.view(np.uint32), _expected(kind, shape, 12345, 2**31 - 100).view(np.uint32))


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 20, 257])
@pytest.mark.parametrize("kind", ["normal", "uniform", "words"])
def test_any_width_any_schedule_any_rows(kind: str, columns: int, capfd: pytest.CaptureFixture[str]) -> None:
    shape = (3, 9, columns)
    for schedule in SCHEDULES:
        out = Guarded(np.zeros(shape, np.uint32 if kind == "words" else np.float32), strided=True)
        _fill(kind, out.array, 7, 11, sanitize=True, schedule=schedule)
        out.check(kind)
        np.testing.assert_array_equal(out.array, _expected(kind, shape, 7, 11))
    assert "runtime error" not in capfd.readouterr().err


def test_double_is_the_cast() -> None:
    out = np.zeros((1, 5, 33))
    _fill("normal", out, 4, 9)
    np.testing.assert_array_equal(out, _expected("normal", (1, 5, 33), 4, 9))


def test_extreme_words() -> None:
    """Words that random draws do not reach: u = 1, the largest normal number, an angle of nothing and of pi."""
    words = np.array([0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 129, 2**32 - 128, 2**32 - 1], np.uint32)
    first, second = (a.reshape(-1).copy() for a in np.meshgrid(words, words))
    text = module([sources()["normal"]], np.float32) + (
        'extern "C" __global__ void pairs(const unsigned int* first_, const unsigned int* second_, float* out_,'
        " int size_e)\n{ for (int e = threadIdx.x; e < size_e; e += blockDim.x)"
        " box_muller(first_[e], second_[e], out_[2 * e], out_[2 * e + 1]); }"
    )
    out, expected = np.zeros((2, len(first), 2), np.float32)
    args = (first.copy(), second, out, np.int32(len(first)))
    compile_text(text).call("pairs", (1, 1, 1), (32, 1, 1), args)
    box_muller(np, first, second, [np.empty(len(first), np.float32) for _ in range(6)], expected)
    np.testing.assert_array_equal(out.view(np.uint32), expected.view(np.uint32))
