"""The handwritten kernels against the array code of what they fuse."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from aevb_engine.cuda import module
from aevb_engine.cuda.handwritten import sources
from aevb_engine.cuda.source import generate
from aevb_engine.kernels import bound as bounds
from aevb_engine.kernels.gather import gather, gather_bernoulli
from aevb_engine.kernels.gaussian import reparameterized_log_density, standard_normal_log_density
from aevb_engine.kernels.kl import kl
from aevb_engine.kernels.noise import Noise
from aevb_engine.kernels.philox import key, stream_id
from tests.cuda_on_cpu.catalog import engine
from tests.cuda_on_cpu.guard import Guarded, close
from tests.cuda_on_cpu.runner import SCHEDULES, compile_text

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

NUMBERS = [np.float32, np.float64]
SEED = 2**40 + 3


@pytest.fixture(autouse=True)
def _defined(capfd: pytest.CaptureFixture[str]) -> Any:
    """No test here may report undefined behaviour: one schedule runs the sanitized build."""
    yield
    assert "runtime error" not in capfd.readouterr().err


def execute(name: str, dtype: Any, given: dict[str, Any], outputs: dict[str, Any], strided: bool = False) -> list[Any]:
    """Run in every schedule between guard bands; the arrays named in ``outputs`` afterwards, one dict a schedule."""
    results = []
    for schedule in SCHEDULES:
        arrays = {n: v for n, v in given.items() if not isinstance(v, np.ndarray)}
        held = {n: Guarded(v, strided and v.ndim > 1) for n, v in given.items() if isinstance(v, np.ndarray)}
        held |= {n: Guarded(v, strided and v.ndim > 1) for n, v in outputs.items()}
        source = sources()[name]
        launch = source.launch(**arrays, **{n: h.array for n, h in held.items()})
        compile_text(module(engine(), dtype), sanitize=schedule == "reverse").run(launch, schedule)
        for n, h in held.items():
            h.check(f"{name}: {n}")
            if n not in outputs:
                np.testing.assert_array_equal(h.array, given[n], err_msg=n)
        results.append({n: held[n].array.copy() for n in outputs})
    for other in results[1:]:  # the order of every sum is fixed: all schedules give the same bits
        for n in outputs:
            np.testing.assert_array_equal(other[n], results[0][n], err_msg=f"{name}: {n}")
    return results


def _draws(step: int, row: int, shape: tuple[int, int, int]) -> Any:
    eps = np.empty((1, shape[0] * shape[1], shape[2]), np.float32)
    Noise(np, SEED, "noise").normal(step, row, eps)
    return eps.reshape(shape)


LATENT = [(1, 1, 1), (9, 3, 2), (3, 1, 20), (5, 3, 31), (2, 2, 257)]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("shape", LATENT, ids=str)
@pytest.mark.parametrize("name", ["latent", "latent_mc"])
def test_latent_stage(name: str, shape: tuple[int, int, int], strided: bool, dtype: Any) -> None:
    b, samples, z = shape
    rng = np.random.default_rng(3)
    product, bias = (rng.standard_normal(s).astype(dtype) for s in ((b, 2 * z), (2 * z,)))
    given = {
        "product": product,
        "bias": bias,
        "step": np.array([6], np.int64),
        "row": np.array([40], np.int64),
        "stream": stream_id("noise"),
        "key0": key(SEED)[0],
        "key1": key(SEED)[1],
    }
    zero = {n: np.full(s, np.nan, dtype) for n, s in (("sigma", (b, z)), ("eps", shape), ("z", shape))}
    last = {"kl": (b,)} if name == "latent" else {"prior": (b, samples), "posterior": (b, samples)}
    outputs = {
        "head": np.full((b, 2 * z), np.nan, dtype),
        **zero,
        **{n: np.full(s, np.nan, dtype) for n, s in last.items()},
    }
    out = execute(name, dtype, given, outputs, strided)[0]
    head = product.astype(np.float64) + bias
    mu, logvar = head[:, :z], head[:, z:]
    eps = _draws(6, 40 * samples, shape)
    sigma = np.exp(logvar / 2)
    latent = mu[:, None] + sigma[:, None] * eps
    np.testing.assert_array_equal(out["eps"], eps)  # the bits of the noise
    for n, expected in (("head", head), ("sigma", sigma), ("z", latent)):
        close(out[n], expected, dtype, n)
    if name == "latent":
        expected = np.empty(b)
        kl(np, mu, logvar, np.empty((b, z)), expected)
        close(out["kl"], expected, dtype, "kl", z)
    else:
        prior, posterior = np.empty((2, b, samples))
        standard_normal_log_density(np, latent, np.empty(shape), prior)
        reparameterized_log_density(np, logvar, eps.astype(np.float64), np.empty(shape), posterior)
        close(out["prior"], prior, dtype, "prior", z)
        close(out["posterior"], posterior, dtype, "posterior", z)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("size", [1e-9, 1e-7, 1e-5, 1e-3])
def test_kl_near_the_prior(size: float, dtype: Any) -> None:
    """Of the latent stage and of the declared kernel: never below zero, and that of the array code to rounding."""
    b, z = 40, 3
    head = (size * np.random.default_rng(1).standard_normal((b, 2 * z))).astype(dtype)
    shapes = {"head": (b, 2 * z), "sigma": (b, z), "eps": (b, 1, z), "z": (b, 1, z), "kl": (b,)}
    given = {
        "product": head, "bias": np.zeros(2 * z, dtype), "step": np.array([6], np.int64),
        "row": np.array([40], np.int64), "stream": stream_id("noise"), "key0": key(SEED)[0], "key1": key(SEED)[1],
    }  # fmt: skip
    found = execute("latent", dtype, given, {n: np.full(s, np.nan, dtype) for n, s in shapes.items()})[0]["kl"]
    mu, logvar = (np.ascontiguousarray(a) for a in np.split(head, 2, axis=1))
    declared = np.zeros(b, dtype)
    compile_text(module(engine(), dtype)).run(generate(kl).launch(mu, logvar, None, declared))
    exact = np.empty(b)
    kl(np, mu.astype(np.float64), logvar.astype(np.float64), np.empty((b, z)), exact)
    for each in (found, declared):
        assert each.min() >= 0
        np.testing.assert_allclose(each, exact, rtol=1e-6, atol=8 * np.finfo(dtype).eps * size)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("columns", [1, 31, 33, 100, 257])
@pytest.mark.parametrize("data_type", ["bytes", "numbers"])
def test_gather(data_type: str, columns: int, strided: bool, dtype: Any) -> None:
    rng = np.random.default_rng(4)
    data = rng.integers(0, 256, (13, columns)).astype(np.uint8 if data_type == "bytes" else dtype)
    index = np.array([12, 0, 5, 5, 99, -1, 7, 8, 9], np.int64)  # outside: moved to the edge
    given = {"data": data, "index": index, "scale": 1 / 255}
    name = "gather_bytes" if data_type == "bytes" else "gather"
    out = execute(name, dtype, given, {"x": np.full((9, columns), np.nan, dtype)}, strided)[0]["x"]
    expected = np.empty((9, columns), dtype)
    gather(np, data, index, 1 / 255, np.empty((9, columns), data.dtype), expected)
    np.testing.assert_array_equal(out, expected)  # one product: the same bits


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("columns", [1, 7, 8, 31, 33, 100, 257])
def test_gather_bernoulli_draws_the_same_bits(columns: int, dtype: Any) -> None:
    rng = np.random.default_rng(5)
    data = rng.integers(0, 256, (20, columns)).astype(np.uint8)
    data[0], data[1] = 0, 255
    index = np.array([0, 1, 19, 4, 4, 77, 3, 2, 11], np.int64)
    given = {
        "data": data,
        "index": index,
        "step": np.array([8], np.int64),
        "row": np.array([300], np.int64),
        "stream": stream_id("binarize"),
        "key0": key(SEED)[0],
        "key1": key(SEED)[1],
    }
    out = execute("gather_bernoulli", dtype, given, {"x": np.full((9, columns), np.nan, dtype)})[0]["x"]
    words = np.empty((1, 9, 4 * -(-columns // 8)), np.uint32)
    Noise(np, SEED, "binarize").words(8, 300, words)
    rows, wide, ones = (np.empty((9, columns), t) for t in (np.uint8, np.uint32, np.bool_))
    expected = np.empty((9, columns), dtype)
    gather_bernoulli(np, data, index, words[0], rows, wide, ones, expected)
    np.testing.assert_array_equal(out, expected)


SAMPLES = [(1, 1), (9, 3), (3, 31), (9, 33), (2, 257)]


def _densities(shape: tuple[int, int], dtype: Any) -> Any:
    rng = np.random.default_rng(6)
    logp, prior, posterior = (20 * rng.standard_normal(shape).astype(dtype) for _ in range(3))
    return (logp - 500).astype(dtype), prior, posterior


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", SAMPLES, ids=str)
def test_log_mean_exp(shape: tuple[int, int], dtype: Any) -> None:
    logw = _densities(shape, dtype)[0]
    out = execute("log_mean_exp", dtype, {"logw": logw}, {"bound": np.full(shape[0], np.nan, dtype)}, True)[0]
    expected = np.empty(shape[0])
    bounds.log_mean_exp(np, logw.astype(np.float64), np.empty(shape), expected)
    close(out["bound"], expected, dtype, "bound")


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", SAMPLES, ids=str)
@pytest.mark.parametrize("name", ["elbo_bound", "elbo_mc_bound", "iwae_bound"])
def test_bounds(name: str, shape: tuple[int, int], dtype: Any) -> None:
    logp, prior, posterior = _densities(shape, dtype)
    wide = [a.astype(np.float64) for a in (logp, prior, posterior)]
    logw = wide[0] + wide[1] - wide[2]
    reconstruction, mean, bound = np.empty((3, shape[0]))
    bounds.mean_of_samples(np, wide[0], reconstruction)
    bounds.mean_of_samples(np, logw, mean)
    each = {n: np.full(shape[0], np.nan, dtype) for n in ("reconstruction", "bound")}
    if name == "elbo_bound":
        divergence = np.abs(prior[:, 0])
        out = execute(name, dtype, {"logp": logp, "kl": divergence}, each, True)[0]
        close(out["reconstruction"], reconstruction, dtype, "reconstruction", shape[1])
        close(out["bound"], reconstruction - divergence, dtype, "bound", shape[1])
        return
    each["kl"] = np.full(shape[0], np.nan, dtype)
    given: dict[str, Any] = {"logp": logp, "prior": prior, "posterior": posterior}
    if name == "iwae_bound":
        given["factor"] = -0.25
        each["weight"] = np.full(shape, np.nan, dtype)
    out = execute(name, dtype, given, each, True)[0]
    close(out["reconstruction"], reconstruction, dtype, "reconstruction", shape[1])
    close(out["kl"], reconstruction - mean, dtype, "kl", shape[1])
    if name == "elbo_mc_bound":
        close(out["bound"], mean, dtype, "bound", shape[1])
        return
    bounds.log_mean_exp(np, logw, np.empty(shape), bound)
    weight = np.empty(shape)
    bounds.importance_row_weights(np, logw, bound, -0.25, weight)
    close(out["bound"], bound, dtype, "bound")
    tolerance = 3e-4 if dtype == np.float32 else 1e-11  # log w is some 500 nats, rounded before it is exponentiated
    np.testing.assert_allclose(out["weight"], weight, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("batch", [1, 33, 100, 257, 600])
def test_advance_and_record(batch: int, dtype: Any) -> None:
    rng = np.random.default_rng(7)
    orders = rng.integers(0, 1000, (5, batch))
    rates = rng.standard_normal((5, 4)).astype(dtype)
    cursor = np.array([3], np.int64)
    outputs = {"index": np.full(batch, -1), "coef": np.full(4, np.nan, dtype)}
    out = execute("advance", dtype, {"cursor": cursor, "orders": orders, "rates": rates}, outputs)[0]
    np.testing.assert_array_equal(out["index"], orders[3])
    np.testing.assert_array_equal(out["coef"], rates[3])
    columns = {n: rng.standard_normal(batch).astype(dtype) for n in ("bound", "reconstruction", "kl")}
    before = np.full((5, 3), 7.0)
    live = {"metrics": before, "cursor": cursor, "step": np.array([53], np.int64)}
    out = execute("record", dtype, columns, live)[0]
    expected = before.copy()
    expected[3] = [c.mean(dtype=np.float64) for c in columns.values()]
    np.testing.assert_allclose(out["metrics"], expected, rtol=1e-12, atol=1e-14)
    assert (out["cursor"][0], out["step"][0]) == (4, 54)


def test_a_step_beyond_the_block_is_not_recorded() -> None:
    columns = {n: np.ones(3, np.float32) for n in ("bound", "reconstruction", "kl")}
    live = {"metrics": np.zeros((2, 3)), "cursor": np.array([2], np.int64), "step": np.array([2], np.int64)}
    out = execute("record", np.float32, columns, live)[0]
    assert not out["metrics"].any()
