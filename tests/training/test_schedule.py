"""Learning-rate schedules as functions of the step, counted from 1, and what is said of a bad one."""

from __future__ import annotations

import pytest

from aevb_engine.errors import UsageError
from aevb_engine.training.schedule import parse_schedule


@pytest.mark.parametrize(
    ("text", "step", "factor"),
    [
        ("constant", 10**9, 1.0),
        ("exponential:0.5", 1, 1.0),
        ("exponential:0.5", 4, 0.125),
        ("exponential:0.5:1000", 1, 1.0),
        ("exponential:0.5:1000", 1001, 0.5),
        ("exponential:0.5:1000", 501, 0.5**0.5),
        ("steps:5000,8000:0.1", 5000, 1.0),
        ("steps:5000,8000:0.1", 5001, 0.1),
        ("steps:5000,8000:0.1", 8001, 0.01),
        ("steps:3", 4, 0.1),
        ("exponential:1", 7, 1.0),
    ],
)
def test_factor(text: str, step: int, factor: float) -> None:
    assert parse_schedule(text)(step) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("cosine", "known: constant, exponential, steps"),
        ("exponentail:0.5", "did you mean 'exponential'"),
        ("constant:1", "write constant"),
        ("exponential", "write constant"),
        ("exponential:x", "write constant"),
        ("exponential:0.5:1:1", "write constant"),
        ("exponential:2", "factor must be in"),
        ("exponential:0", "factor must be in"),
        ("exponential:nan", "factor must be in"),
        ("exponential:0.5:0", "interval positive"),
        ("exponential:0.5:inf", "interval positive"),
        ("steps:", "write constant"),
        ("steps:5,3", "write constant"),
        ("steps:5,5", "write constant"),
        ("steps:0,5", "write constant"),
        ("steps:1.5", "write constant"),
        ("steps:5:-1", "factor must be in"),
        ("", "known: constant, exponential, steps"),
    ],
)
def test_bad_schedules(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint) as caught:
        parse_schedule(text)
    assert str(caught.value).startswith(f"--lr-schedule {text}")
