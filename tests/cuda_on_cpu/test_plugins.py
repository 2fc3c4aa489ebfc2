"""The CUDA text of decoder and optimizer plugins against their array code."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from aevb_engine.cuda import module
from aevb_engine.cuda.likelihood import likelihood
from aevb_engine.model.likelihood import Likelihood
from tests.cuda_on_cpu.catalog import likelihoods, of_likelihood, of_optimizer, optimizers, plugins
from tests.cuda_on_cpu.guard import Guarded, close
from tests.cuda_on_cpu.runner import SCHEDULES, compile_text

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

NUMBERS = [np.float32, np.float64]
SHAPES = [(1, 1, 1), (9, 3, 31), (9, 1, 33), (2, 3, 100), (3, 1, 257), (2, 2, 300)]


@pytest.fixture(autouse=True)
def _defined(capfd: pytest.CaptureFixture[str]) -> Any:
    """No test here may report undefined behaviour: one schedule runs the sanitized build."""
    yield
    assert "runtime error" not in capfd.readouterr().err


def _trial(plugin: Likelihood, shape: tuple[int, int, int], dtype: Any) -> tuple[Any, list[Any]]:
    """x (B, 1, D) in the support, and heads on both sides of every bend."""
    b, _, d = shape
    rng = np.random.default_rng(8)
    x = rng.standard_normal((b, 1, d))
    if plugin.support.kind == "binary":
        x = x > 0
    elif plugin.support.kind == "codes":
        x = rng.integers(0, plugin.support.levels, (b, 1, d))
    heads = []
    for head in plugin.heads:
        axes = {"affine": shape, "per_dim": (1, 1, d), "scalar": (1, 1, 1)}[head.source]
        values = 2 * rng.standard_normal((*axes, head.group) if head.group > 1 else axes)
        heads.append(values - 5 if head.name == "logvar" and plugin.__dict__["floor"] is not None else values)
    return x.astype(dtype), [h.astype(dtype) for h in heads]


def _expected(plugin: Likelihood, x: Any, heads: list[Any], shape: tuple[int, int, int]) -> tuple[Any, list[Any]]:
    x, heads = x.astype(np.float64), [h.astype(np.float64) for h in heads]
    scratch = [np.empty(shape) for _ in range(plugin.scratch)]
    dheads = [np.empty((*shape, h.group) if h.group > 1 else shape) for h in plugin.heads]
    logp = np.empty(shape[:2])
    plugin.log_prob_and_backward(np, x, *heads, logp=logp, dheads=dheads, scratch=scratch)
    return logp, dheads


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", likelihoods())
def test_likelihood(name: str, shape: tuple[int, int, int], dtype: Any) -> None:
    plugin = likelihoods()[name]
    x, heads = _trial(plugin, shape, dtype)
    logp, dheads = _expected(plugin, x, heads, shape)
    sources = [of_likelihood(name, gradient) for gradient in (False, True)]
    for schedule in SCHEDULES:
        program = compile_text(module(plugins(), dtype), sanitize=schedule == "reverse")
        for source, gradient in zip(sources, (False, True), strict=True):
            held = [Guarded(a) for a in (x, *heads, np.full(shape[:2], np.nan, dtype))]
            held += [Guarded(np.full(d.shape, np.nan, dtype)) for d in dheads if gradient]
            program.run(source.launch(*(h.array for h in held)), schedule)
            for h, what in zip(held, source.accepts, strict=True):
                h.check(what)
            for h, before in zip(held, (x, *heads), strict=False):
                np.testing.assert_array_equal(h.array, before)
            at = 1 + len(heads)
            close(held[at].array, logp, dtype, "logp", shape[2])
            for h, d in zip(held[at + 1 :], dheads, strict=gradient):
                close(h.array, d, dtype, "dhead")


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("name", likelihoods())
def test_likelihood_behind_a_product(name: str, dtype: Any) -> None:
    """The bias and the head's scale inside the kernel."""
    plugin = likelihoods()[name]
    shape = (3, 2, 33)
    x, products = _trial(plugin, shape, dtype)
    rng = np.random.default_rng(9)
    given, heads = [], []
    for head, product in zip(plugin.heads, products, strict=True):
        given.append(product.copy())
        heads.append(product)
        if head.source == "affine":
            bias = rng.standard_normal(shape[2] * head.group).astype(dtype)
            given.append(bias)
            flat = product.astype(np.float64).reshape(*shape[:2], -1)
            heads[-1] = (head.scale * (flat + bias)).reshape(product.shape)
    logp, dheads = _expected(plugin, x, heads, shape)
    source = of_likelihood(name, gradient=True, bias=True)
    for schedule in SCHEDULES:
        out = [np.full(shape[:2], np.nan, dtype), *(np.full(d.shape, np.nan, dtype) for d in dheads)]
        held = [Guarded(a) for a in (x, *given, *out)]
        program = compile_text(module(plugins(), dtype), sanitize=schedule == "reverse")
        program.run(source.launch(*(h.array for h in held)), schedule)
        for h, what in zip(held, source.accepts, strict=True):
            h.check(what)
        at = 1 + len(given)
        close(held[at].array, logp, dtype, "logp", shape[2])
        for h, d in zip(held[at + 1 :], dheads, strict=True):
            close(h.array, d, dtype, "dhead")


