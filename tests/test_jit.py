"""The compiled loops against the array code: noise and binarization to the bit, the rest within rounding."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from aevb_engine import jit, registry
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.session import prepare
from aevb_engine.kernels.noise import Noise

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}),
    ("momentum", {}),
    ("momentum", {"nesterov": True}),
    ("momentum", {"form": "ema"}),
    ("adagrad", {}),
    ("adam", {}),
    ("rmsprop", {}),
]


@pytest.fixture(autouse=True)
def _with_numba() -> Iterator[None]:
    jit.available.cache_clear()
    if not jit.available():
        if os.environ.get("AEVB_REQUIRE_JIT") == "1":
            pytest.fail("AEVB_REQUIRE_JIT=1: numba is not installed")
        pytest.skip("numba is not installed; python -m pip install 'aevb-engine[jit]'")
    yield
    jit.available.cache_clear()


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEVB_JIT", "0")
    jit.available.cache_clear()
    assert not jit.available()


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_to_the_bit(columns: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loops, arrays = (np.full((50, 70, columns), np.nan, dtype) for _ in range(2))
    Noise(np, 2**40 + 5, "noise").normal(1000, 3, loops)
    without(monkeypatch)
    Noise(np, 2**40 + 5, "noise").normal(1000, 3, arrays)
    np.testing.assert_array_equal(loops, arrays)


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.0, 0.125])
def test_optimizers(name: str, options: dict[str, Any], decay: float) -> None:
    optimizer = registry.create("optimizer", name, options)
    rng = np.random.default_rng(0)
    size = 1001
    theta = [rng.standard_normal(size) for _ in range(1)] * 2
    theta = [t.copy() for t in theta]
    states = [[np.zeros(size) for _ in optimizer.state] for _ in range(2)]
    loop = jit.update_loop(optimizer.scalar, len(optimizer.state))
    for step in range(1, 6):
        grad = rng.standard_normal(size)
        coef = np.array(optimizer.coefficients(step, 0.01))
        loop(grad, tuple(coef), decay, theta[0], *states[0])
        scratch = [np.empty(size) for _ in range(optimizer.scratch)]
        optimizer.update(np, grad + decay * theta[1], coef, scratch, theta[1], *states[1])
    np.testing.assert_allclose(theta[0], theta[1], rtol=1e-12)
    for a, b in zip(*states, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_training_agrees(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(
        dataset="simulated-normal", hidden=(16,), objective=objective, samples=2, steps=100, batch_size=50, threads=2
    )
    compiled = prepare(config).trainer.advance(50)
    without(monkeypatch)
    plain = prepare(config).trainer.advance(50)
    np.testing.assert_allclose(compiled, plain, atol=1e-4)
    assert (compiled[:, 2] != 0).all()


def test_dynamic_binarization_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    from aevb_engine.operation import Buffer
    from aevb_engine.training.step import ResidentRows
    from aevb_engine.training.trainer import Settings, Trainer

    grey = np.random.default_rng(0).integers(0, 256, (40, 31)).astype(np.uint8)

    def drawn() -> Any:
        session = prepare(RunConfig(dataset="simulated-binary", hidden=(8,), steps=1, batch_size=20))
        architecture = type(session.model.architecture)(31, 2, (8,))
        model = type(session.model)(architecture, session.model.likelihood, session.backend)
        model.parameters.initialize(0)
        data = ResidentRows(Buffer("data", grey), dynamic=True)
        trainer = Trainer(model, session.trainer.optimizer, data, Settings(batch=16, seed=5, threads=2))
        trainer.advance(3)
        return trainer.inner.ws.buffers["x"].array.copy()

    loops = drawn()
    without(monkeypatch)
    np.testing.assert_array_equal(loops, drawn())
    assert set(np.unique(loops)) == {0.0, 1.0}
