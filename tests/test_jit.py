"""The compiled loops against the array code: noise and binarization to the bit, the rest within rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb_engine import install, jit, registry
from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.compiled.elementary import elementary
from aevb_engine.compiled.likelihood import loop
from aevb_engine.compiled.lower import lower
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.session import prepare
from aevb_engine.kernels.gather import gather
from aevb_engine.kernels.noise import Noise
from aevb_engine.operation import Buffer, Rows, operation
from aevb_engine.training.pruning import select_columns
from aevb_engine.training.trainer import Diverged
from tests.combinations import BATCH, EVERY, OBJECTIVES, SHORT, Run, agree, left_out, plain, reads_of

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}),
    ("momentum", {}),
    ("momentum", {"nesterov": True}),
    ("momentum", {"form": "ema"}),
    ("adagrad", {}),
    ("adam", {}),
    ("rmsprop", {}),
]


@pytest.fixture(autouse=True)
def _with_numba() -> Iterator[None]:
    jit.available.cache_clear()
    if not jit.available():
        if os.environ.get("AEVB_REQUIRE_JIT") == "1":
            pytest.fail("AEVB_REQUIRE_JIT=1: numba is not installed")
        pytest.skip(f"numba is not installed; {install.command('jit')}")
    yield
    jit.available.cache_clear()


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEVB_JIT", "0")
    jit.available.cache_clear()
    assert not jit.available()


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_to_the_bit(columns: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loops, arrays = (np.full((50, 70, columns), np.nan, dtype) for _ in range(2))
    Noise(np, 2**40 + 5, "noise").normal(1000, 3, loops)
    without(monkeypatch)
    Noise(np, 2**40 + 5, "noise").normal(1000, 3, arrays)
    np.testing.assert_array_equal(loops, arrays)


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.0, 0.125])
def test_optimizers(name: str, options: dict[str, Any], decay: float) -> None:
    optimizer = registry.create("optimizer", name, options)
    rng = np.random.default_rng(0)
    size = 1001
    theta = [rng.standard_normal(size) for _ in range(1)] * 2
    theta = [t.copy() for t in theta]
    states = [[np.zeros(size) for _ in optimizer.state] for _ in range(2)]
    loop = jit.update_loop(optimizer.scalar, len(optimizer.state))
    for step in range(1, 6):
        grad = rng.standard_normal(size)
        coef = np.array(optimizer.coefficients(step, 0.01))
        loop(grad, tuple(coef), decay, theta[0], *states[0])
        scratch = [np.empty(size) for _ in range(optimizer.scratch)]
        optimizer.update(np, grad + decay * theta[1], coef, scratch, theta[1], *states[1])
    np.testing.assert_allclose(theta[0], theta[1], rtol=1e-12)
    for a, b in zip(*states, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


MODELS: list[dict[str, Any]] = [
    {"dataset": "simulated-normal", "hidden": (16,)},
    {"dataset": "simulated-normal", "hidden": (16, 9), "decoder_options": {"variance": "per_dim", "min_logvar": None}},
    {"dataset": "simulated-normal", "hidden": (), "decoder_options": {"mean": "sigmoid"}},
    {"dataset": "simulated-normal", "hidden": (16,), "standardize": "always"},
    {"dataset": "simulated-binary", "hidden": (16, 9)},
    {"dataset": "simulated-binary", "hidden": (16,), "activation": "relu"},
]


@pytest.mark.parametrize("objective", ["elbo", "elbo-mc", "iwae"])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_training_agrees(objective: str, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(objective=objective, samples=2, steps=100, batch_size=50, threads=2, **model)
    compiled = prepare(config).trainer.advance(50)
    without(monkeypatch)
    plain = prepare(config).trainer.advance(50)
    np.testing.assert_allclose(compiled, plain, atol=1e-3)
    assert (compiled[:, 2] != 0).all()


@pytest.mark.parametrize("objective", ["elbo", "elbo-mc", "iwae"])
def test_every_stretch_is_compiled(objective: str) -> None:
    """Training of the models of the paper runs through the loops; a rule that no longer matches would be seen here."""
    inner = prepare(RunConfig(dataset="simulated-binary", hidden=(8,), objective=objective, samples=2)).trainer.inner
    names = [op.name for op in lower(inner.rows)]
    latent = ["forward loop", "latent_backward loop"] if objective == "elbo" else ["forward_mc loop"]
    latent += [] if objective == "elbo" else ["latent_backward_mc loop"]
    wanted = {"bias_tanh loop", "likelihood loop", "weighted_tanh_backward loop", "tanh_backward loop", *latent}
    wanted |= {"gather loop"}
    assert wanted <= set(names)
    left = {"affine", "tanh", "tanh_backward", "kl", "kl_backward", "reparameterize", "reparameterize_backward"}
    assert not left & set(names)
    assert [op.name for op in lower(inner.last)] == ["record loop"]


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("live", [False, True])
def test_reading_a_batch_gives_the_same_bits(kind: Any, live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gather, alone and with the columns that are not always zero beside it."""
    rng = np.random.default_rng(0)
    data = Buffer("data", rng.integers(0, 256, (30, 19)).astype(kind))
    index = Buffer("index", rng.integers(0, 30, 7), 1)
    columns = np.array([0, 3, 4, 5, 9, 17, 18])
    found = []
    for compiled in (True, False):
        if not compiled:
            without(monkeypatch)
        x, narrow = (Buffer(name, np.full((7, n), np.nan, np.float32), 1) for name, n in (("x", 19), ("live", 7)))
        taken = x if kind is np.float32 else Buffer("taken", np.empty((7, 19), kind), 1)
        operations = [operation(gather, data, index, 1 / 255, taken, x)]
        operations += [select_columns(x, columns, narrow)] if live else []
        for share in (Rows(0, 3), Rows(3, 7)):
            for call in NumpyBackend(1).bind(operations, share):
                call()
        found.append((x.array, narrow.array))
    np.testing.assert_array_equal(*(x for x, _ in found))
    np.testing.assert_array_equal(*(narrow for _, narrow in found))
    if live:
        np.testing.assert_array_equal(found[0][1], found[0][0][:, columns])


