"""What is recorded of the machine, and which of it may change a run's bits."""

from __future__ import annotations

import pytest

from aevb_engine import jit
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
