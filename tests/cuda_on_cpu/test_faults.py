"""Tests of the tests: planted faults must be caught."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from aevb_engine.cuda import module
from aevb_engine.cuda.handwritten import sources
from aevb_engine.cuda.launch import Launch, Source
from aevb_engine.cuda.source import generate
from tests.cuda_on_cpu.catalog import declared, engine
from tests.cuda_on_cpu.guard import Guarded
from tests.cuda_on_cpu.runner import SCHEDULES, Deadlock, compile_text

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


def _broken(chosen: list[Source], good: str, bad: str) -> str:
    text = module(chosen, np.float64)
    assert text.count(good) >= 1, "the place of the planted fault is gone"
    return text.replace(good, bad)


def _results(text: str, source: Source, given: tuple[Any, ...], shape: tuple[int, ...]) -> set[bytes]:
    out = []
    for schedule in SCHEDULES:
        y = np.zeros(shape)
        compile_text(text).run(source.launch(*given, y), schedule)
        out.append(y.tobytes())
    return set(out)


@pytest.mark.parametrize(
    ("kernel", "store"),
    [
        ("standard_normal_log_density", "part[thread.y * warps + thread.x / 32] = value;\n"),
        ("affine_backward_bias", "part[thread.y][thread.x] = value;\n"),
    ],
)
def test_a_removed_barrier_changes_the_result(kernel: str, store: str) -> None:
    x = np.random.default_rng(1).standard_normal((40, 300))
    source = generate(declared()[kernel])
    given, shape = ((x, None), (40,)) if kernel == "standard_normal_log_density" else ((np.ones(40), x), (300,))
    good = module([source], np.float64)
    assert len(_results(good, source, given, shape)) == 1
    bad = _broken([source], store + "    __syncthreads();\n", store)
    assert _results(bad, source, given, shape) != _results(good, source, given, shape)


def test_a_removed_barrier_between_two_sums_changes_the_result() -> None:
    source = sources()["record"]
    columns = np.random.default_rng(2).standard_normal((3, 500))
    results = set()
    for schedule in SCHEDULES:
        metrics, cursor, step = np.zeros((1, 3)), np.zeros(1, np.int64), np.zeros(1, np.int64)
        text = _broken([source], "    __syncthreads();  // the sum before this one has been read\n", "")
        compile_text(text).run(source.launch(*columns, metrics, cursor, step), schedule)
        results.add(metrics.tobytes())
    assert len(results) > 1


def test_an_off_by_one_is_caught() -> None:
    source = generate(declared()["tanh"])
    x, h = Guarded(np.zeros((3, 33))), Guarded(np.zeros((3, 33)))
    text = _broken([source], "index_c < size_c", "index_c <= size_c")
    compile_text(text).run(source.launch(x.array, h.array))
    with pytest.raises(AssertionError, match="outside the array"):
        h.check("tanh")


def test_an_off_by_one_between_rows_is_caught() -> None:
    """Between rows that lie apart, too."""
    source = generate(declared()["tanh"])
    x, h = (Guarded(np.zeros((3, 33)), strided=True) for _ in range(2))
    text = _broken([source], "index_c < size_c", "index_c < size_c + (index_r == 0)")
    compile_text(text).run(source.launch(x.array, h.array))
    with pytest.raises(AssertionError, match="outside the array"):
        h.check("tanh")


def test_a_barrier_for_some_is_a_deadlock() -> None:
    source = generate(declared()["standard_normal_log_density"])
    store = "part[thread.y * warps + thread.x / 32] = value;\n"
    text = _broken([source], store + "    __syncthreads();", store + "    if (thread.x < 64) __syncthreads();")
    with pytest.raises(Deadlock, match="not every thread"):
        compile_text(text).run(source.launch(np.ones((2, 300)), None, np.zeros(2)))


def test_a_shuffle_for_some_is_a_deadlock() -> None:
    source = generate(declared()["standard_normal_log_density"])
    good = "value += __shfl_down_sync(0xffffffffu, value, step);"
    text = _broken([source], good, f"if (thread.x > 0) {good}")
    with pytest.raises(Deadlock, match="not every thread"):
        compile_text(text).run(source.launch(np.ones((2, 300)), None, np.zeros(2)))


def test_an_overrun_of_shared_memory_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    source = generate(declared()["standard_normal_log_density"])
    text = _broken([source], "__shared__ N part[32];", "__shared__ N part[4];")
    compile_text(text, sanitize=True).run(source.launch(np.ones((2, 300)), None, np.zeros(2)))
    assert "runtime error: index 4 out of bounds" in capfd.readouterr().err


def test_a_wrong_argument_is_refused() -> None:
    program = compile_text(module(engine(), np.float64))
    good = generate(declared()["scale"]).launch(np.ones((2, 3)), 2.0, np.zeros((2, 3)))
    for change in (
        good.args[:-1],
        (*good.args[:-1], 3),
        (*good.args[:-1], np.int64(3)),
        (good.args[0].astype(np.float32), *good.args[1:]),
        (good.args[1], good.args[0], *good.args[2:]),
    ):
        with pytest.raises(TypeError):
            program.run(Launch(good.name, good.grid, good.block, change))
