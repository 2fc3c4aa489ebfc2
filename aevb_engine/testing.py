"""Checks for plugin authors, to be called in a test: what does not hold raises AssertionError in one line.

from aevb_engine.testing import check_likelihood
def test_laplace(): check_likelihood(Laplace())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.errors import DataError
from aevb_engine.model.likelihood import Head, Likelihood, Support
from aevb_engine.training.optimizer import Optimizer

Array = npt.NDArray[Any]
SPACING = 1e-5  # of central differences in float64: truncation and rounding are both about 1e-10
ROUNDING = 1e-12  # how far one row may move when other rows are absent or elsewhere
GRADIENT = 1e-6  # relative error of a derivative
STANDARD_ERRORS = 5.0


class Draw:
    """What ``Likelihood.sample`` draws from: ``uniform(i)`` in [0, 1) and ``normal(i)``, independent for each i; and
    ``scratch(i)``."""

    def __init__(self, seed: int, shape: tuple[int, ...], dtype: Any = np.float64) -> None:
        self.seed, self.shape, self.dtype = seed, shape, dtype

    def uniform(self, i: int) -> Array:
        return np.random.default_rng([self.seed, 0, i]).random(self.shape).astype(self.dtype)

    def normal(self, i: int) -> Array:
        return np.random.default_rng([self.seed, 1, i]).standard_normal(self.shape).astype(self.dtype)

    def scratch(self, i: int) -> Array:
        return np.full(self.shape, np.nan, self.dtype)


def central_difference(function: Callable[[Array], Any], point: Array, direction: Array) -> Any:
    """[f(point + h direction) - f(point - h direction)] / 2h, whatever shape f has."""
    step = SPACING * direction
    return (function(point + step) - function(point - step)) / (2 * SPACING)


# Likelihoods ------------------------------------------------------------------------------------------------


def check_likelihood(
    likelihood: Likelihood, rng_seed: int = 0, *, points: int = 5, samples: int = 3, columns: int = 7
) -> None:
    """Everything the engine relies on, in float64 on random heads.

    Shapes, untouched inputs, row independence, gradients, mean, samples, support and total probability; deviation,
    where it is offered, against samples and density; and that float32 and the scalar text, where there is one, agree.
    ``points``, ``samples`` and ``columns`` are the B, L and D of the trial.
    """
    trial = _Trial(likelihood, rng_seed, points, samples, columns)
    _check_declaration(likelihood)
    _check_log_prob(trial)
    _check_rows(trial)
    _check_gradient(trial)
    _check_mean_gradient(trial)
    _check_samples(likelihood, rng_seed, columns)
    _check_total(likelihood, rng_seed)
    _check_float32(trial)
    _check_scalar(trial)


class _Trial:
    """A likelihood with random data x (B, 1, D) and random heads."""

    def __init__(self, likelihood: Likelihood, seed: int, points: int, samples: int, columns: int) -> None:
        self.likelihood = likelihood
        rng = np.random.default_rng(seed)
        self.rng = rng
        self.x = _values(likelihood.support, rng, (points, 1, columns))
        self.heads = [_head(h, rng, points, samples, columns) for h in likelihood.heads]

    def log_prob(self, x: Array, heads: Sequence[Array]) -> Array:
        """logp (B, L); outputs and scratch hold NaN before."""
        shape = _full(x, heads)
        logp = np.full(shape[:2], np.nan, x.dtype)
        with np.errstate(all="ignore"):
            self.likelihood.log_prob(np, x, *heads, logp=logp, scratch=_nan(self.likelihood, shape, x.dtype))
        return logp

    def gradients(self, x: Array, heads: Sequence[Array], both: bool) -> tuple[Array, list[Array]]:
        """logp (NaN unless ``both``) and dheads."""
        shape = _full(x, heads)
        logp = np.full(shape[:2], np.nan, x.dtype)
        dheads = [np.full(_gradient_shape(h, shape), np.nan, x.dtype) for h in self.likelihood.heads]
        scratch = _nan(self.likelihood, shape, x.dtype)
        with np.errstate(all="ignore"):
            if both:
                self.likelihood.log_prob_and_backward(np, x, *heads, logp=logp, dheads=dheads, scratch=scratch)
            else:
                self.likelihood.log_prob_backward(np, x, *heads, dheads=dheads, scratch=scratch)
        return logp, dheads

    def mean(self, heads: Sequence[Array]) -> Array:
        mean = np.full(_full(self.x, heads), np.nan, self.x.dtype)
        with np.errstate(all="ignore"):
            self.likelihood.mean(np, *heads, mean=mean)
        return mean


def _check_declaration(likelihood: Likelihood) -> None:
    names = [h.name for h in likelihood.heads]
    _require(bool(names) and len(set(names)) == len(names), likelihood, f"heads {names} must have different names")


def _check_log_prob(trial: _Trial) -> None:
    x, heads = trial.x, trial.heads
    before = [a.copy() for a in (x, *heads)]
    logp = trial.log_prob(x, heads)
    who = trial.likelihood
    problem = "log_prob left NaN or infinite values: it reads scratch or does not fill logp"
    _require(bool(np.isfinite(logp).all()), who, problem)
    trial.gradients(x, heads, both=False)
    trial.gradients(x, heads, both=True)
    trial.mean(heads)
    for name, old, new in zip(("x", *(h.name for h in who.heads)), before, (x, *heads), strict=True):
        _require(bool((old == new).all()), who, f"input {name} was modified")
    _require(_accepts(who, x), who, "support.check rejects values that its own kind describes")


def _check_rows(trial: _Trial) -> None:
    """Permuting and splitting data points, and samples, changes nothing."""
    who, x, heads = trial.likelihood, trial.x, trial.heads
    logp, dheads = trial.gradients(x, heads, both=True)
    for axis, what in ((0, "data points"), (1, "samples")):
        count = logp.shape[axis]
        shares = [trial.rng.permutation(count), *(np.arange(i, i + 1) for i in range(count))]
        for share in shares:
            some = [_take(a, share, axis) for a in (x, *heads)]
            part, dpart = trial.gradients(some[0], some[1:], both=True)
            alone = trial.log_prob(some[0], some[1:])
            pairs = [(logp, part), (logp, alone), *zip(dheads, dpart, strict=True)]
            good = all(_near(np.take(a, share, axis), b, ROUNDING) for a, b in pairs)
            _require(good, who, f"rows are not independent: permuting or splitting the {what} changes them")


def _check_gradient(trial: _Trial) -> None:
    who, x, heads = trial.likelihood, trial.x, trial.heads
    logp = trial.log_prob(x, heads)
    _, dheads = trial.gradients(x, heads, both=False)
    together, dtogether = trial.gradients(x, heads, both=True)
    _require(_near(logp, together, 1e-10), who, "log_prob_and_backward gives another logp than log_prob")
    for i, head in enumerate(who.heads):
        name = f"gradient of head {head.name}"
        _require(bool(np.isfinite(dheads[i]).all()), who, f"{name} is not filled or not finite")
        _require(_near(dheads[i], dtogether[i], 1e-10), who, f"{name} is another in log_prob_and_backward")
        direction = trial.rng.standard_normal(heads[i].shape)

        def moved(value: Array, i: int = i) -> Array:
            return trial.log_prob(x, [*heads[:i], value, *heads[i + 1 :]])

        numeric = central_difference(moved, heads[i], direction)
        terms = dheads[i] * direction
        axes = tuple(range(2, terms.ndim))
        error = float((np.abs(terms.sum(axes) - numeric) / (1 + np.abs(terms).sum(axes))).max())
        _require(error < GRADIENT, who, f"{name} is off by {error:.1e} (relative)")


def _check_mean_gradient(trial: _Trial) -> None:
    """mean_backward, where the likelihood offers it."""
    who, heads = trial.likelihood, trial.heads
    if type(who).mean_backward is Likelihood.mean_backward:
        return
    mean = trial.mean(heads)
    dmean = trial.rng.standard_normal(mean.shape)
    dheads = [np.full(_gradient_shape(h, mean.shape), np.nan) for h in who.heads]
    who.mean_backward(np, *heads, dmean=dmean, dheads=dheads)
    for i, head in enumerate(who.heads):
        direction = trial.rng.standard_normal(heads[i].shape)

        def moved(value: Array, i: int = i) -> Any:
            return (trial.mean([*heads[:i], value, *heads[i + 1 :]]) * dmean).sum()

        numeric = central_difference(moved, heads[i], direction)
        terms = dheads[i] * direction
        error = abs(float(terms.sum()) - float(numeric)) / (1 + float(np.abs(terms).sum()))
        _require(error < GRADIENT, who, f"mean_backward of head {head.name} is off by {error:.1e} (relative)")


def _check_samples(likelihood: Likelihood, seed: int, columns: int, draws: int = 5000, rows: int = 4) -> None:
    """Samples have the shape of the mean, lie inside the support, average to the mean, and spread as told."""
    rng = np.random.default_rng([seed, 1])
    heads = [_head(h, rng, 1, rows, columns) for h in likelihood.heads]
    many = _repeat(likelihood, heads, draws)
    shape = (draws, rows, columns)
    mean, x = np.full((1, rows, columns), np.nan), np.full(shape, np.nan)
    likelihood.mean(np, *heads, mean=mean)
    _require(bool(np.isfinite(mean).all()), likelihood, "mean is not filled or not finite")
    likelihood.sample(np, *many, draw=Draw(seed, shape), x=x)
    _require(_accepts(likelihood, x), likelihood, "samples lie outside the support")
    error = np.abs(x.mean(0) - mean[0])
    allowed = STANDARD_ERRORS * x.std(0) / np.sqrt(draws) + 1e-9
    worst = float((error / allowed).max()) * STANDARD_ERRORS
    _require(worst < STANDARD_ERRORS, likelihood, f"samples and mean disagree by {worst:.1f} standard errors")
    if not _offers_deviation(likelihood):
        return
    deviation = np.full((1, rows, columns), np.nan)
    before = [h.copy() for h in heads]
    likelihood.deviation(np, *heads, deviation=deviation)
    same = all(bool((a == b).all()) for a, b in zip(before, heads, strict=True))
    _require(same, likelihood, "deviation modified a head")
    _require(bool((deviation[0] >= 0).all()), likelihood, "deviation is not filled, or negative")
    squares = (x - mean[0]) ** 2
    error = np.abs(squares.mean(0) - deviation[0] ** 2)
    worst = float((error / (squares.std(0) / np.sqrt(draws) + 1e-9)).max())
    _require(worst < STANDARD_ERRORS, likelihood, f"samples and deviation disagree by {worst:.1f} standard errors")


def _check_total(likelihood: Likelihood, seed: int, rows: int = 4) -> None:
    """Probabilities of one column sum, or integrate, to one."""
    rng = np.random.default_rng([seed, 2])
    for _ in range(rows):
        heads = [_head(h, rng, 1, 1, 1) for h in likelihood.heads]
        grid, measure, tolerance = _grid(likelihood, heads, seed)
        if grid is None:
            return
        x = grid.reshape(-1, 1, 1)
        many = _repeat(likelihood, heads, len(x))
        logp = np.full((len(x), 1), np.nan)
        with np.errstate(all="ignore"):
            likelihood.log_prob(np, x, *many, logp=logp, scratch=_nan(likelihood, (len(x), 1, 1), x.dtype))
        total = float((np.exp(logp[:, 0]) * measure).sum())
        _require(abs(total - 1) < tolerance, likelihood, f"total probability of one column is 1 {total - 1:+.2g}")
        if _offers_deviation(likelihood):
            weight = np.exp(logp[:, 0]) * measure
            variance = float((weight * grid**2).sum() - (weight * grid).sum() ** 2)
            told = np.full((1, 1, 1), np.nan)
            likelihood.deviation(np, *heads, deviation=told)
            error = abs(float(told[0, 0, 0]) ** 2 / variance - 1)
            _require(error < 1e-3, likelihood, f"the square of deviation is off the variance by {error:.1e} (relative)")


def _offers_deviation(likelihood: Likelihood) -> bool:
    return type(likelihood).deviation is not Likelihood.deviation


def _grid(likelihood: Likelihood, heads: Sequence[Array], seed: int) -> tuple[Array | None, Any, float]:
    """Values of one column, the measure of each, and how near to one their total must come."""
    support = likelihood.support
    if support.measure == "mass":
        sizes = {"binary": 2, "codes": support.levels, "count": 2000}
        return (np.arange(sizes[support.kind], dtype=float), 1.0, 1e-9) if support.kind in sizes else (None, 1.0, 0.0)
    t = np.linspace(-30, 30, 60001)
    if support.kind == "unit":
        grid = 1 / (1 + np.exp(-t))
        return grid, grid * (1 - grid) * (t[1] - t[0]), 1e-4
    if support.kind == "real":
        x = np.empty((999, 1, 1))
        many = _repeat(likelihood, heads, len(x))
        likelihood.sample(np, *many, draw=Draw(seed, x.shape), x=x)
        low, centre, high = np.quantile(x, (0.25, 0.5, 0.75))
        scale = max(float(high - low), 1e-6)
        return centre + scale * np.sinh(t), scale * np.cosh(t) * (t[1] - t[0]), 1e-4
    return None, 1.0, 0.0


def _check_float32(trial: _Trial) -> None:
    wide = trial.log_prob(trial.x, trial.heads)
    x, *heads = (a.astype(np.float32) for a in (trial.x, *trial.heads))
    narrow = trial.log_prob(x, heads)
    _require(_near(wide, narrow, 1e-3), trial.likelihood, "log_prob in float32 differs from float64")


def _check_scalar(trial: _Trial) -> None:
    """One column at a time, on numbers: the text of the compiled loop."""
    scalar = trial.likelihood.scalar(np.exp, _log1p)
    if scalar is None:
        return
    x, heads = trial.x.astype(np.float32), [h.astype(np.float32) for h in trial.heads]
    logp, dheads = trial.gradients(x, heads, both=True)
    found = [np.empty(np.shape(logp) + x.shape[2:], np.float32) for _ in range(1 + len(heads))]
    columns = [np.broadcast_to(a, found[0].shape) for a in (x, *heads)]
    with np.errstate(all="ignore"):
        for at in np.ndindex(found[0].shape):
            values = scalar(*(c[at] for c in columns))
            _require(len(values) == len(found), trial.likelihood, f"scalar gives {len(values)} numbers")
            for out, value in zip(found, values, strict=True):
                out[at] = value
    same = _near(found[0].sum(-1), logp, 1e-4)
    _require(same, trial.likelihood, "scalar's log p differs from log_prob")
    same = all(_near(a, b, 1e-4) for a, b in zip(found[1:], dheads, strict=True))
    _require(same, trial.likelihood, "scalar's derivatives differ from log_prob_backward")


def _log1p(x: Any) -> Any:
    """As the compiled loops have it: of numbers in [0, 1] alone."""
    return np.where((np.asarray(x) >= 0) & (np.asarray(x) <= 1), np.log1p(x), np.nan)[()]


def _values(support: Support, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Random data inside a support, as float64."""
    kind = support.kind
    if kind == "real":
        return rng.standard_normal(shape)
    if kind == "unit":
        return rng.uniform(0.02, 0.98, shape)
    top = {"binary": 2, "count": 6, "codes": support.levels}[kind]
    return rng.integers(0, top, shape).astype(np.float64)


