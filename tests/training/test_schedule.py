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
        ("linear:0.5", 1, 1.0),
        ("linear:0.5", 51, 1.0),
        ("linear:0.5", 76, 0.5),
        ("linear:0.5", 100, 0.02),
        ("linear:0.5", 101, 0.0),
        ("linear", 1, 1.0),
        ("linear", 51, 0.5),
    ],
)
def test_factor(text: str, step: int, factor: float) -> None:
    assert parse_schedule(text, total=100)(step) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("cosine", "known: constant, exponential, linear, steps"),
        ("exponentail:0.5", "did you mean 'exponential'"),
        ("constant:1", "write constant"),
        ("linear:0", "factor must be in"),
        ("linear:1.5", "factor must be in"),
        ("linear:0.5:2", "write constant"),
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
        ("", "known: constant, exponential, linear, steps"),
    ],
)
def test_bad_schedules(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint) as caught:
        parse_schedule(text)
    assert str(caught.value).startswith(f"--lr-schedule {text}")


def test_a_schedule_over_a_part_of_the_training() -> None:
    """Of the steps 101 to 200, say, the rate falls over the last half; the others know no length."""
    later = parse_schedule("linear:0.5", total=200, first=100)
    assert [later(step) for step in (101, 151, 176, 200)] == pytest.approx([1.0, 1.0, 0.5, 0.02])
    assert (later.of_length, later.steady) == (True, 0.5)
    assert not any(parse_schedule(text).of_length for text in ("constant", "exponential:0.5", "steps:3"))