def test_bernoulli_at_large_logits() -> None:
    """No overflow, and a gradient that is exactly 0 or 2 where the logit is certain."""
    a = np.array([[[-300, -40, -1, 0, 1, 40, 300]]], np.float32)
    plugin = likelihoods()["bernoulli"]
    source = of_likelihood("bernoulli", gradient=True)
    for x in (np.zeros((1, 1, 7), np.float32), np.ones((1, 1, 7), np.float32)):
        logp, da = np.empty((1, 1), np.float32), np.empty_like(a)
        compile_text(module(plugins(), np.float32)).run(source.launch(x, a, logp, da))
        expected, dheads = _expected(plugin, x, [a], (1, 1, 7))
        np.testing.assert_allclose(logp, expected, rtol=1e-6)
        np.testing.assert_allclose(da, dheads[0], atol=2e-7)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("name", [n for n in likelihoods() if likelihoods()[n].__dict__.get("floor") is not None])
def test_gradient_below_the_floor(name: str, dtype: Any) -> None:
    """That of the array code in double precision, to its own digits: 1e-15 is no zero."""
    plugin = likelihoods()[name]
    raw = np.arange(-40.0, -4.0).astype(dtype).reshape(1, 1, -1)
    x, mean = np.full_like(raw, 0.5), np.zeros_like(raw)
    heads = {"mean": mean, "logvar": raw}
    given = [heads[head.name] for head in plugin.heads]
    _, dheads = _expected(plugin, x, given, raw.shape)
    logp, out = np.empty((1, 1), dtype), [np.empty_like(raw) for _ in given]
    compile_text(module(plugins(), dtype)).run(of_likelihood(name, gradient=True).launch(x, *given, logp, *out))
    for found, exact in zip(out, dheads, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-4 if dtype == np.float32 else 1e-10)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("decay", [0.0, 0.125])
@pytest.mark.parametrize("name", optimizers())
def test_optimizer(name: str, decay: float, dtype: Any) -> None:
    plugin = optimizers()[name]
    source = of_optimizer(name)
    rng = np.random.default_rng(10)
    size = 1001
    theta, grad = rng.standard_normal((2, size)).astype(dtype)
    state = [np.abs(rng.standard_normal(size)).astype(dtype) for _ in plugin.state]
    coef = np.array(plugin.coefficients(3, 0.01), dtype)
    wide = [a.astype(np.float64) for a in (theta, *state)]
    scratch = [np.empty(size) for _ in range(plugin.scratch)]
    plugin.update(np, grad + decay * wide[0], coef.astype(np.float64), scratch, *wide)
    for schedule in SCHEDULES:
        held = [Guarded(a) for a in (grad, coef, theta, *state)]
        g, c, *rest = (h.array for h in held)
        program = compile_text(module(plugins(), dtype), sanitize=schedule == "reverse")
        program.run(source.launch(g, c, decay, *rest), schedule)
        for h in held:
            h.check(name)
        np.testing.assert_array_equal(g, grad)
        for actual, expected in zip(rest, wide, strict=True):
            close(actual, expected, dtype, name)


def test_a_plugin_without_text_is_refused() -> None:
    plugin = type(likelihoods()["bernoulli"])()
    plugin.cuda = None
    with pytest.raises(TypeError, match="bernoulli has no CUDA text"):
        likelihood(plugin, gradient=False)
