"""Statistical mistakes seen in well-known packages: a test for each, with the mistake made beside it and seen.

==========================================  ==========================================================================
mistake                                     tested here, and in
==========================================  ==========================================================================
bound averaged over unequal batches         below
KL divided by batch x pixels                objectives/test_exact.py (planted "KL divided by the columns"),
                                            objectives/test_gradients.py::test_a_gradient_does_not_depend_on_the_batch_size
wrong sign of the KL term                   objectives/test_exact.py, test_gradients.py (planted)
importance weights not normalised           objectives/test_gradients.py (iwae), test_exact.py (E[w] = p(x))
bias correction by epoch                    plugins/test_optimizers.py (the formula; here: the step it is given)
no reparameterization at evaluation         below
sample number ignored                       evaluation/test_importance.py (quadrature), below
validation on the test split                experiment/test_evaluate.py::test_splits_do_not_meet, below
training on training and test rows          below
==========================================  ==========================================================================
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.data.dataset import Dataset
from aevb_engine.evaluation.bound import Evaluator, summary
from aevb_engine.evaluation.importance import ImportanceSampler
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.evaluate import rows_of
from aevb_engine.experiment.session import prepare
from aevb_engine.model.model import Architecture, Model
from aevb_engine.operation import Buffer
from aevb_engine.training.step import ResidentRows
from aevb_engine.training.trainer import Settings, Trainer
from aevb_plugins.optimizers.adam import Adam

DIM, LATENT = 6, 2


def make(make_likelihood: Any, kind: str = "bernoulli", rows: int = 10, scale: float = 0.5) -> tuple[Model, np.ndarray]:
    rng = np.random.default_rng(8)
    hidden = () if kind.startswith("gaussian") else (4,)
    model = Model(Architecture(DIM, LATENT, hidden, precision="float64"), make_likelihood(kind), NumpyBackend(1))
    model.parameters.theta[...] = scale * rng.standard_normal(model.parameters.size)
    x = rng.standard_normal((rows, DIM)) if kind.startswith("gaussian") else (rng.random((rows, DIM)) < 0.5) * 1.0
    return model, x


def resident(x: np.ndarray) -> ResidentRows:
    return ResidentRows(Buffer("data", x))


def test_a_bound_is_averaged_over_data_points_not_batches(make_likelihood: Any) -> None:
    """Ten rows in batches of four, four and two: every row weighs a tenth."""
    model, x = make(make_likelihood)
    x[8:] = 1 - x[:2]  # rows unlike the others
    rows = Evaluator(model, resident(x), batch=4).run()
    alone = np.concatenate([Evaluator(model, resident(x), batch=1).run()[i : i + 1] for i in range(10)])
    found = summary(rows)["bound"]
    assert found == pytest.approx(alone[:, 0].mean(), rel=1e-12)
    mistaken = np.mean([rows[lo : lo + 4, 0].mean() for lo in (0, 4, 8)])
    assert abs(mistaken - found) > 1e-3


@pytest.mark.parametrize("name", ["elbo", "elbo-mc"])
def test_the_kl_term_is_a_sum_over_latent_dimensions_for_each_data_point(
    name: str, make_bound: Any, make_likelihood: Any
) -> None:
    """Neither the number of pixels nor the batch size enters: mu = 1, sigma = 1 in two dimensions is one nat."""
    for batch, dim in ((3, 5), (30, 5), (3, 50)):
        bound = make_bound(name, make_likelihood("bernoulli"), dim=dim, hidden=(), batch=batch, samples=400)
        bound.theta[...] = 0
        bound.parameter("encoder.head.bias")[:LATENT] = 1
        value = bound.forward()
        error = 0 if name == "elbo" else 5 * np.sqrt(LATENT / 400)  # of the mean of mu eps, five standard errors
        np.testing.assert_allclose(bound["kl"], 1, atol=error + 1e-12)
        np.testing.assert_allclose(value, -dim * np.log(2) - bound["kl"], rtol=1e-12)


@pytest.mark.parametrize("name", ["elbo", "elbo-mc", "iwae"])
def test_the_kl_term_lowers_the_bound(name: str, make_bound: Any, make_likelihood: Any) -> None:
    """A decoder that ignores z has log p(x) = -D log 2; a posterior away from the prior can only lose from there.

    And the gradient pulls it back: descending the loss lowers |mu|.
    """
    bound = make_bound(name, make_likelihood("bernoulli"), hidden=(), batch=500)
    bound.theta[...] = 0
    bound.parameter("encoder.head.bias")[:LATENT] = 1
    error = np.sqrt(LATENT / 500)  # of the mean of mu eps
    assert abs(bound.forward().mean() + 5 * np.log(2) + 1) < 5 * error < 0.5  # with the other sign it is 2 nats off
    head = bound.model.parameters["encoder.head.bias"]
    gradient = bound.gradient()[head.lo : head.lo + LATENT]
    assert (gradient > 0).all()


def test_importance_weights_are_normalised_over_the_samples_of_a_data_point(
    make_bound: Any, make_likelihood: Any
) -> None:
    """Minus the row weights of a data point are softmax(log w) / B: not w, no softmax over the batch, not 1 / (B L)."""
    bound = make_bound("iwae", make_likelihood("bernoulli"), hidden=(4,), batch=3, samples=6)
    bound.gradient()
    logw = bound["logw"].reshape(3, 6)
    weight = -bound["weight"].reshape(3, 6)
    right = np.exp(logw - np.logaddexp.reduce(logw, axis=1)[:, None]) / 3
    np.testing.assert_allclose(weight, right, rtol=1e-12)
    np.testing.assert_allclose(weight.sum(axis=1), 1 / 3, rtol=1e-12)
    for mistaken in (np.exp(logw) / 3, np.exp(logw - np.logaddexp.reduce(logw, axis=None)), np.full((3, 6), 1 / 18)):
        assert np.abs(mistaken - right).max() > 1e-3


class Watched(Adam):
    """Adam that notes which steps it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def coefficients(self, step: int, lr: float) -> tuple[float, ...]:
        self.asked.append(step)
        return super().coefficients(step, lr)


