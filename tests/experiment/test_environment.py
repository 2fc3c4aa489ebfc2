"""What is recorded of the machine, and which of it may change a run's bits."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from aevb_engine import jit
from aevb_engine.experiment import environment as environment_module
from aevb_engine.experiment.environment import differences, environment


def test_leaving_out_the_compiled_loops_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = {**environment(), "compiled loops": True}
    monkeypatch.setenv("AEVB_JIT", "0")
    jit.available.cache_clear()
    try:
        assert differences(recorded, environment()) == ["compiled loops: True then, False now"]
    finally:
        jit.available.cache_clear()


def test_a_difference_names_both_values() -> None:
    now = environment()
    assert differences(now, now) == []
    assert differences({**now, "numpy": "1.0"}, now) == [f"numpy: 1.0 then, {now['numpy']} now"]


def test_what_changes_bits_is_recorded_and_compared() -> None:
    now = environment()
    for key in environment_module.BIT_KEYS:
        assert key in now
        assert differences({**now, key: "other"}, now) == [f"{key}: other then, {now[key]} now"]
    without = {key: value for key, value in now.items() if key != "simd"}
    assert differences(without, now) == [f"simd: not recorded then, {now['simd']} now"]
    assert environment_module.GPU_KEYS[0] in now
    assert not set(environment_module.GPU_KEYS) & set(environment_module.BIT_KEYS)  # no matter for a run on the CPU


@pytest.mark.parametrize("variable", environment_module.STEERING)
def test_variables_that_steer_are_a_difference(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv(variable, raising=False)
    before = environment()
    monkeypatch.setenv(variable, "other")
    assert [line.split(":")[0] for line in differences(before, environment())] == ["steering"]


def test_threads_of_blas_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held to one."""
    before = environment()
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert differences(before, environment()) == []


def test_instruction_sets_taken_from_numpy_are_a_difference() -> None:
    here = environment()["simd"]
    if len(here) < 2:
        pytest.skip("NumPy uses nothing beyond its baseline here")
    code = "from aevb_engine.experiment.environment import environment; print(environment()['simd'])"
    variables = {**os.environ, "NPY_DISABLE_CPU_FEATURES": here[-1]}
    child = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    if child.returncode or "cannot be disabled" in child.stderr:
        pytest.skip("this one cannot be taken away")
    assert child.stdout.strip() != str(here)
