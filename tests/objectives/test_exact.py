"""Bounds against exact answers: the linear-Gaussian model in closed form, quadrature, and relations between bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

LOG_2PI = float(np.log(2 * np.pi))
LINEAR = "gaussian linear per_dim none"
EXACT = 1e-10


def sigma_points(batch: int, latent: int) -> np.ndarray:
    """2Z samples a data point, +-sqrt(Z) along each axis: their mean of any quadratic is its Gaussian expectation."""
    axes = np.sqrt(latent) * np.eye(latent)
    return np.tile(np.concatenate([axes, -axes]), (batch, 1))


def linear_gaussian(make_bound: Any, make_likelihood: Any, name: str, **sizes: Any) -> Any:
    """hidden = () and one variance a column: factor analysis, with an affine encoder."""
    return make_bound(name, make_likelihood(LINEAR), hidden=(), **sizes)


def encoded(bound: Any) -> tuple[np.ndarray, np.ndarray]:
    """mu and logvar (B, Z)."""
    head = bound.x @ bound.parameter("encoder.head.weight") + bound.parameter("encoder.head.bias")
    mu, logvar = np.split(head, 2, axis=1)
    return mu, logvar


def exact_bound(bound: Any) -> np.ndarray:
    """L^B in closed form (B,): E_q log p(x | z) of a quadratic, minus KL (LX 9, 25)."""
    mu, logvar = encoded(bound)
    weight, bias = bound.parameter("decoder.mean.weight"), bound.parameter("decoder.mean.bias")
    noise = bound.parameter("decoder.logvar")
    residual = (bound.x - mu @ weight - bias) ** 2 + np.exp(logvar) @ weight**2
    expected = -0.5 * (residual / np.exp(noise) + noise + LOG_2PI).sum(1)
    return expected - 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).sum(1)


def exact_log_likelihood(bound: Any) -> np.ndarray:
    """log N(x; bias, W^T W + diag e^noise) (B,)."""
    weight, bias = bound.parameter("decoder.mean.weight"), bound.parameter("decoder.mean.bias")
    covariance = weight.T @ weight + np.diag(np.exp(bound.parameter("decoder.logvar")))
    centred = bound.x - bias
    _, log_determinant = np.linalg.slogdet(covariance)
    mahalanobis = (centred @ np.linalg.inv(covariance) * centred).sum(1)
    return -0.5 * (mahalanobis + log_determinant + bound.x.shape[1] * LOG_2PI)


def put_exact_posterior(bound: Any) -> None:
    """Set the encoder to p(z | x) of a model with one latent dimension."""
    weight, bias = bound.parameter("decoder.mean.weight"), bound.parameter("decoder.mean.bias")
    precision = np.exp(-bound.parameter("decoder.logvar"))
    variance = 1 / (1 + (weight**2 * precision).sum())
    slope = variance * (weight * precision).ravel()
    bound.parameter("encoder.head.weight")[...] = np.stack([slope, np.zeros_like(slope)], axis=1)
    bound.parameter("encoder.head.bias")[...] = [-slope @ bias, np.log(variance)]


def distance_from_exact(bound: Any, latent: int) -> float:
    """How far a bound by sigma points is from the closed form."""
    bound.eps[...] = sigma_points(bound.batch, latent)
    return float(np.abs(bound.forward() - exact_bound(bound)).max())


@pytest.mark.parametrize("name", ["elbo", "elbo-mc"])
@pytest.mark.parametrize("latent", [1, 2, 4])
def test_bound_is_the_closed_form(name: str, latent: int, make_bound: Any, make_likelihood: Any) -> None:
    bound = linear_gaussian(make_bound, make_likelihood, name, latent=latent, samples=2 * latent, batch=6)
    assert distance_from_exact(bound, latent) < EXACT
    assert (exact_bound(bound) < exact_log_likelihood(bound)).all()


@pytest.mark.parametrize("name", ["elbo", "elbo-mc"])
def test_random_noise_averages_to_the_closed_form(name: str, make_bound: Any, make_likelihood: Any) -> None:
    draws = 4000
    bound = linear_gaussian(make_bound, make_likelihood, name, samples=draws, batch=4)
    values = bound.forward()
    logw = bound["logw" if name == "elbo-mc" else "logp"].reshape(4, draws)
    error = logw.std(1) / np.sqrt(draws)
    assert (np.abs(values - exact_bound(bound)) < 4.4 * error).all()  # 8 comparisons, 1 in 10,000 by chance
    assert (error < 0.1).all()


@pytest.mark.parametrize("name", ["elbo", "elbo-mc", "iwae"])
def test_exact_posterior_gives_the_log_likelihood(name: str, make_bound: Any, make_likelihood: Any) -> None:
    bound = linear_gaussian(make_bound, make_likelihood, name, latent=1, samples=2, batch=6)
    put_exact_posterior(bound)
    if name == "elbo":  # its reconstruction term alone varies with eps
        bound.eps[...] = sigma_points(6, 1)
    np.testing.assert_allclose(bound.forward(), exact_log_likelihood(bound), atol=EXACT)


def test_gradient_at_the_exact_posterior_is_that_of_the_log_likelihood(make_bound: Any, make_likelihood: Any) -> None:
    """Where the bound touches log p(x) the encoder's gradient is zero and the decoder's is d log p(x)."""
    bound = linear_gaussian(make_bound, make_likelihood, "elbo", latent=1, samples=2, batch=6)
    put_exact_posterior(bound)
    bound.eps[...] = sigma_points(6, 1)
    gradient = bound.gradient()
    named = bound.model.parameters.named
    for name, parameter in named.items():
        part = gradient[parameter.lo : parameter.hi]
        if name.startswith("encoder"):
            assert np.abs(part).max() < EXACT
            continue
        for i in range(part.size):
            flat = bound.theta[parameter.lo : parameter.hi]
            here, values = flat[i], []
            for step in (1e-5, -1e-5):
                flat[i] = here + step
                values.append(-exact_log_likelihood(bound).mean())
            flat[i] = here
            assert part[i] == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-8)


def gauss_hermite(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of an expectation over N(0, 1)."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return points, weights / weights.sum()


def mean_importance_ratio(bound: Any, weights: np.ndarray, log_likelihood: np.ndarray) -> np.ndarray:
    """E_q[w / p(x)] (B,) by quadrature over eps, which is exactly one."""
    bound.forward()
    logw = bound["logw"].reshape(bound.batch, bound.samples)
    return (weights * np.exp(logw - log_likelihood[:, None])).sum(1)


def test_importance_weights_average_to_p_of_x(make_bound: Any, make_likelihood: Any) -> None:
    points, weights = gauss_hermite(60)
    bound = linear_gaussian(make_bound, make_likelihood, "iwae", latent=1, samples=60, batch=5)
    bound.parameter("encoder.head.bias")[1] = 0.5  # wider than the posterior: the integrand is smooth
    bound.eps[...] = np.tile(points[:, None], (5, 1))
    ratio = mean_importance_ratio(bound, weights, exact_log_likelihood(bound))
    np.testing.assert_allclose(ratio, 1, atol=EXACT)


def test_bernoulli_by_quadrature(make_bound: Any, make_likelihood: Any) -> None:
    """log p(x) of a model with one latent dimension: over the prior by hand, and over q by the engine's weights."""
    points, weights = gauss_hermite(60)
    bound = make_bound("iwae", make_likelihood("bernoulli"), hidden=(4,), latent=1, samples=60, batch=5)
    bound.eps[...] = np.tile(points[:, None], (5, 1))
    hidden = np.tanh(points[:, None] @ bound.parameter("decoder.1.weight") + bound.parameter("decoder.1.bias"))
    logits = hidden @ bound.parameter("decoder.logit.weight") + bound.parameter("decoder.logit.bias")
    p = 1 / (1 + np.exp(-logits))
    likelihood = np.prod(np.where(bound.x[:, None] == 1, p, 1 - p), axis=2)
    log_likelihood = np.log((weights * likelihood).sum(1))
    np.testing.assert_allclose(mean_importance_ratio(bound, weights, log_likelihood), 1, atol=1e-8)