def test_bias_correction_counts_steps_not_epochs(make_likelihood: Any) -> None:
    """Five steps within one epoch ask for steps 1 to 5, also after a restored checkpoint.

    Then every step of a constant gradient has the size of the rate; counted by epochs the second would be 1.4 times it.
    """
    model, x = make(make_likelihood, rows=100)
    optimizer = Watched()
    trainer = Trainer(model, optimizer, resident(x), Settings(batch=10, lr=0.01))
    optimizer.asked.clear()
    trainer.advance(3)
    trainer.restore(3, trainer.arrays())
    trainer.advance(2)
    assert optimizer.asked == [1, 2, 3, 4, 5]

    def moved(steps: list[int]) -> list[float]:
        theta, state = np.zeros(1), [np.zeros(1) for _ in optimizer.state]
        places = [0.0]
        for step in steps:
            scratch = [np.empty(1) for _ in range(max(1, optimizer.scratch))]
            coef = np.array(Adam().coefficients(step, 0.01))
            optimizer.update(np, np.ones(1), coef, scratch, theta, *state)
            places.append(float(theta[0]))
        return [a - b for a, b in pairwise(places)]

    assert moved([1, 2, 3, 4, 5]) == pytest.approx([0.01] * 5, rel=1e-6)
    assert moved([1, 1, 1, 1, 1])[1] > 0.013


def test_evaluation_samples_from_the_posterior(make_likelihood: Any) -> None:
    """The held-out bound is an average over q(z | x), in closed form here, not its value at the mean of q."""
    model, x = make(make_likelihood, "gaussian linear per_dim none", rows=2000)
    p = {name: parameter.theta.array for name, parameter in model.parameters.named.items()}
    mu, logvar = np.split(x @ p["encoder.head.weight"] + p["encoder.head.bias"], 2, axis=1)
    weight, bias, noise = p["decoder.mean.weight"], p["decoder.mean.bias"], p["decoder.logvar"]
    residual = (x - mu @ weight - bias) ** 2
    constant = noise + np.log(2 * np.pi)
    at_mean = -0.5 * (residual / np.exp(noise) + constant).sum(1)
    exact = at_mean - 0.5 * (np.exp(logvar) @ weight**2 / np.exp(noise)).sum(1)
    difference = Evaluator(model, resident(x)).run()[:, 1] - exact
    error = difference.std() / np.sqrt(len(x))
    assert abs(difference.mean()) < 4 * error
    assert (at_mean - exact).mean() > 10 * error  # what the value at the mean would be off by


@pytest.mark.parametrize("samples", [2, 3, 7])
def test_the_number_of_samples_counts_below_the_batch_size(samples: int, make_likelihood: Any) -> None:
    """L_K of K < B samples is the mean of K weights: each sample adds one positive weight, of its own noise."""
    model, x = make(make_likelihood, rows=20)
    total = [k * np.exp(ImportanceSampler(model, resident(x), k).run().log_likelihood) for k in range(1, samples + 1)]
    added = np.diff(total, axis=0, prepend=0)
    assert (added > 0).all()
    assert (added.max(axis=0) / added.min(axis=0) > 1 + 1e-6).all()  # no two samples alike
    one, many = (Evaluator(model, resident(x), objective_name="iwae", samples=k, seed=2) for k in (1, samples))
    assert many.ws.many("z", LATENT).array.shape[0] == 20 * samples
    many.run()
    z = many.ws.many("z", LATENT).array.reshape(20, samples, LATENT)
    assert all(len({tuple(draw) for draw in point}) == samples for point in z)
    assert summary(many.run())["bound"] > summary(one.run())["bound"]


def test_validation_is_a_part_of_the_training_rows() -> None:
    """What early stopping follows is the bound of held-out training rows, and no test row is among them."""
    options = {"train": 300, "test": 100}
    config = RunConfig(dataset="simulated-binary", dataset_options=options, hidden=(8,), validation=0.2, backend="cpu")
    session = prepare(config)
    held, test, train = (rows_of(session, s) for s in ("validation", "test", "train"))
    assert (len(held), len(test), len(train)) == (60, 100, 240)
    assert session.held_out is not None
    assert session.held_out_is == "validation"
    found = session.held_out.run()
    evaluator = Evaluator(session.model, resident(held), seed=config.seed)
    np.testing.assert_array_equal(found, evaluator.run())
    assert found.shape != Evaluator(session.model, resident(test), seed=config.seed).run().shape
    sets = [{row.tobytes() for row in rows} for rows in (held, test, train)]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    session.backend.close()


def test_training_does_not_see_the_test_rows() -> None:
    """Other test rows, the same parameters to the bit; other training rows, others."""
    rng = np.random.default_rng(5)
    train, test = (rng.random((40, DIM)) < 0.5).astype(np.uint8), (rng.random((30, DIM)) < 0.5).astype(np.uint8)

    def trained(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        model = aevb.VAE(hidden=4, seed=1, batch_size=10, backend="cpu", threads=1)
        model.fit(Dataset("d", train, test), steps=20)  # five epochs of the training rows
        return np.array(model.model.parameters.theta)

    before = trained(train, test)
    np.testing.assert_array_equal(trained(train, 1 - test[:7]), before)
    assert (trained(1 - train, test) != before).any()