def _head(head: Head, rng: np.random.Generator, points: int, samples: int, columns: int) -> Array:
    """Random values of a head as the engine shapes it."""
    group = (head.group,) if head.group > 1 else ()
    if head.source == "scalar":
        return rng.standard_normal((1, 1, 1))
    rows = (points, samples) if head.source == "affine" else (1, 1)
    return rng.standard_normal((*rows, columns, *group))


def _repeat(likelihood: Likelihood, heads: Sequence[Array], count: int) -> list[Array]:
    """Heads of one data point for ``count`` of them."""
    pairs = zip(heads, likelihood.heads, strict=True)
    return [np.repeat(h, count, axis=0) if declared.source == "affine" else h for h, declared in pairs]


def _gradient_shape(head: Head, full: tuple[int, ...]) -> tuple[int, ...]:
    return (*full, head.group) if head.group > 1 else full


def _full(x: Array, heads: Sequence[Array]) -> tuple[int, int, int]:
    """(B, L, D)"""
    return x.shape[0], max(h.shape[1] for h in heads), x.shape[2]


def _nan(likelihood: Likelihood, shape: tuple[int, ...], dtype: Any) -> list[Array]:
    return [np.full(shape, np.nan, dtype) for _ in range(likelihood.scratch)]


def _take(array: Array, share: Array, axis: int) -> Array:
    """Some rows, where the array is not shared by all of them."""
    return array if array.shape[axis] == 1 else np.ascontiguousarray(np.take(array, share, axis))