@pytest.mark.parametrize("likelihood", ["bernoulli", LINEAR, "codes"])
def test_iwae_with_one_sample_is_elbo_mc_draw_by_draw(likelihood: str, make_bound: Any, make_likelihood: Any) -> None:
    one, other = (make_bound(name, make_likelihood(likelihood), hidden=(4,), batch=7) for name in ("iwae", "elbo-mc"))
    np.testing.assert_allclose(one.forward(), other.forward(), rtol=1e-13)
    np.testing.assert_allclose(one.gradient(), other.gradient(), rtol=1e-12, atol=1e-14)


def test_subsets_of_the_samples_never_give_more(make_bound: Any, make_likelihood: Any) -> None:
    """The mean of L_m over the subsets of k samples is at most L_k, exactly (Burda et al., theorem 1)."""
    bound = make_bound("iwae", make_likelihood("bernoulli"), hidden=(4,), samples=6, batch=50)
    whole = bound.forward()
    logw = bound["logw"].reshape(50, 6)
    last = logw.mean(1)  # m = 1
    for m in (2, 3):
        blocks = logw.reshape(50, 6 // m, m)
        mean = np.log(np.exp(blocks).mean(2)).mean(1)
        assert (mean <= whole + 1e-12).all()
        assert (last <= mean + 1e-12).all()
    assert (last < whole).all()


def test_reported_terms_add_up(make_bound: Any, make_likelihood: Any) -> None:
    """bound = reconstruction - kl for the two plain bounds; kl is the same in expectation."""
    bounds = {
        n: linear_gaussian(make_bound, make_likelihood, n, latent=2, samples=4, batch=3) for n in ("elbo", "elbo-mc")
    }
    for bound in bounds.values():
        bound.eps[...] = sigma_points(3, 2)
        np.testing.assert_allclose(bound.forward(), bound["reconstruction"] - bound["kl"], atol=1e-12)
    np.testing.assert_allclose(bounds["elbo"]["kl"], bounds["elbo-mc"]["kl"], atol=EXACT)


# Planted errors ---------------------------------------------------------------------------------------------


def _after(bound: Any, name: str, change: Callable[[], None]) -> None:
    """Run ``change`` after the operation ``name``."""
    (place,) = (i for i, op in enumerate(bound.program.rows) if op.name == name)
    planted = type(bound.program.rows[place])(name + ", planted", lambda xp, rows: change, (), ())
    bound.program.rows.insert(place + 1, planted)


PLANTED = {
    "sign of the KL term": lambda b: _after(b, "kl", lambda: np.negative(b["kl"], out=b["kl"])),
    "KL divided by the columns": lambda b: _after(b, "kl", lambda: np.divide(b["kl"], 5, out=b["kl"])),
    "KL without its constant": lambda b: _after(b, "kl", lambda: np.add(b["kl"], 0.5 * 2, out=b["kl"])),
    "no normalising constant": lambda b: _after(
        b, "log_prob_and_backward", lambda: np.add(b["logp"], 2.5 * LOG_2PI, out=b["logp"])
    ),
    "variance taken for a deviation": lambda b: _after(
        b, "standard_deviation", lambda: np.square(b["sigma"], out=b["sigma"])
    ),
    "one sample for all": lambda b: _after(b, "reparameterize", lambda: b["z"].__setitem__(slice(None), b["z"][0])),
    "sum over samples": lambda b: _after(
        b, "mean_of_samples", lambda: np.multiply(b["reconstruction"], 4, out=b["reconstruction"])
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_error_is_caught(planted: str, make_bound: Any, make_likelihood: Any) -> None:
    bound = linear_gaussian(make_bound, make_likelihood, "elbo", latent=2, samples=4, batch=6)
    assert distance_from_exact(bound, 2) < EXACT
    PLANTED[planted](bound)
    assert distance_from_exact(bound, 2) > 1e6 * EXACT


def test_unnormalised_weights_are_caught(make_bound: Any, make_likelihood: Any) -> None:
    points, weights = gauss_hermite(60)
    bound = linear_gaussian(make_bound, make_likelihood, "iwae", latent=1, samples=60, batch=5)
    bound.parameter("encoder.head.bias")[1] = 0.5
    bound.eps[...] = np.tile(points[:, None], (5, 1))
    _after(bound, "log_weight", lambda: np.add(bound["logw"], 0.5 * LOG_2PI, out=bound["logw"]))
    ratio = mean_importance_ratio(bound, weights, exact_log_likelihood(bound))
    assert np.abs(ratio - 1).min() > 0.1
