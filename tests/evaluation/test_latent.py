"""KL by latent dimension and active units: against the encoder written out, in any chunks, and where known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.evaluation.bound import Evaluator
from aevb_engine.evaluation.latent import RunningMoments, latent_use
from aevb_engine.model.model import Architecture, Model
from aevb_engine.operation import Buffer
from aevb_engine.training.step import ResidentRows

ROWS, DIM, LATENT = 23, 6, 3


def make(make_likelihood: Any, hidden: tuple[int, ...] = (5,)) -> tuple[Model, np.ndarray]:
    rng = np.random.default_rng(3)
    architecture = Architecture(DIM, LATENT, hidden, precision="float64")
    model = Model(architecture, make_likelihood("bernoulli"), NumpyBackend(2))
    model.parameters.theta[...] = 0.5 * rng.standard_normal(model.parameters.size)
    return model, (rng.random((ROWS, DIM)) < 0.4).astype(np.float64)


def resident(x: np.ndarray) -> ResidentRows:
    return ResidentRows(Buffer("data", x))


def test_agrees_with_the_encoder_written_out(make_likelihood: Any) -> None:
    model, x = make(make_likelihood)
    p = {name: parameter.theta.array for name, parameter in model.parameters.named.items()}
    head = np.tanh(x @ p["encoder.1.weight"] + p["encoder.1.bias"]) @ p["encoder.head.weight"] + p["encoder.head.bias"]
    mu, logvar = np.split(head, 2, axis=1)
    use = latent_use(model, resident(x))
    np.testing.assert_allclose(use.variance, mu.var(axis=0), rtol=1e-12)
    np.testing.assert_allclose(use.kl, (0.5 * (mu**2 + np.exp(logvar) - 1 - logvar)).mean(axis=0), rtol=1e-12)
    assert use.rows == ROWS


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (7, 2), (22, 1), (500, 2)])
def test_chunks_and_threads_change_nothing(batch: int, threads: int, make_likelihood: Any) -> None:
    """The last chunk is filled up with its last row, which must not count again."""
    model, x = make(make_likelihood)
    whole = latent_use(model, resident(x), batch=ROWS)
    use = latent_use(model, resident(x), batch=batch, threads=threads)
    np.testing.assert_allclose(use.kl, whole.kl, rtol=1e-12)
    np.testing.assert_allclose(use.variance, whole.variance, rtol=1e-12)


def test_dimensions_add_up_to_the_kl_of_the_bound(make_likelihood: Any) -> None:
    model, x = make(make_likelihood)
    assert latent_use(model, resident(x)).kl.sum() == pytest.approx(Evaluator(model, resident(x)).run()[:, 2].mean())


def test_an_unused_dimension_is_not_active(make_likelihood: Any) -> None:
    """A dimension whose q(z | x) is the prior has no KL and no variance; one just below the threshold is not active."""
    model, x = make(make_likelihood, hidden=())
    weight, bias = (model.parameters[f"encoder.head.{k}"].theta.array for k in ("weight", "bias"))
    weight[...], bias[...] = 0, 0
    deviation = x[:, 0].std()
    weight[0, :2] = 1.001 * 0.1 / deviation, 0.999 * 0.1 / deviation
    bias[2] = 3.0  # a mean far from zero that does not depend on x
    use = latent_use(model, resident(x))
    np.testing.assert_allclose(use.variance, [0.010020010, 0.00998001, 0], atol=1e-12)
    assert use.active == 1
    assert use.kl[2] == pytest.approx(4.5)


def test_running_moments_lose_nothing_far_from_zero() -> None:
    """Sums of squares in float64 would lose all sixteen digits here."""
    values = 1e8 + np.random.default_rng(1).standard_normal((1000, 2))
    moments = RunningMoments(2)
    for lo, hi in ((0, 1), (1, 40), (40, 1000)):
        moments.add(values[lo:hi])
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-15)
    np.testing.assert_allclose(moments.variance(), (values - 1e8).var(axis=0), rtol=1e-7)
    assert np.isnan(RunningMoments(2).variance(1)).all()