def reference(name: str, values: np.ndarray) -> np.ndarray:
    """In double precision, back in single: half a unit in the last place."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(getattr(np, name)(values.astype(np.float64)).astype(np.float32))


def elementwise(name: str, values: np.ndarray) -> np.ndarray:
    """One of the elementary functions inside a compiled loop."""
    function = getattr(elementary(), name)

    def loop(v: Any, out: Any) -> None:
        for i in range(v.size):
            out[i] = function(v[i])

    out = np.empty_like(values)
    jit.compiled(loop)(values, out)
    return out


@pytest.mark.parametrize(("name", "low", "high"), [("exp", -87.3, 88.3), ("log1p", 0, 1), ("tanh", -12, 12)])
def test_elementary_functions(name: str, low: float, high: float) -> None:
    values = np.concatenate([np.linspace(low, high, 200_001), [low / 1e6, high / 1e6, 0.0]]).astype(np.float32)
    spacing = np.abs(np.spacing(reference(name, values)))
    assert (np.abs(elementwise(name, values) - reference(name, values)) <= 5 * spacing).all()


def test_elementary_functions_keep_what_is_not_finite() -> None:
    """A run that diverges must be seen: nothing may turn NaN or infinity into a number."""
    values = np.array([np.nan, np.inf, -np.inf, 100, -100], np.float32)
    np.testing.assert_array_equal(elementwise("exp", values), [np.nan, np.inf, 0, np.inf, 0])
    np.testing.assert_allclose(elementwise("tanh", values), [np.nan, 1, -1, 1, -1], rtol=2e-7)
    assert np.isnan(elementwise("log1p", values[:1])).all()
    np.testing.assert_array_equal(elementwise("excess", values)[[0, 2, 3, 4]], [np.nan, np.inf, np.inf, 99])


@pytest.mark.parametrize("size", [1e-9, 1e-7, 1e-5, 1e-3, 0.1, 0.34, 0.35, 1, 10, 80])
def test_what_an_exponential_is_above_its_tangent(size: float) -> None:
    """e^v - 1 - v to a few units of its own last place near 0, where all its digits would cancel; nowhere negative."""
    values = (size * np.random.default_rng(0).uniform(-1, 1, 10_000)).astype(np.float32)
    found, v = elementwise("excess", values), values.astype(np.longdouble)
    series = v**2 * (1 / 2 + v / 6 + v**2 / 24 + v**3 / 120 + v**4 / 720)
    exact = np.where(np.abs(v) < 1e-2, series, np.expm1(v) - v).astype(np.float64)
    assert found.min() >= 0
    np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_the_kl_of_the_latent_loop_near_the_prior() -> None:
    from aevb_engine.compiled.latent import forward

    for size in (1e-9, 1e-7, 1e-5, 1e-3):
        bias = np.zeros(6, np.float32)
        head = (size * np.random.default_rng(1).standard_normal((500, 6))).astype(np.float32)
        mu, logvar = (a.astype(np.float64) for a in np.split(head, 2, axis=1))
        exact = 0.5 * (mu**2 + logvar**2 * (1 / 2 + logvar / 6 + logvar**2 / 24)).sum(axis=1)
        kl = np.full(500, np.nan, np.float32)
        forward()(head, bias, np.zeros((500, 1, 3), np.float32), np.empty((500, 3), np.float32),
                  np.empty((500, 1, 3), np.float32), kl)  # fmt: skip
        np.testing.assert_allclose(kl, exact, rtol=1e-5)


@pytest.mark.parametrize("floor", [-7.0, 0.0])
def test_the_gradient_below_the_floor_in_the_loop(floor: float) -> None:
    """That of the array code in double precision, to its own digits: 1e-15 is no zero."""
    likelihood = registry.create("decoder", "gaussian", {"mean": "linear", "min_logvar": floor})
    raw = np.arange(-40.0, -4.0, dtype=np.float32).reshape(1, 1, -1)
    x, dmean, dlogvar = np.full_like(raw, 0.5), np.empty_like(raw), np.empty_like(raw)
    none, one = np.zeros(raw.size, np.float32), np.float32(1)
    loop(likelihood, gradient=True)(  # type: ignore[misc]
        x, np.empty((1, 1), np.float32), np.zeros_like(raw), none, one, dmean, raw, none, one, dlogvar
    )
    wide = [np.empty(raw.shape) for _ in range(2)]
    likelihood.log_prob_backward(
        np, x.astype(np.float64), np.zeros(raw.shape), raw.astype(np.float64), dheads=wide,
        scratch=[np.empty(raw.shape) for _ in range(4)],
    )  # fmt: skip
    np.testing.assert_allclose(dlogvar, wide[1], rtol=1e-4)
    assert (dlogvar > 0).all() if floor == -7 else (dlogvar < 0).all()


LIKELIHOODS: list[tuple[str, dict[str, Any]]] = [
    ("bernoulli", {}),
    ("gaussian", {"mean": "linear", "min_logvar": None}),
    ("gaussian", {"mean": "sigmoid"}),
    ("gaussian", {"variance": "per_dim"}),
]


@pytest.mark.parametrize(("name", "options"), LIKELIHOODS)
@pytest.mark.parametrize("shape", [(5, 3, 37), (1, 4, 16), (6, 1, 1)])
def test_likelihood_loop(name: str, options: dict[str, Any], shape: tuple[int, int, int]) -> None:
    """Against the array code in double precision, with the bias and the scale that the array code gets done for it."""
    likelihood = registry.create("decoder", name, options)
    b, samples, d = shape
    rng = np.random.default_rng(0)
    x = (rng.random((b, 1, d)) < 0.3).astype(np.float32)
    arguments, heads = [], []
    dheads = [np.full(shape, np.nan, np.float32) for _ in likelihood.heads]
    for head, dhead in zip(likelihood.heads, dheads, strict=True):
        rows = (b, samples) if head.source == "affine" else (1, 1)
        raw, bias = rng.normal(0, 3, (*rows, d)).astype(np.float32), rng.standard_normal(d).astype(np.float32)
        arguments += [raw, bias, np.float32(head.scale), dhead]
        heads.append(head.scale * (raw.astype(np.float64) + bias))
    logp, wanted = np.full((b, samples), np.nan, np.float32), np.empty((b, samples))
    wanted_dheads, scratch = [np.empty(shape) for _ in dheads], [np.empty(shape) for _ in range(likelihood.scratch)]
    likelihood.log_prob_and_backward(
        np, x.astype(np.float64), *heads, logp=wanted, dheads=wanted_dheads, scratch=scratch
    )
    loop(likelihood, gradient=False)(x, logp, *arguments)  # type: ignore[misc]
    np.testing.assert_allclose(logp, wanted, rtol=3e-6, atol=1e-5)
    assert np.isnan(dheads[0]).all()
    loop(likelihood, gradient=True)(x, logp, *arguments)  # type: ignore[misc]
    np.testing.assert_allclose(logp, wanted, rtol=3e-6, atol=1e-5)
    for found, exact in zip(dheads, wanted_dheads, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())


def test_divergence_is_seen() -> None:
    trainer = prepare(RunConfig(dataset="simulated-normal", hidden=(8,), steps=50)).trainer
    trainer.model.parameters["decoder.mean.bias"].theta.array[0] = np.nan
    with pytest.raises(Diverged, match="step 1"):
        trainer.advance(5)


def test_the_next_process_compiles_nothing(tmp_path: Path) -> None:
    """The cache finds loops by what their functions say; a new entry each time would also fill the disk."""
    script = (
        "from aevb_engine.experiment.session import prepare\n"
        "from aevb_engine.experiment.config import RunConfig\n"
        "prepare(RunConfig(dataset='simulated-binary', hidden=(8,), steps=5)).trainer.advance(2)"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def entries() -> list[str]:
        subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=100)
        return sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.nbc"))

    first = entries()
    assert len(first) >= 6
    assert entries() == first


def test_dynamic_binarization_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    from aevb_engine.operation import Buffer
    from aevb_engine.training.step import ResidentRows
    from aevb_engine.training.trainer import Settings, Trainer

    grey = np.random.default_rng(0).integers(0, 256, (40, 31)).astype(np.uint8)

    def drawn() -> Any:
        session = prepare(RunConfig(dataset="simulated-binary", hidden=(8,), steps=1, batch_size=20))
        architecture = type(session.model.architecture)(31, 2, (8,))
        model = type(session.model)(architecture, session.model.likelihood, session.backend)
        model.parameters.initialize(0)
        data = ResidentRows(Buffer("data", grey), dynamic=True)
        trainer = Trainer(model, session.trainer.optimizer, data, Settings(batch=16, seed=5, threads=2))
        trainer.advance(3)
        return trainer.inner.ws.buffers["x"].array.copy()

    loops = drawn()
    without(monkeypatch)
    np.testing.assert_array_equal(loops, drawn())
    assert set(np.unique(loops)) == {0.0, 1.0}


@pytest.mark.parametrize("short", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loops_leave_out_nothing_that_is_read(
    objective: str, short: bool, make_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of every decoder, depth and number of samples against array code (``tests/combinations.py``)."""
    runs = []
    for c in (c for c in EVERY if c.objective == objective and (c.decoder in SHORT) == short):
        run = Run(c, make_step, "float32")
        lists = [[op for part in run.whole(n) for op in lower(part, run.read(part))] for n in range(run.updates)]
        missing = []
        for number, items in enumerate(lists):
            missing.append(left_out(run.whole(number), [item.touched for item in items]))
            assert not reads_of(missing[-1], [item.touched for item in items]), c
        runs.append((c, run, missing, [[op.bind(np, Rows(0, BATCH)) for op in items] for items in lists]))
    without(monkeypatch)
    for c, run, missing, calls in runs:
        agree(c, plain(c, make_step, "float32"), run, missing, calls, within=1e-4)