def _near(a: Array, b: Array, tolerance: float) -> bool:
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance))


def _accepts(likelihood: Likelihood, x: Array) -> bool:
    """True where the support accepts x (B, L, D)."""
    try:
        likelihood.support.check(x.reshape(-1, x.shape[-1]), "samples")
    except DataError:
        return False
    return True


def _require(good: bool, plugin: object, problem: str) -> None:
    if not good:
        raise AssertionError(f"{type(plugin).__name__}: {problem}")


# Optimizers -------------------------------------------------------------------------------------------------


def check_optimizer(optimizer: Optimizer, rng_seed: int = 0, *, size: int = 67, steps: int = 12) -> None:
    """Everything the engine relies on, in float32 and float64.

    Elementwise updates in place, coefficients of constant length, finite state from zero, a falling quadratic at the
    default rate, and a zero gradient that does no harm. ``size`` parameters take ``steps`` random gradients.
    """
    lr = optimizer.default_lr
    counts = {len(optimizer.coefficients(step, lr)) for step in (1, 2, 10, 1_000_000)}
    _require(len(counts) == 1, optimizer, f"coefficients have changing lengths {sorted(counts)}")
    _require(len(set(optimizer.state)) == len(optimizer.state), optimizer, f"state {optimizer.state} repeats a name")
    bad = next((n for n in optimizer.state if not n.isidentifier()), None)
    _require(bad is None, optimizer, f"state '{bad}': the name must be an identifier")
    rng = np.random.default_rng(rng_seed)
    for dtype in (np.float32, np.float64):
        start = rng.standard_normal(size).astype(dtype)
        gradients = rng.standard_normal((steps, size)).astype(dtype)
        whole = _descend(optimizer, start, gradients, [0, size])
        tolerance = 1e-6 if dtype is np.float32 else 1e-13
        for cuts in ([0, 1, size], [0, size // 2, size - 3, size]):
            parts = _descend(optimizer, start, gradients, cuts)
            same = all(_near(a, b, tolerance) for a, b in zip(whole, parts, strict=True))
            _require(same, optimizer, "update is not elementwise: splitting the range changes the result")
        finite = all(np.isfinite(a).all() for a in whole)
        _require(finite, optimizer, "theta or state is not finite after random gradients")
        _require(bool((whole[0] != start).any()), optimizer, "update leaves theta alone: it must work in place")
        still = _descend(optimizer, start, np.zeros_like(gradients), [0, size])
        finite = all(np.isfinite(a).all() for a in still)
        _require(finite, optimizer, "a gradient of zero makes theta or state non-finite")
        if optimizer.still_at_zero:
            same = bool((still[0] == start).all()) and not any(s.any() for s in still[1:])
            _require(same, optimizer, "still_at_zero is set, and a gradient of zero moves theta or state")
    _check_descent(optimizer)
    _check_scalar_update(optimizer, rng.standard_normal(size), rng.standard_normal((steps, size)))


def _check_scalar_update(optimizer: Optimizer, start: Array, gradients: Array) -> None:
    """On numbers, one parameter after the other: the text of the compiled loop."""
    if optimizer.scalar is None:
        return
    start, gradients = start.astype(np.float32), gradients.astype(np.float32)
    expected = _descend(optimizer, start, gradients, [0, len(start)])
    found = [start.copy(), *(np.zeros_like(start) for _ in optimizer.state)]
    for step, gradient in enumerate(gradients, 1):
        coef = np.array(optimizer.coefficients(step, optimizer.default_lr), np.float32)
        for i, grad in enumerate(gradient):
            values = optimizer.scalar(grad, coef, *(a[i] for a in found))
            _require(len(values) == len(found), optimizer, f"scalar gives {len(values)} numbers, not {len(found)}")
            for array, value in zip(found, values, strict=True):
                array[i] = value
    moved = float(np.abs(expected[0] - start).max())  # which may be little beside theta and its rounding
    same = _near((found[0] - start) / moved, (expected[0] - start) / moved, 2e-3 + 2e-6 / moved)
    same = same and all(_near(a, b, 1e-4) for a, b in zip(found[1:], expected[1:], strict=True))
    _require(same, optimizer, "scalar differs from update")


def _descend(optimizer: Optimizer, start: Array, gradients: Array, cuts: Sequence[int]) -> list[Array]:
    """theta and the state after all gradients, updating each range between two cuts apart."""
    theta = start.copy()
    state = [np.zeros_like(start) for _ in optimizer.state]
    for step, gradient in enumerate(gradients, 1):
        _update(optimizer, step, gradient, theta, state, cuts)
    return [theta, *state]


def _update(
    optimizer: Optimizer, step: int, gradient: Array, theta: Array, state: Sequence[Array], cuts: Sequence[int]
) -> None:
    coef = np.array(optimizer.coefficients(step, optimizer.default_lr), theta.dtype)
    before = coef.copy()
    grad = gradient.copy()
    for lo, hi in pairwise(cuts):
        scratch = [np.full(hi - lo, np.nan, theta.dtype) for _ in range(max(1, optimizer.scratch))]
        optimizer.update(np, grad[lo:hi], coef, scratch, theta[lo:hi], *(s[lo:hi] for s in state))
    _require(bool((coef == before).all()), optimizer, "update modified its coefficients")


def _check_descent(optimizer: Optimizer, steps: int = 200) -> None:
    theta = np.array([1.0, -1.0, 0.5])
    state = [np.zeros(3) for _ in optimizer.state]
    before = float((theta**2).sum())
    for step in range(1, steps + 1):
        _update(optimizer, step, theta.copy(), theta, state, [0, 3])
    after = float((theta**2).sum())
    _require(after < before, optimizer, f"a quadratic rose from {before:g} to {after:g} in {steps} steps")
