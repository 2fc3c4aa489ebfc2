"""Gradients of the learners that are no plain bound, each phase at frozen samples, against central differences in
float64; and what their steps leave alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aevb_engine.errors import BackendError, UsageError
from aevb_engine.objectives import objective
from aevb_engine.operation import Operation, Rows
from aevb_engine.testing import central_difference
from aevb_plugins.optimizers.sgd import Sgd

TOLERANCE = 1e-7  # as in test_gradients.py: truncation and rounding of the differences stay below 1e-9
LOG_2PI = float(np.log(2 * np.pi))
LIKELIHOODS = [
    "bernoulli",
    "laplace",
    "scalar",
    "codes",
    *(f"gaussian {m} {v} {f}" for m, v, f in (("linear", "affine", "-1"), ("sigmoid", "per_dim", "none"))),
]
SHAPES = [((), "tanh"), ((5,), "relu"), ((4, 3), "softplus")]


def errors(bound: Any, loss: Callable[[Any], float], part: str = "") -> dict[str, float]:
    """For each parameter whose name starts with ``part``: the gradient along a random direction, how far it is off."""
    gradient = bound.gradient()
    theta = bound.theta.copy()
    rng = np.random.default_rng(99)

    def at(value: np.ndarray) -> float:
        bound.theta[...] = value
        bound.forward()
        return loss(bound)

    found = {}
    for name, p in bound.model.parameters.named.items():
        if name.startswith(part):
            direction = np.zeros_like(theta)
            direction[p.lo : p.hi] = rng.standard_normal(p.hi - p.lo)
            terms = gradient[p.lo : p.hi] * direction[p.lo : p.hi]
            numeric = central_difference(at, theta, direction)
            found[name] = abs(float(terms.sum()) - numeric) / (0.1 + float(np.abs(terms).sum()))
    bound.theta[...] = theta
    bound.forward()
    return found


def good(found: dict[str, float]) -> None:
    assert found
    worst = max(found, key=lambda n: found[n])
    assert found[worst] < TOLERANCE, f"{worst}: {found[worst]:.1e}"


def weighted_bound(beta: float) -> Callable[[Any], float]:
    return lambda b: -float((b["reconstruction"] - beta * b["kl"]).mean())


def reconstruction(b: Any) -> float:
    return -float(b["reconstruction"].mean())


def squared(b: Any) -> float:
    return float(((b.x - b["x mean"]) ** 2).sum(1).mean())


def dream(b: Any) -> float:
    """-mean log q(z | x) of the dreams, from z and the encoder's head alone."""
    z, (mu, logvar) = b["sleep z"], np.split(b["sleep latent"], 2, axis=1)
    return 0.5 * float(((z - mu) ** 2 / np.exp(logvar) + logvar + LOG_2PI).sum(1).mean())


