"""The likelihood plugins: the public checks, extreme heads, the smooth floor, and what is said of bad data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from aevb_engine.errors import DataError
from aevb_engine.model.likelihood import Head, Likelihood, Support
from aevb_engine.testing import check_likelihood
from aevb_plugins.decoders.bernoulli import Bernoulli
from aevb_plugins.decoders.gaussian import Gaussian

NAMES = [
    "bernoulli",
    "laplace",
    "scalar",
    "codes",
    *(
        f"gaussian {m} {v} {f}"
        for m in ("linear", "sigmoid")
        for v in ("affine", "per_dim")
        for f in ("-7", "0", "none")
    ),
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_check_likelihood(name: str, seed: int, make_likelihood: Any) -> None:
    check_likelihood(make_likelihood(name), seed)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian sigmoid affine -7", "codes", "scalar"])
@pytest.mark.parametrize("columns", [1, 2, 65])
def test_check_likelihood_of_any_width(name: str, columns: int, make_likelihood: Any) -> None:
    check_likelihood(make_likelihood(name), points=3, samples=1, columns=columns)


# Bernoulli --------------------------------------------------------------------------------------------------


def _log_prob(x: np.ndarray, logit: np.ndarray, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """log p and its derivative by the logit; x (B, D), logit (B, D)."""
    a = (logit / 2).astype(dtype)[:, None]
    logp, da = np.full(a.shape[:2], np.nan, dtype), np.full_like(a, np.nan)
    scratch = [np.full_like(a, np.nan) for _ in range(2)]
    Bernoulli().log_prob_and_backward(np, x.astype(dtype)[:, None], a, logp=logp, dheads=[da], scratch=scratch)
    return logp[:, 0], da[:, 0] / 2


def _exact(x: float, logit: float) -> float:
    """x logit - log(1 + e^logit), without overflow."""
    u = logit if x == 1 else -logit
    return -math.log1p(math.exp(-u)) if u > 0 else u - math.log1p(math.exp(u))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 2e-5)])
def test_bernoulli_is_exact_up_to_logits_of_80(dtype: type, tolerance: float) -> None:
    logits = np.linspace(-80, 80, 321)
    for x in (0.0, 1.0):
        logp, dlogit = _log_prob(np.full((321, 1), x), logits[:, None], dtype)
        expected = [_exact(x, v) for v in logits]
        np.testing.assert_allclose(logp, expected, rtol=tolerance, atol=tolerance)
        slope = [x - 1 / (1 + math.exp(-v)) for v in logits]
        np.testing.assert_allclose(dlogit[:, 0], slope, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("logit", [80.0, 1e3, 1e30])
def test_bernoulli_does_not_overflow(logit: float, dtype: type) -> None:
    x = np.array([[1.0, 0.0], [0.0, 1.0]])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        logp, dlogit = _log_prob(x, np.tile([[logit, -logit]], (2, 1)), dtype)
    assert logp[0] == pytest.approx(0, abs=1e-6)
    assert logp[1] == pytest.approx(-2 * logit, rel=1e-6)
    np.testing.assert_allclose(dlogit, [[0, 0], [-1, 1]], atol=1e-6)


def test_bernoulli_products_equal_the_sum_of_logarithms() -> None:
    """For every width from 1 to 200 the logarithms of products are the sum of logarithms; extreme columns too."""
    rng = np.random.default_rng(21)
    for width in range(1, 201):
        logit = rng.standard_normal((2, width)) * 4
        logit[1] = 0 if width % 2 else 80  # all factors 1, or all 2
        x = rng.integers(0, 2, (2, width))
        x[1] = 1
        expected = [math.fsum(_exact(x[r, c], logit[r, c]) for c in range(width)) for r in range(2)]
        logp, _ = _log_prob(x, logit)
        np.testing.assert_allclose(logp, expected, rtol=1e-12, atol=1e-12, err_msg=f"width {width}")


# Gaussian ---------------------------------------------------------------------------------------------------


def _logvar(likelihood: Gaussian, raw: np.ndarray) -> np.ndarray:
    """The log-variance that a raw head becomes, from the density at the mean of one column."""
    n = raw.size
    logp = np.empty((n, 1), raw.dtype)
    scratch = [np.full((n, 1, 1), np.nan, raw.dtype) for _ in range(4)]
    zero = np.zeros((n, 1, 1), raw.dtype)
    likelihood.log_prob(np, zero, zero, raw.reshape(n, 1, 1), logp=logp, scratch=scratch)
    return -2 * logp[:, 0] - math.log(2 * math.pi)


@pytest.mark.parametrize("floor", [-7.0, 0.0, 3.5])
def test_gaussian_floor_is_a_softplus(floor: float) -> None:
    raw = np.concatenate([np.linspace(-30, 30, 121), [-1e4, 1e4]])
    out = _logvar(Gaussian(min_logvar=floor), raw)
    expected = [floor + max(0, v - floor) + math.log1p(math.exp(-abs(v - floor))) for v in raw]
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)
    assert (out >= floor - 1e-12).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 3e-6)])
@pytest.mark.parametrize("variance", ["affine", "per_dim"])
def test_gaussian_gradient_below_the_floor(variance: Any, dtype: type, tolerance: float) -> None:
    """1/2 ((x - mean)^2 / e^logvar - 1) sigmoid(raw - floor), which falls without end and never to zero."""
    likelihood, floor = Gaussian(mean="linear", variance=variance), -7.0
    raw = np.concatenate([np.arange(-40.0, -4.0), [0.0, 10.0, 30.0]])
    x = np.full((1, 1, raw.size), 0.5, dtype)
    dheads = [np.full((1, 1, raw.size), np.nan, dtype) for _ in range(2)]
    scratch = [np.full((1, 1, raw.size), np.nan, dtype) for _ in range(4)]
    likelihood.log_prob_backward(np, x, np.zeros_like(x), raw.astype(dtype)[None, None], dheads=dheads, scratch=scratch)
    logvar = [floor + max(0, v - floor) + math.log1p(math.exp(-abs(v - floor))) for v in raw]
    slope = [math.exp(v - floor) / (1 + math.exp(v - floor)) for v in raw]
    exact = [0.5 * (0.25 * math.exp(-v) - 1) * s for v, s in zip(logvar, slope, strict=True)]
    np.testing.assert_allclose(dheads[1][0, 0], exact, rtol=tolerance)


def test_gaussian_without_a_floor_and_with_another_unit() -> None:
    raw = np.linspace(-20, 20, 41)
    np.testing.assert_allclose(_logvar(Gaussian(min_logvar=None), raw), raw, atol=1e-12)
    moved, fixed = Gaussian(min_logvar=-7.0), Gaussian(min_logvar=-7.0 + 2 * math.log(255))
    moved.adapt(log_variance_unit=2 * math.log(255), unit_interval=False)
    np.testing.assert_allclose(_logvar(moved, raw), _logvar(fixed, raw), atol=1e-12)
    free = Gaussian(mean="linear", min_logvar=None)
    free.adapt(log_variance_unit=2 * math.log(255), unit_interval=True)
    np.testing.assert_allclose(_logvar(free, raw), raw, atol=1e-12)


@pytest.mark.parametrize("unit_interval", [True, False])
def test_gaussian_mean_follows_the_data_unless_it_is_named(unit_interval: bool) -> None:
    for mean, sigmoid in (("auto", unit_interval), ("linear", False), ("sigmoid", True)):
        likelihood = Gaussian(mean=mean)  # type: ignore[arg-type]
        likelihood.adapt(log_variance_unit=0.0, unit_interval=unit_interval)
        out = np.empty((1, 1, 1))
        likelihood.mean(np, np.full((1, 1, 1), 3.0), np.zeros((1, 1, 1)), mean=out)
        assert (out < 1).all() == sigmoid


def test_gaussian_density_follows_the_change_of_variables() -> None:
    """log p(raw) = log p(unit) - D log 255 where mean and deviation are scaled by 255."""
    rng = np.random.default_rng(22)
    x, mean, logvar = rng.standard_normal((3, 4, 1, 6))
    unit, raw = np.empty((2, 4, 1))
    for logp, s in ((unit, 1.0), (raw, 255.0)):
        scratch = [np.empty((4, 1, 6)) for _ in range(4)]
        heads = s * mean, logvar + 2 * math.log(s)
        Gaussian(min_logvar=None).log_prob(np, s * x, *heads, logp=logp, scratch=scratch)
    np.testing.assert_allclose(raw, unit - 6 * math.log(255), rtol=1e-12)


def test_gaussian_sigmoid_mean_is_within_the_unit_interval() -> None:
    head = np.array([[[-1e3, -2.0, 0.0, 2.0, 1e3]]]) / 2
    mean = np.empty_like(head)
    Gaussian(mean="sigmoid").mean(np, head, np.zeros_like(head), mean=mean)
    np.testing.assert_allclose(mean[0, 0], [0, 1 / (1 + math.e**2), 0.5, 1 / (1 + math.e**-2), 1], atol=1e-15)


# Heads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["per_dim", "scalar"])
def test_only_affine_heads_are_scaled(source: Any) -> None:
    """The factor is folded into the affine map; a free number is handed over as it is."""
    with pytest.raises(ValueError, match="scale is for affine heads"):
        Head("logvar", source=source, scale=0.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Head("m", source="Affine"), "did you mean 'affine'"),
        (lambda: Head("m", source="per_row"), "source 'per_row'"),
        (lambda: Support("positive", "density"), "kind 'positive'"),
        (lambda: Support("real", "probability"), "measure 'probability'"),
    ],
)
def test_misspelt_words_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_a_scalar_head_has_no_group() -> None:
    with pytest.raises(ValueError, match="no group"):
        Head("logvar", source="scalar", group=3)


# Support ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("support", "good", "bad", "hint"),
    [
        (Support("binary", "mass"), [0, 1, 1], [0, 0.5, 1], "--binarize threshold, static or dynamic"),
        (Support("binary", "mass"), [0, 0, 0], [0, 1, 2], "--binarize"),
        (Support("unit", "density"), [0, 0.3, 1], [0, 1.2, 1], r"rescale the data \(--scale unit\)"),
        (Support("unit", "density"), [0.5, 0.5, 0.5], [0, -0.1, 1], r"between -0.1 and 1"),
        (Support("count", "mass"), [0, 7, 1e6], [0, 1.5, 2], "counts 0, 1, 2"),
        (Support("count", "mass"), [3, 3, 3], [0, -1, 2], "counts"),
        (Support("codes", "mass", 4), [0, 3, 2], [0, 4, 2], "codes 0 to 3"),
        (Support("codes", "mass", 4), [0, 0, 0], [0, 2.5, 2], "codes 0 to 3"),
        (Support("real", "density"), [-1e30, 0, 1e30], [0, math.nan, 1], "NaN or infinite"),
        (Support("real", "density"), [0, 0, 0], [0, math.inf, 1], "NaN or infinite"),
        (Support("binary", "mass"), [0, 1, 0], [0, math.nan, 1], "NaN or infinite"),
    ],
)
def test_support(support: Support, good: list[float], bad: list[float], hint: str) -> None:
    support.check(np.array([good]), "training data")
    with pytest.raises(DataError, match=hint) as caught:
        support.check(np.array([bad]), "training data")
    assert str(caught.value).startswith("training data holds ")
    assert "\n" not in str(caught.value)


# check_likelihood can fail ----------------------------------------------------------------------------------


class _Broken(Likelihood):
    """A standard normal around its head, with one fault."""

    heads = (Head("mean"),)
    support = Support("real", "density")

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        if fault == "same names":
            self.heads = (Head("mean"), Head("mean"))
        if fault == "wrong support":
            self.support = Support("unit", "density")

    def scalar(self, exp: Any, log1p: Any) -> Any:
        shift = np.float32(0.001 if self.fault == "scalar, logp" else 0)
        factor = np.float32(1.001 if self.fault == "scalar, gradient" else 1)
        half, log_2pi = np.float32(0.5), np.float32(math.log(2 * math.pi))
        if self.fault == "scalar, count":
            return lambda x, mean: (x - mean,)
        if self.fault == "scalar, log1p":  # which the compiled loops have on [0, 1] alone
            return lambda x, mean: (log1p(np.float32(3)) - half * (x - mean) ** 2, x - mean)
        return lambda x, mean: (shift - half * ((x - mean) * (x - mean) + log_2pi), factor * (x - mean))

    def log_prob(self, xp: Any, x: Any, *heads: Any, logp: Any, scratch: Any) -> None:
        logp[...] = -0.5 * ((x - heads[0]) ** 2).sum(-1) - 0.5 * x.shape[-1] * math.log(2 * math.pi)
        if self.fault == "constant":
            logp += 0.001 * x.shape[-1]
        if self.fault == "rows":
            logp += 1e-9 * (logp - logp.mean())
        if self.fault == "scratch":
            logp += scratch[0].sum()
        if self.fault == "input":
            heads[0][0] += 1
        if self.fault == "float32" and x.dtype == np.float32:
            logp *= 1.01

    def log_prob_backward(self, xp: Any, x: Any, *heads: Any, dheads: Any, scratch: Any) -> None:
        dheads[0][...] = (x - heads[0]) * (1.00001 if self.fault == "gradient" else 1)
        if self.fault == "accumulates":
            dheads[0] += dheads[0]
        if self.fault == "not filled":
            dheads[0][0, 0, 0] = np.nan

    def log_prob_and_backward(self, xp: Any, x: Any, *heads: Any, logp: Any, dheads: Any, scratch: Any) -> None:
        super().log_prob_and_backward(xp, x, *heads, logp=logp, dheads=dheads, scratch=scratch)
        if self.fault == "both, logp":
            logp += 1e-6
        if self.fault == "both, gradient":
            dheads[0] *= 1.0001

    def mean(self, xp: Any, *heads: Any, mean: Any) -> None:
        mean[...] = heads[0] + 0.2 * (self.fault == "mean")

    def mean_backward(self, xp: Any, *heads: Any, dmean: Any, dheads: Any) -> None:
        dheads[0][...] = dmean * (1.0001 if self.fault == "mean gradient" else 1)

    def deviation(self, xp: Any, *heads: Any, deviation: Any) -> None:
        deviation[...] = {"spread": 1.001, "wide spread": 1.2, "negative spread": -1}.get(self.fault, 1)
        if self.fault == "no spread":
            deviation[0, 0, 0] = np.nan
        if self.fault == "spread moves":
            heads[0][0] += 1

    def sample(self, xp: Any, *heads: Any, draw: Any, x: Any) -> None:
        x[...] = heads[0] + draw.normal(0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("same names", "different names"),
        ("wrong support", "support"),
        ("constant", "total probability"),
        ("rows", "rows are not independent"),
        ("scratch", "reads scratch"),
        ("input", "input mean was modified"),
        ("float32", "float32"),
        ("gradient", "gradient of head mean is off"),
        ("accumulates", "gradient of head mean"),
        ("not filled", "not filled or not finite|rows are not independent"),
        ("both, logp", "log_prob_and_backward|rows are not independent"),
        ("both, gradient", "log_prob_and_backward"),
        ("mean", "samples and mean disagree"),
        ("mean gradient", "mean_backward of head mean"),
        ("spread", "the square of deviation is off the variance by 2.0e-03"),
        ("wide spread", "samples and deviation disagree"),
        ("negative spread", "deviation is not filled, or negative"),
        ("no spread", "deviation is not filled, or negative"),
        ("spread moves", "deviation modified a head"),
        ("scalar, logp", "scalar's log p"),
        ("scalar, gradient", "scalar's derivatives"),
        ("scalar, count", "scalar gives 1 numbers"),
        ("scalar, log1p", "scalar's log p"),
    ],
)
def test_check_likelihood_sees(fault: str, message: str) -> None:
    check_likelihood(_Broken())
    with pytest.raises(AssertionError, match=message) as caught:
        check_likelihood(_Broken(fault))
    assert "\n" not in str(caught.value)
