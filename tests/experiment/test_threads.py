"""How many workers share a step that the user gives no number for."""

from __future__ import annotations

import pytest

from aevb_engine.backend import crew
from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.experiment.session import choose_threads
from aevb_engine.model.model import Architecture, Model
from aevb_plugins.decoders.bernoulli import Bernoulli


@pytest.mark.parametrize(
    ("processes", "expected"), [(True, {20: 1, 100: 2, 400: 9}), (False, {20: 1, 100: 1, 400: 16})]
)  # of 16 cores, by hidden units
def test_a_worker_needs_enough_to_do(
    processes: bool, expected: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "possible", lambda: processes)
    found = {}
    for hidden in expected:
        model = Model(Architecture(50, 2, (hidden,)), Bernoulli(), NumpyBackend(1))
        found[hidden] = choose_threads(model, 100 if hidden < 400 else 110, 16)
    assert found == expected


def test_never_more_than_the_cores() -> None:
    model = Model(Architecture(784, 20, (500,)), Bernoulli(), NumpyBackend(1))
    assert choose_threads(model, 100, 2) == 2
    assert choose_threads(model, 100, 1) == 1
