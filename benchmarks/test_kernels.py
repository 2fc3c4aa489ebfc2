"""Time of the widest kernels on a batch of 100 images: likelihoods with their gradient, optimizers, tanh."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aevb_engine import registry
from aevb_engine.kernels.tanh import tanh


@pytest.mark.parametrize("name", ["bernoulli", "gaussian"])
def test_likelihood(benchmark: Any, name: str) -> None:
    likelihood = registry.create("decoder", name)
    rng = np.random.default_rng(0)
    shape = (100, 1, 784)
    x = (rng.random(shape) < 0.5).astype(np.float32)
    heads = [rng.normal(size=shape).astype(np.float32) for _ in likelihood.heads]
    dheads = [np.empty(shape, np.float32) for _ in heads]
    scratch = [np.empty(shape, np.float32) for _ in range(likelihood.scratch)]
    logp = np.empty((100, 1), np.float32)
    benchmark(likelihood.log_prob_and_backward, np, x, *heads, logp=logp, dheads=dheads, scratch=scratch)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "adam", "rmsprop"])
def test_optimizer(benchmark: Any, name: str) -> None:
    optimizer = registry.create("optimizer", name)
    n = 1 << 15
    grad, theta, *state = (np.full(n, 1e-3, np.float32) for _ in range(2 + len(optimizer.state)))
    scratch = [np.empty(n, np.float32) for _ in range(max(1, optimizer.scratch))]
    coef = np.array(optimizer.coefficients(10, 1e-3), np.float32)
    benchmark(optimizer.update, np, grad, coef, scratch, theta, *state)


def test_tanh(benchmark: Any) -> None:
    x = np.random.default_rng(0).normal(size=(100, 500)).astype(np.float32)
    benchmark(tanh, np, x, np.empty_like(x))
