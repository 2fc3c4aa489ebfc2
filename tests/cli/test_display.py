"""What the progress knows: rates, time left, and whether a curve chooses the best step."""

from types import SimpleNamespace

import numpy as np
import pytest

from aevb_cli import display
from aevb_cli.display import State
from aevb_cli.live import LiveScreen


class Clock:
    """The clock of ``display``, moved by hand."""

    def __init__(self, patch):
        self.now = 1000.0
        patch.setattr(display.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def session(total=1000, every=100, held_out="test", step=0):
    return SimpleNamespace(
        trainer=SimpleNamespace(step=step),
        total_steps=total,
        eval_every=every,
        held_out=object(),
        held_out_is=held_out,
        objective=SimpleNamespace(columns=("bound", "reconstruction", "kl")),
        criterion="bound",
    )


def train(state, clock, step, seconds, total=1000):
    """Steps that took so many seconds of training until now."""
    clock.now += seconds - train.seconds
    train.seconds = seconds
    state.add(np.array([[step, 0, -1.0, 0, 0, 0]]), total, seconds)


def evaluate(state, clock, seconds):
    clock.now += seconds
    state.evaluated(np.array([[state.step, 0, -1.0, 0, 0, 0, 1.0]]), True)


@pytest.fixture
def state(clock):
    train.seconds = 0.0
    state = State()
    state.begin(session())
    return state


def test_time_left_is_the_pace_of_steps_and_the_evaluations_to_come(state, clock):
    train(state, clock, 10, 60.0)  # compiling, and a crew that starts
    assert state.left is None
    train(state, clock, 100, 63.0)  # 30 steps a second
    assert state.rate == pytest.approx(30)
    assert state.left == pytest.approx(900 / 30)  # no evaluation has been measured yet
    evaluate(state, clock, 40.0)  # the first one builds what the others use
    assert state.left == pytest.approx(900 / 30 + 9 * 40)
    train(state, clock, 200, 63.0 + 100 / 30)
    evaluate(state, clock, 2.0)
    assert state.left == pytest.approx(800 / 30 + 8 * 2)
    clock.now += 500.0  # a machine that slept says nothing of what is left
    assert state.left == pytest.approx(800 / 30 + 8 * 2)


def test_a_last_evaluation_beyond_the_multiples_counts(clock):
    train.seconds = 0.0
    state = State()
    state.begin(session(total=250, every=100))
    train(state, clock, 10, 1.0, 250)
    train(state, clock, 100, 10.0, 250)
    evaluate(state, clock, 5.0)
    assert state.left == pytest.approx(150 / 10 + 2 * 5)  # at 200 and at the end
    train(state, clock, 200, 20.0, 250)
    evaluate(state, clock, 5.0)
    assert state.left == pytest.approx(50 / 10 + 5)
    train(state, clock, 250, 25.0, 250)
    assert state.left == 0


def test_time_left_of_a_resumed_run_counts_its_own_steps(clock):
    train.seconds = 500.0
    state = State()
    state.begin(session(step=500))
    train(state, clock, 510, 505.0)
    train(state, clock, 600, 514.0)
    assert state.left == pytest.approx(400 / 10)


def test_nothing_held_out_costs_nothing(clock):
    train.seconds = 0.0
    of = session()
    of.held_out = None
    state = State()
    state.begin(of)
    train(state, clock, 10, 1.0)
    train(state, clock, 110, 11.0)
    assert state.left == pytest.approx(890 / 10)


@pytest.mark.parametrize(("held_out", "chooses"), [("validation", True), ("test", False)])
def test_only_a_validation_curve_has_a_best_evaluation(held_out, chooses, monkeypatch):
    screen = LiveScreen(SimpleNamespace(number=0), verbose=True)
    screen.state.begin(session(held_out=held_out))
    said = []
    monkeypatch.setattr(screen, "_print", said.append)
    screen.evaluated(np.array([[100.0, 0, -1.0, 0, 0, 0, 1.0]]), True)
    assert ("best" in said[0]) == chooses
    screen.phase = "training"
    screen.state.bound = -1.0
    with screen.console.capture() as shown:
        screen.console.print(screen)
    assert ("best" in shown.get()) == chooses
