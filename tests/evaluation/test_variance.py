"""Gradient estimators: one mean, the exact gradient; variances that agree with quadrature and fall as 1/M and 1/L."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from aevb_engine.evaluation import variance
from aevb_engine.evaluation.variance import ESTIMATORS, EncoderGradient, gradient_variance, study
from aevb_engine.operation import Buffer, custom
from aevb_engine.training.step import ResidentRows

LINEAR = "gaussian linear per_dim none"
ROWS, DIM, DRAWS = 5, 3, 1000


def exact(make_bound: Any, make_likelihood: Any) -> tuple[Any, np.ndarray, int]:
    """A linear-Gaussian bound over all rows, its exact gradient by the encoder (sigma points), and that range's end."""
    bound = make_bound("elbo", make_likelihood(LINEAR), dim=DIM, latent=1, hidden=(), batch=ROWS, samples=2)
    bound.eps[...] = np.tile([[1.0], [-1.0]], (ROWS, 1))
    end = max(p.hi for name, p in bound.model.parameters.named.items() if name.startswith("encoder."))
    return bound, bound.gradient()[:end], end


def sampler(bound: Any, name: str, batch: int, samples: int, seed: int = 0) -> EncoderGradient:
    return EncoderGradient(bound.model, ResidentRows(Buffer("data", bound.x.copy())), name, batch, samples, seed=seed)


def deviation(draws: np.ndarray, gradient: np.ndarray) -> float:
    """The largest difference of the mean of draws (R, P) from the gradient, in standard errors."""
    return float(np.abs((draws.mean(axis=0) - gradient) / (draws.std(axis=0, ddof=1) / np.sqrt(len(draws)))).max())


def test_every_estimator_has_the_exact_gradient_for_its_mean(make_bound: Any, make_likelihood: Any) -> None:
    """One in a thousand for all comparisons together (Sidak), at fixed seeds; a gradient 20 % off is seen."""
    bound, gradient, end = exact(make_bound, make_likelihood)
    limit = NormalDist().inv_cdf(1 - (1 - 0.999 ** (1 / (end * len(ESTIMATORS)))) / 2)
    for name in ESTIMATORS:
        source = sampler(bound, name, batch=4, samples=2)
        draws = np.stack([source.draw(r, r) for r in range(DRAWS)])
        assert deviation(draws, gradient) < limit
        if name != "score-function":  # whose noise hides so small an error
            assert deviation(draws, 1.2 * gradient) > limit
        assert deviation(draws, -gradient) > limit


def quadrature(bound: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """Variance between data points, and of the noise at L = 1: sums over the encoder's parameters."""
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    node = 0.0

    def fixed(clock: Any, eps: Buffer, *_: Any, **__: Any) -> Any:
        return custom("fixed", lambda xp, rows: lambda: eps.view(rows).fill(node), (), (eps,))

    monkeypatch.setattr(variance, "draw_noise", fixed)
    means, noise = [], 0.0
    for row in bound.x.copy():
        source = EncoderGradient(bound.model, ResidentRows(Buffer("data", row[None])), name, 1, 1)
        gradients = []
        for point in points:
            node = float(point)
            gradients.append(source.draw(0, 0))
        mean = weights @ np.stack(gradients)
        means.append(mean)
        noise += float(weights @ ((gradients - mean) ** 2).sum(axis=1)) / len(bound.x)
    monkeypatch.undo()
    return float(np.var(np.stack(means), axis=0).sum()), noise


def test_variances_are_those_of_quadrature(
    make_bound: Any, make_likelihood: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(V_x + V_eps / L) / M exactly, and for the score function far above the two others."""
    bound, _, _ = exact(make_bound, make_likelihood)
    noises = {}
    for name in ESTIMATORS:
        between, noise = quadrature(bound, name, monkeypatch)
        noises[name] = noise
        found = gradient_variance(sampler(bound, name, 4, 2, seed=2).draw, 400)
        assert abs(found[2] - noise / 8) < 3.6 * found[3]  # 6 comparisons, one in five hundred
        assert abs(found[0] - (between + noise / 2) / 4) < 3.6 * found[1]
        assert found[3] < 0.2 * found[2]
    assert 3 * max(noises["elbo"], noises["elbo-mc"]) < noises["score-function"]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_variance_falls_as_one_over_m_and_l(name: str, make_bound: Any, make_likelihood: Any) -> None:
    """M times the variance does not depend on M; L times its noise part does not depend on L."""
    bound, _, _ = exact(make_bound, make_likelihood)

    def measured(batch: int, samples: int) -> tuple[float, ...]:
        return gradient_variance(sampler(bound, name, batch, samples, seed=batch * samples).draw, 400)

    base, wide, deep = measured(2, 2), measured(16, 2), measured(2, 16)
    for value, factor, part in ((wide, 8, 0), (wide, 8, 2), (deep, 8, 2)):
        error = np.hypot(base[part + 1], factor * value[part + 1])
        assert abs(base[part] - factor * value[part]) < 3.9 * error  # 9 comparisons in all, one in a thousand
        assert error < 0.3 * base[part]  # a variance that falls as a square root would be off by 60 %
    assert deep[0] > deep[2]  # data points differ


def test_the_study_of_a_small_model(make_bound: Any, make_likelihood: Any) -> None:
    """Every cell once; the score function varies most, and what is drawn depends on the seed alone."""
    bound = make_bound("elbo", make_likelihood("bernoulli"), dim=20, latent=2, hidden=(8,), batch=40)
    data = ResidentRows(Buffer("data", bound.x.copy()))
    steps: list[tuple[int, int]] = []
    found = study(
        bound.model, data, batches=[5, 10], samples=[1, 3], replicates=40, progress=lambda *s: steps.append(s)
    )
    assert steps == [(i, 12) for i in range(1, 13)]
    cells = {(c.estimator, c.batch, c.samples): c for c in found}
    assert len(cells) == 12
    for m in (5, 10):
        for n in (1, 3):
            assert 3 * cells["elbo", m, n].noise < cells["score-function", m, n].noise
            assert cells["elbo", m, n].variance < cells["score-function", m, n].variance
    again = study(bound.model, data, batches=[5, 10], samples=[1, 3], replicates=40, threads=2)
    for one, two in zip(found, again, strict=True):
        assert one.variance == pytest.approx(two.variance, rel=1e-9)


def test_signal_is_free_of_the_noise() -> None:
    """Gradients N(0.1, V) in 50 dimensions: |E g|^2 without what the variance of the mean adds to it (0.14 here)."""
    rng = np.random.default_rng(4)
    found = []
    for _ in range(40):
        between, within = rng.standard_normal((400, 50)), rng.standard_normal((800, 50))
        found.append(gradient_variance(lambda i, j, b=between, w=within: 0.1 + b[i] + 0.5 * w[j], 400))
    mean = np.mean(found, axis=0)
    np.testing.assert_allclose(mean[[0, 2]], [50 * 1.25, 50 * 0.25], rtol=0.01)  # one run has an error of 1.5 %
    assert mean[4] == pytest.approx(50 * 0.1**2, abs=0.05)  # four standard errors
    # The stated errors are those between runs, up to the 11 % that 40 runs tell.
    np.testing.assert_allclose(np.std(found, axis=0)[[0, 2]] / mean[[1, 3]], 1, atol=0.4)


def test_what_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="3 replicates"):
        gradient_variance(lambda i, j: np.zeros(1), 3)
