"""Estimates to the last bit for every number of threads, chunk and number of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.evaluation import blocks, chains, importance
from aevb_engine.evaluation.ais import AnnealedImportanceSampler
from aevb_engine.evaluation.bound import Evaluator
from aevb_engine.evaluation.importance import ImportanceSampler
from aevb_engine.evaluation.latent import latent_use
from aevb_engine.evaluation.marginal import MarginalSampler
from aevb_engine.model.model import Architecture, Model
from aevb_engine.operation import Buffer
from aevb_engine.training.step import ResidentRows
from aevb_plugins.decoders.bernoulli import Bernoulli

COUNT = 45


def _ais(model: Model, data: ResidentRows, threads: int) -> Any:
    return AnnealedImportanceSampler(model, data, temperatures=6, chains=6, leapfrog_steps=4, threads=threads).run()


def _hmc(model: Model, data: ResidentRows, threads: int) -> Any:
    options: dict[str, Any] = {"burn_in": 20, "fit": 20, "samples": 20, "chains": 5, "leapfrog_steps": 2}
    return MarginalSampler(model, data, threads=threads, **options).run()


def _is(model: Model, data: ResidentRows, threads: int) -> Any:
    return ImportanceSampler(model, data, 300, threads=threads).run()


@pytest.fixture(scope="module")
def given() -> tuple[Model, np.ndarray]:
    """784-100-2 in float32, where products of few rows and of many round differently."""
    rng = np.random.default_rng(0)
    model = Model(Architecture(784, 2, (100,)), Bernoulli(), NumpyBackend(1))
    model.parameters.theta[...] = rng.normal(0, 0.15, model.parameters.size)
    return model, (rng.random((COUNT, 784)) < 0.3).astype(np.uint8)


def _rows(x: np.ndarray) -> ResidentRows:
    return ResidentRows(Buffer("data", x))


@pytest.mark.parametrize(("estimate", "fewest"), [(_ais, 1), (_hmc, 1), (_is, 5)])
def test_bits_do_not_depend_on_shares(
    estimate: Callable[..., Any], fewest: int, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads, less memory, fewer rows."""
    model, x = given
    monkeypatch.setattr(blocks, "ROWS", 64)
    whole = estimate(model, _rows(x), 1)
    names = [f.name for f in fields(whole) if f.name != "reason"]
    assert np.isfinite(whole.effective_samples).all()
    found = [(COUNT, estimate(model, _rows(x), 2)), (fewest, estimate(model, _rows(x[:fewest]), 3))]
    for module in (chains, importance):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 96)
    found += [(COUNT, estimate(model, _rows(x), threads)) for threads in (1, 2)]
    model.backend.close()
    for count, other in found:
        for name in names:
            np.testing.assert_array_equal(getattr(other, name), getattr(whole, name)[:count], err_msg=name)


def test_bounds_do_not_depend_on_threads(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = given
    monkeypatch.setattr(blocks, "ROWS", 8)
    found = [Evaluator(model, _rows(x), threads=threads).run() for threads in (1, 2, 3)]
    used = [latent_use(model, _rows(x), threads=threads) for threads in (1, 2, 3)]
    model.backend.close()
    for bounds, use in zip(found[1:], used[1:], strict=True):
        np.testing.assert_array_equal(bounds, found[0])
        np.testing.assert_array_equal(use.kl, used[0].kl)


def test_sizes() -> None:
    assert [blocks.block(n) for n in (1, 3, 4, 16, 17, 256, 1000)] == [256, 64, 64, 16, 8, 1, 1]
    assert blocks.chunk(10, 16, 2000) == 16
    assert blocks.chunk(1000, 16, 125) == 112
    assert blocks.chunk(1000, 16, 125, 16 * 10) == 160
    assert blocks.chunk(1000, 16, 3) == 16
