"""Encoder and decoder: shapes of parameters and buffers, the empty hidden layer, and their equations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aevb_engine.errors import UsageError
from aevb_engine.model.likelihood import Head
from aevb_engine.model.model import Architecture
from aevb_engine.model.workspace import Workspace
from aevb_engine.operation import Rows


def test_parameter_shapes(make_bound: Any, make_likelihood: Any) -> None:
    """The decoder mirrors the encoder's hidden layers."""
    bound = make_bound("elbo", make_likelihood("gaussian linear per_dim none"), dim=7, latent=2, hidden=(6, 4))
    assert {n: p.shape for n, p in bound.model.parameters.named.items()} == {
        "encoder.1.weight": (7, 6),
        "encoder.1.bias": (6,),
        "encoder.2.weight": (6, 4),
        "encoder.2.bias": (4,),
        "encoder.head.weight": (4, 4),
        "encoder.head.bias": (4,),
        "decoder.1.weight": (2, 4),
        "decoder.1.bias": (4,),
        "decoder.2.weight": (4, 6),
        "decoder.2.bias": (6,),
        "decoder.mean.weight": (6, 7),
        "decoder.mean.bias": (7,),
        "decoder.logvar": (7,),
    }


@pytest.mark.parametrize(
    ("likelihood", "shapes"),
    [
        ("bernoulli", {"decoder.logit.weight": (2, 5), "decoder.logit.bias": (5,)}),
        ("codes", {"decoder.logits.weight": (2, 20), "decoder.logits.bias": (20,)}),
        ("scalar", {"decoder.mean.weight": (2, 5), "decoder.mean.bias": (5,), "decoder.logvar": (1,)}),
    ],
)
def test_empty_hidden_layers(likelihood: str, shapes: dict[str, Any], make_bound: Any, make_likelihood: Any) -> None:
    bound = make_bound("elbo", make_likelihood(likelihood), dim=5, latent=2, hidden=())
    encoder = {"encoder.head.weight": (5, 4), "encoder.head.bias": (4,)}
    assert {n: p.shape for n, p in bound.model.parameters.named.items()} == {**encoder, **shapes}


@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)])
def test_equations(hidden: tuple[int, ...], make_bound: Any, make_likelihood: Any) -> None:
    """LX 20-27 written out: encoder, reparameterization, decoder, log-probability, KL."""
    bound = make_bound("elbo", make_likelihood("bernoulli"), hidden=hidden, samples=3, batch=4)
    value = bound.forward()
    h = bound.x
    for i in range(1, len(hidden) + 1):
        h = np.tanh(h @ bound.parameter(f"encoder.{i}.weight") + bound.parameter(f"encoder.{i}.bias"))
    head = h @ bound.parameter("encoder.head.weight") + bound.parameter("encoder.head.bias")
    mu, logvar = head[:, :2], head[:, 2:]
    z = (mu[:, None] + np.exp(logvar / 2)[:, None] * bound.eps.reshape(4, 3, 2)).reshape(12, 2)  # row b * L + l
    np.testing.assert_allclose(bound["z"], z, rtol=1e-12, atol=1e-14)
    h = z
    for i in range(1, len(hidden) + 1):
        h = np.tanh(h @ bound.parameter(f"decoder.{i}.weight") + bound.parameter(f"decoder.{i}.bias"))
    logit = h @ bound.parameter("decoder.logit.weight") + bound.parameter("decoder.logit.bias")
    x = np.repeat(bound.x, 3, axis=0)
    logp = (x * logit - np.logaddexp(0, logit)).sum(1)
    np.testing.assert_allclose(bound["logp"], logp, rtol=1e-12)
    kl = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).sum(1)
    np.testing.assert_allclose(value, logp.reshape(4, 3).mean(1) - kl, rtol=1e-12)


def test_mean_and_sample(make_bound: Any, make_likelihood: Any) -> None:
    """Their buffers are (B, L, D); samples of a row depend on the draw alone."""
    bound = make_bound("elbo", make_likelihood("bernoulli"), hidden=(4,), samples=2, batch=3, gradient=False)
    bound.forward()
    model, ws, rows = bound.model, bound.ws, Rows(0, 3)
    model.decoder.mean(ws, model.parameters).bind(np, rows)()
    mean = ws.buffers["x mean"].array
    logit = bound["decoder.h1"] @ bound.parameter("decoder.logit.weight") + bound.parameter("decoder.logit.bias")
    np.testing.assert_allclose(mean, 1 / (1 + np.exp(-logit)), rtol=1e-12)

    class Draw:
        def uniform(self, i: int) -> np.ndarray:
            return np.full((3, 2, 5), 0.5)

    model.decoder.sample(ws, model.parameters, Draw()).bind(np, rows)()
    np.testing.assert_array_equal(ws.buffers["draw"].array, mean > 0.5)


def test_workspace_shares_buffers_by_name(make_bound: Any, make_likelihood: Any) -> None:
    ws: Workspace = make_bound("elbo", make_likelihood("bernoulli"), samples=3, batch=4).ws
    assert ws.one("new", 5).array.shape == (4, 5)
    assert ws.many("wide", 5).array.shape == (12, 5)
    assert ws.table("table", 5).array.shape == (5,)
    assert ws.one("new", 5) is ws.one("new", 5)
    with pytest.raises(ValueError, match="shape"):
        ws.one("new", 6)
    assert ws.by_sample(ws.many("wide", 5)).array.shape == (4, 3, 5)
    assert ws.nbytes == sum(b.array.nbytes for b in ws.buffers.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent": 0}, "--latent-dim 0"),
        ({"hidden": (5, 0)}, "--hidden 5,0"),
        ({"activation": "tahn"}, "did you mean 'tanh'"),
        ({"precision": "float16"}, "known: float32, float64"),
    ],
)
def test_bad_architecture(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Architecture(**{"dim": 5, "latent": 2, "hidden": (3,), **changes})


@pytest.mark.parametrize(
    "names", [("x", "z"), ("logp", "eps"), ("mu", "sigma"), ("weight", "scratch0"), ("bound", "kl")]
)
@pytest.mark.parametrize("objective_name", ["elbo", "iwae", "wake-sleep"])
def test_a_head_may_have_any_name(
    names: tuple[str, str], objective_name: str, make_step: Any, make_likelihood: Any
) -> None:
    """The engine's own buffers have others: training gives the same bits."""
    found = []
    for renamed in (False, True):
        likelihood = make_likelihood("gaussian sigmoid affine -1")
        if renamed:
            likelihood.heads = tuple(replace(h, name=n) for h, n in zip(likelihood.heads, names, strict=True))
        run = make_step(objective_name, likelihood, samples=2)
        found.append((run.run(20).tobytes(), run.theta.tobytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["1", "", "a b", "a.b"])
def test_a_head_needs_an_identifier(name: str) -> None:
    with pytest.raises(ValueError, match="must be an identifier"):
        Head(name)
