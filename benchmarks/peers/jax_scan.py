"""The workloads in JAX: a jitted ``lax.scan`` over a block of steps, parameters and optimizer state donated."""

from __future__ import annotations

import functools
import itertools
import math
import time
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

LOG_2PI = math.log(2 * math.pi)


def affine(p: Any, x: Any) -> Any:
    return x @ p["w"] + p["b"]


def hidden(stack: Any, x: Any) -> Any:
    for p in stack:
        x = jnp.tanh(affine(p, x))
    return x


def softplus(x: Any) -> Any:
    """log(1 + e^x); in this form XLA's loops are faster than with ``jax.nn.softplus``."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def initial(spec: dict[str, Any], key: Any) -> dict[str, Any]:
    """Every parameter from N(0, 0.01^2)."""
    widths = [spec["dim"], *spec["hidden"]]
    back = [spec["latent"], *widths[:0:-1]]
    shapes: dict[str, Any] = {
        "encoder": list(itertools.pairwise(widths)),
        "posterior": (widths[-1], 2 * spec["latent"]),
        "decoder": list(itertools.pairwise(back)),
        "head": (widths[1], spec["dim"]),
    }
    if spec["decoder"] == "gaussian":
        shapes["logvar"] = shapes["head"]
    leaves, form = jax.tree.flatten(shapes, is_leaf=lambda s: isinstance(s, tuple))
    keys = jax.random.split(key, 2 * len(leaves)).reshape(len(leaves), 2, -1)
    draw = functools.partial(jax.random.normal, dtype=jnp.float32)
    made = [{"w": 0.01 * draw(k[0], s), "b": 0.01 * draw(k[1], s[1:])} for k, s in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(form, made)  # type: ignore[no-any-return]


def minus_bound(spec: dict[str, Any], p: Any, x: Any, key: Any) -> Any:
    """Minus the mean bound of a batch (B, D)."""
    mu, logvar = jnp.split(affine(p["posterior"], hidden(p["encoder"], x)), 2, axis=1)
    if spec["objective"] == "iwae":
        return importance_weighted(spec, p, x, mu, logvar, key)
    z = mu + jnp.exp(0.5 * logvar) * jax.random.normal(key, mu.shape)
    kl = 0.5 * jnp.sum(mu * mu + jnp.exp(logvar) - 1 - logvar)
    h = hidden(p["decoder"], z)
    raw = affine(p["head"], h)
    if spec["decoder"] == "gaussian":
        logvar = affine(p["logvar"], h)
        residual = x - raw
        loss = 0.5 * jnp.sum(logvar + residual * residual * jnp.exp(-logvar) + LOG_2PI)
    else:
        loss = jnp.sum(softplus(raw) - x * raw)
    return (loss + kl) / len(x)


def importance_weighted(spec: dict[str, Any], p: Any, x: Any, mu: Any, logvar: Any, key: Any) -> Any:
    logw = log_weights(spec["samples"], p, x, mu, logvar, key)
    return math.log(spec["samples"]) - jnp.mean(jax.nn.logsumexp(logw, axis=0))


def log_weights(samples: int, p: Any, x: Any, mu: Any, logvar: Any, key: Any) -> Any:
    """log p(x, z) - log q(z | x), (samples, B), of Bernoulli data."""
    eps = jax.random.normal(key, (samples, *mu.shape))
    z = mu + jnp.exp(0.5 * logvar) * eps
    logits = affine(p["head"], hidden(p["decoder"], z))
    loss = jnp.sum(softplus(logits) - x * logits, 2)
    return 0.5 * jnp.sum(eps * eps + logvar - z * z, 2) - loss


@functools.partial(jax.jit, static_argnums=(3, 4))
def log_likelihood(p: Any, x: Any, key: Any, samples: int, chunk: int) -> Any:
    """log 1/K sum_k p(x, z_k) / q(z_k | x) of every row (B, D), by chunks of samples."""
    mu, logvar = jnp.split(affine(p["posterior"], hidden(p["encoder"], x)), 2, axis=1)

    def one(nothing: None, key: Any) -> Any:
        return None, jax.nn.logsumexp(log_weights(chunk, p, x, mu, logvar, key), axis=0)

    _, parts = lax.scan(one, None, jax.random.split(key, samples // chunk))
    return jax.nn.logsumexp(parts, axis=0) - math.log(samples)


def adagrad(spec: dict[str, Any], step: Any, p: Any, g: Any, squares: Any) -> Any:
    squares = squares + g * g
    return p - spec["lr"] * g / (jnp.sqrt(squares) + 1e-10), squares


def adam(spec: dict[str, Any], step: Any, p: Any, g: Any, first: Any, second: Any) -> Any:
    first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * (g * g)
    rate = spec["lr"] / (1 - 0.9**step)
    root = lax.rsqrt(1 - 0.999**step)
    return p - rate * first / (jnp.sqrt(second) * root + 1e-8), first, second


OPTIMIZERS: dict[str, Any] = {"adam": (adam, 2), "adagrad": (adagrad, 1)}


def train(spec: dict[str, Any], data: Any, carry: Any, orders: Any) -> Any:
    """As many steps as ``orders`` (steps, B) has rows; the bound of each."""
    update, _ = OPTIMIZERS[spec["optimizer"]]

    def one(carry: Any, index: Any) -> Any:
        step, key, p, state = carry
        key, now = jax.random.split(key)
        x = data[index].astype(jnp.float32)
        loss, g = jax.value_and_grad(functools.partial(minus_bound, spec))(p, x, now)
        step = step + 1
        new = jax.tree.map(functools.partial(update, spec, step), p, g, *state)
        p, *state = jax.tree.transpose(jax.tree.structure(p), None, new)
        return (step, key, p, state), -loss

    return lax.scan(one, carry, orders)


class Engine:
    """``block`` trains and returns the bound of every step."""

    def __init__(self, spec: dict[str, Any], data: Any, threads: int) -> None:
        self.spec = spec
        self.note = ""
        self.length = 20 if spec["batch"] > 100 else 100
        self.rng = np.random.default_rng(0)
        self.rest = np.empty(0, np.int64)
        self.count = len(data)
        self.data = jnp.asarray(data)
        self.start()
        self.step: Any = None

    def start(self) -> None:
        key, noise = jax.random.split(jax.random.PRNGKey(0))
        p = initial(self.spec, key)
        _, moments = OPTIMIZERS[self.spec["optimizer"]]
        state = [jax.tree.map(jnp.zeros_like, p) for _ in range(moments)]
        self.carry: Any = (jnp.float32(0), noise, p, state)

    def orders(self, steps: int) -> Any:
        """Row numbers (steps, B), from a new permutation each epoch."""
        wanted = steps * self.spec["batch"]
        while len(self.rest) < wanted:
            self.rest = np.concatenate([self.rest, self.rng.permutation(self.count)])
        now, self.rest = self.rest[:wanted], self.rest[wanted:]
        return now.reshape(steps, -1).astype(np.int32)

    def first(self) -> float:
        """Compile and run; the seconds that more than one step took."""
        orders = self.orders(self.length)
        jitted = jax.jit(functools.partial(train, self.spec), donate_argnums=1)
        self.step = jitted.lower(self.data, self.carry, orders).compile()
        start = time.perf_counter()
        self.carry, bounds = self.step(self.data, self.carry, orders)
        bounds.block_until_ready()
        return (time.perf_counter() - start) * (1 - 1 / self.length)

    def settle(self) -> None:
        """Start again: the first block is not part of the bounds."""
        self.start()

    def block(self, steps: int) -> Any:
        parts = []
        for _ in range(steps // self.length):
            self.carry, bounds = self.step(self.data, self.carry, self.orders(self.length))
            parts.append(bounds)
        return np.concatenate([np.asarray(b) for b in parts])

    def evaluate(self, rows: int, samples: int) -> float:
        """Mean log-likelihood of the first rows by importance sampling."""
        _, key, p, _ = self.carry
        parts = np.split(np.asarray(self.data[:rows], np.float32), rows // 8)
        return float(np.mean([np.asarray(log_likelihood(p, x, key, samples, 250)) for x in parts]))