@pytest.fixture(params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> dict[str, Any]:
    hidden, activation = request.param
    return {"hidden": hidden, "activation": activation, "seed": len(hidden)}


def asleep(bound: Any) -> Any:
    """Noise of the dreams, frozen."""
    rng = np.random.default_rng(5)
    for name, buffer in bound.ws.buffers.items():
        if name == "sleep z" or name.startswith("sleep normal"):
            buffer.array[...] = rng.standard_normal(buffer.array.shape)
        elif name.startswith("sleep uniform"):
            buffer.array[...] = rng.uniform(size=buffer.array.shape)
    return bound


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_beta(likelihood: str, shape: dict[str, Any], make_bound: Any, make_likelihood: Any) -> None:
    bound = make_bound("beta", make_likelihood(likelihood), samples=3, options={"beta": 2.5}, **shape)
    good(errors(bound, weighted_bound(2.5)))
    np.testing.assert_allclose(bound.forward(), bound["reconstruction"] - bound["kl"], rtol=1e-13)
    bound["coefficients"][...] = 0.3  # on the way up
    good(errors(bound, weighted_bound(0.3)))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_autoencoder(likelihood: str, shape: dict[str, Any], make_bound: Any, make_likelihood: Any) -> None:
    bound = make_bound("autoencoder", make_likelihood(likelihood), **shape)
    good(errors(bound, reconstruction))
    latent = bound.model.architecture.latent
    np.testing.assert_array_equal(bound["z"], bound["latent"][:, :latent])
    assert not bound["dlatent"][:, latent:].any()
    bound.eps[...] = 1e3  # no noise enters
    before = bound["reconstruction"].copy()
    bound.forward()
    np.testing.assert_array_equal(bound["reconstruction"], before)


@pytest.mark.parametrize("likelihood", [n for n in LIKELIHOODS if n.split()[0] in ("bernoulli", "gaussian")])
def test_squared_error(likelihood: str, shape: dict[str, Any], make_bound: Any, make_likelihood: Any) -> None:
    bound = make_bound("autoencoder", make_likelihood(likelihood), options={"loss": "squared"}, **shape)
    good(errors(bound, squared))
    nll = make_bound("autoencoder", make_likelihood(likelihood), **shape)
    nll.forward()
    np.testing.assert_allclose(bound["reconstruction"], nll["reconstruction"], rtol=1e-13)  # recorded alike


def test_squared_error_needs_the_slope_of_the_mean(make_bound: Any, make_likelihood: Any) -> None:
    with pytest.raises(UsageError, match=r"Categorical offers no mean_backward; use loss=nll"):
        make_bound("autoencoder", make_likelihood("codes"), options={"loss": "squared"})


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_wake_sleep(
    likelihood: str, samples: int, shape: dict[str, Any], make_bound: Any, make_likelihood: Any
) -> None:
    bound = asleep(make_bound("wake-sleep", make_likelihood(likelihood), samples=samples, **shape))
    good(errors(bound, reconstruction, "decoder"))
    good(errors(bound, dream, "encoder"))
    elbo = make_bound("elbo", make_likelihood(likelihood), samples=samples, **shape)
    np.testing.assert_array_equal(bound.forward(), elbo.forward())  # recorded is L^B


def test_dreams_are_samples_of_the_decoder(make_bound: Any, make_likelihood: Any) -> None:
    bound = asleep(make_bound("wake-sleep", make_likelihood("bernoulli"), hidden=(4,), samples=2, batch=50))
    bound.forward()
    hidden = np.tanh(bound["sleep z"] @ bound.parameter("decoder.1.weight") + bound.parameter("decoder.1.bias"))
    logit = hidden @ bound.parameter("decoder.logit.weight") + bound.parameter("decoder.logit.bias")
    x = bound["sleep uniform 0"] < 1 / (1 + np.exp(-logit))
    np.testing.assert_array_equal(bound["sleep draw"], x)
    assert 0.2 < x.mean() < 0.8


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_mcem(likelihood: str, samples: int, shape: dict[str, Any], make_bound: Any, make_likelihood: Any) -> None:
    bound = make_bound("mcem", make_likelihood(likelihood), samples=samples, **shape)
    bound["hmc z"][...] = np.random.default_rng(3).standard_normal(bound["hmc z"].shape)
    good(errors(bound, reconstruction, "decoder"))
    gradient = bound.gradient()
    for name, p in bound.model.parameters.named.items():  # the encoder has none: it was never written
        assert np.isnan(gradient[p.lo : p.hi]).all() == name.startswith("encoder")


# A step -----------------------------------------------------------------------------------------------------


def test_beta_one_without_warmup_is_elbo(make_step: Any, make_likelihood: Any) -> None:
    for precision in ("float32", "float64"):
        one, other = (
            make_step(name, make_likelihood("bernoulli"), samples=2, threads=2, precision=precision)
            for name in ("beta", "elbo")
        )
        assert one.run(120).tobytes() == other.run(120).tobytes()
        assert one.theta.tobytes() == other.theta.tobytes()
    assert objective("beta").is_bound


@pytest.mark.parametrize(("step", "beta"), [(1, 0.0), (2, 0.5), (4, 1.5), (5, 2.0), (9, 2.0)])
def test_warmup_is_linear(step: int, beta: float, make_step: Any, make_bound: Any, make_likelihood: Any) -> None:
    """The ``step``-th update is theta - lr gradient of -(reconstruction - beta_t KL)."""
    options = {"beta": 2.0, "warmup": 4}
    sizes = {"hidden": (5,), "batch": 8, "samples": 2, "precision": "float64"}
    run = make_step("beta", make_likelihood("bernoulli"), optimizer=Sgd(), lr=0.1, options=options, **sizes)
    run.fill()
    run.step.run(step - 1)
    before = run.theta.copy()
    run.step.run(1)
    assert run.step.clock.extra.array[0] == pytest.approx(beta)
    bound = make_bound("beta", make_likelihood("bernoulli"), dim=6, options=options, **sizes)
    bound.theta[...], bound.x[...], bound.eps[...] = (
        before,
        run.step.ws.one("x", 6).array,
        run.step.ws.many("eps", 2).array,
    )
    bound["coefficients"][...] = beta
    np.testing.assert_allclose(run.theta, before - 0.1 * bound.gradient(), rtol=1e-12, atol=1e-13)
    assert not objective("beta", options).is_bound
    assert objective("beta", options).remarks(10, 10)


def test_mcem_leaves_the_encoder_alone(make_step: Any, make_likelihood: Any) -> None:
    """Neither trained nor decayed."""
    run = make_step("mcem", make_likelihood("bernoulli"), decay=0.5, samples=2)
    before = run.theta.copy()
    run.run(12)
    for name, p in run.step.model.parameters.named.items():
        same = np.array_equal(run.theta[p.lo : p.hi], before[p.lo : p.hi])
        assert same == name.startswith("encoder"), name


def test_mcem_keeps_a_batch_for_its_updates(make_step: Any, make_likelihood: Any) -> None:
    """Rows, dynamic draw and samples stay for ``updates`` steps; the samples move at each visit, their chains with
    them, and only the chains of the batch."""
    run = make_step("mcem", make_likelihood("bernoulli"), dynamic=True, options={"updates": 3}, rows=16)
    run.fill()
    ws, seen = run.step.ws, []
    chains = ws.buffers["hmc chains"].array
    for t in range(9):
        before = chains.copy()
        run.step.run(1, t)
        index = ws.buffers["index"].array
        np.testing.assert_array_equal(index, run.order.rows(t, 1)[0])
        np.testing.assert_array_equal(chains[index], ws.buffers["hmc z"].array)
        others = np.setdiff1d(np.arange(16), index)
        np.testing.assert_array_equal(chains[others], before[others])
        seen.append([ws.buffers[n].array.tobytes() for n in ("index", "x", "hmc z")])
    for t in range(9):
        assert (seen[t] == seen[t - t % 3]) is True
    assert len({s[2] for s in map(tuple, seen)}) == 3


@pytest.mark.parametrize("threads", [1, 2])
def test_a_data_point_twice_in_a_batch_keeps_the_later_chain(
    threads: int, make_step: Any, make_likelihood: Any
) -> None:
    run = make_step("mcem", make_likelihood("bernoulli"), rows=9, batch=8, threads=threads, options={"updates": 1})
    run.fill()
    twice = 0
    for t in range(9):
        run.step.run(1, t)
        index, z = (run.step.ws.buffers[n].array for n in ("index", "hmc z"))
        for row in np.unique(index):
            places = np.flatnonzero(index == row)
            twice += len(places) > 1
            np.testing.assert_array_equal(run.step.ws.buffers["hmc chains"].array[row], z[places[-1]])
    run.step.backend.close()
    assert twice > 3


def test_mcem_tunes_its_step_to_the_acceptance(make_step: Any, make_likelihood: Any) -> None:
    for target in (0.6, 0.9):
        run = make_step(
            "mcem", make_likelihood("gaussian linear per_dim none"), batch=40, lr=1e-6,
            options={"updates": 1, "acceptance": target},
        )  # fmt: skip
        run.run(150)
        found = []
        for _ in range(50):
            run.run(1)
            found.append(run.step.ws.buffers["hmc probability"].array.mean())
        assert np.mean(found) == pytest.approx(target, abs=0.05)  # 2,000 trajectories: a standard error below 0.01


def test_a_sample_that_asks_for_other_numbers_than_before_is_refused(make_bound: Any, make_likelihood: Any) -> None:
    likelihood = make_likelihood("bernoulli")

    def sample(xp: Any, *heads: Any, draw: Any, x: Any) -> None:
        x[...] = draw.uniform(0 if x.shape[0] == 1 else 1)

    likelihood.sample = sample
    bound = make_bound("wake-sleep", likelihood)
    with pytest.raises(BackendError, match=r"Bernoulli asks for uniform\(1\) in some samples only"):
        bound.forward()


def test_options_are_checked() -> None:
    for name, options, words in (
        ("beta", {"beta": -1.0}, "objective.beta=-1"),
        ("beta", {"beta": float("inf")}, "objective.beta=inf"),
        ("beta", {"warmup": -1}, "objective.warmup=-1"),
        ("autoencoder", {"loss": "cubed"}, "objective.loss=cubed"),
        ("mcem", {"leapfrogs": 0}, "objective.leapfrogs=0"),
        ("mcem", {"updates": 0}, "objective.updates=0"),
        ("mcem", {"transitions": 0}, "objective.transitions=0"),
        ("mcem", {"acceptance": 1.0}, "objective.acceptance=1"),
        ("elbo", {"beta": 1.0}, "no option 'beta'"),
    ):
        with pytest.raises(UsageError, match=words):
            objective(name, options)


def test_an_autoencoder_has_one_z_a_data_point(make_bound: Any, make_likelihood: Any) -> None:
    with pytest.raises(UsageError, match="--samples 2"):
        make_bound("autoencoder", make_likelihood("bernoulli"), samples=2)


# Planted errors ---------------------------------------------------------------------------------------------


def _then(bound: Any, name: str, change: Callable[[], Any]) -> None:
    """Run ``change`` after the last operation ``name``."""
    place = max(i for i, op in enumerate(bound.program.rows) if op.name == name)
    bound.program.rows.insert(place + 1, Operation("planted", lambda xp, rows: change, (), ()))


def _wake_trains_the_encoder(b: Any) -> None:
    """Swapped phases: the encoder's gradient from the wake phase."""
    p = b.batch_pass
    b.program.rows += p.backward([], [])
    mine = p.model.encoder.backward_params(p.ws, p.model.parameters, p.x)
    b.program.pieces = [*mine, *(q for q in b.program.pieces if q.parameter.name.startswith("decoder"))]


def _sleep_trains_the_decoder(b: Any) -> None:
    """Swapped phases: the decoder learns from the dreams' z."""
    _then(b, "log_prob_and_backward", lambda: b["z"].__setitem__(slice(None), b["sleep z"]))


WAKE_SLEEP = {
    "the wake phase trains the encoder": (_wake_trains_the_encoder, dream, "encoder"),
    "dreams of the data": (
        lambda b: _then(b, "sample", lambda: b["sleep draw"].__setitem__(slice(None), b.x)),
        lambda b: dream(b) + 0 * b["x"].sum(),
        "",
    ),
    "the sign of the sleep phase": (
        lambda b: _then(b, "scale", lambda: np.negative(b["sleep dlatent"], out=b["sleep dlatent"])),
        dream,
        "encoder",
    ),
    "a sum over the dreams": (
        lambda b: _then(b, "scale", lambda: np.multiply(b["sleep dlatent"], 3, out=b["sleep dlatent"])),
        dream,
        "encoder",
    ),
    "the decoder sees other samples": (_sleep_trains_the_decoder, reconstruction, "decoder"),
    "z of the wake phase for the dreams' density": (
        lambda b: _then(b, "sample", lambda: b["sleep z"].__setitem__(slice(None), b["z"])),
        None,
        "encoder",
    ),
}


@pytest.mark.parametrize("planted", WAKE_SLEEP)
def test_an_error_in_a_phase_is_caught(planted: str, make_bound: Any, make_likelihood: Any) -> None:
    """Whatever is planted, the true phase's loss at the true samples no longer has this gradient."""
    plant, loss, part = WAKE_SLEEP[planted]
    sizes = {"hidden": (), "batch": 3}
    bound = asleep(make_bound("wake-sleep", make_likelihood("scalar"), **sizes))
    true = asleep(make_bound("wake-sleep", make_likelihood("scalar"), **sizes))
    expected = true.gradient().copy()
    np.testing.assert_array_equal(bound.gradient(), expected)
    plant(bound)
    named = bound.model.parameters.named
    wanted = np.concatenate([np.arange(p.lo, p.hi) for n, p in named.items() if n.startswith(part)])
    off = np.abs(bound.gradient() - expected)[wanted].max()
    assert off > 1e4 * TOLERANCE
    if loss is not None and planted != "dreams of the data":
        assert max(errors(bound, loss, part).values()) > 100 * TOLERANCE


PLANTED = {
    "no KL gradient": ("beta", lambda b: setattr(b.program, "rows", [
        op for op in b.program.rows if op.name != "weighted_kl_backward"])),
    "sign of the KL term": ("beta", lambda b: b["coefficients"].__imul__(-1)),
    "KL of weight one": ("beta", lambda b: b["coefficients"].fill(1)),
    "noise in z": ("autoencoder", lambda b: _then(b, "scale", lambda: b["dlatent"].__iadd__(0.01))),
    "a variance that moves": ("autoencoder", lambda b: _then(b, "fill", lambda: b["dlatent"].__iadd__(0.01))),
    "other samples for the weights": (
        "mcem", lambda b: _then(b, "log_prob_and_backward", lambda: b["hmc z"].__setitem__(slice(None), 0.7))),
    "weights that do not sum to one": ("mcem", lambda b: b["weight"].__imul__(1.01)),
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_error_is_caught(planted: str, make_bound: Any, make_likelihood: Any) -> None:
    name, plant = PLANTED[planted]
    options = {"beta": 2.5} if name == "beta" else None
    loss, part = (weighted_bound(2.5), "") if name == "beta" else (reconstruction, "decoder" if name == "mcem" else "")
    bound = make_bound(name, make_likelihood("scalar"), options=options)
    z = np.random.default_rng(3).standard_normal((3, 2))
    if name == "mcem":
        bound["hmc z"][...] = z
    good(errors(bound, loss, part))
    plant(bound)
    assert max(errors(bound, loss, part).values()) > 100 * TOLERANCE


def test_rows_of_no_batch_are_left_alone(make_bound: Any, make_likelihood: Any) -> None:
    """Half of the rows, as a thread runs them, give half of the results."""
    bound = asleep(make_bound("wake-sleep", make_likelihood("bernoulli"), batch=4, hidden=(3,)))
    whole = bound.forward()
    bound["bound"][...] = 0
    for op in bound.program.rows:
        op.bind(np, Rows(2, 4))()
    np.testing.assert_array_equal(bound["bound"], np.where(np.arange(4) < 2, 0, whole))
