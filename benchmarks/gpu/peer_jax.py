"""JAX on the task: ``peer_jax.py highest|default OUT NAME=FILE ...``, blocks of steps by lax.scan under jit.

The mode is the precision of float32 products: highest is full float32, default may be TF32.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from peer_task import Task, answer, microseconds

BLOCK = 100  # steps a call
EPS = 1e-10  # of Adagrad, as in the engine
LOG_2PI = math.log(2 * math.pi)


def minus_bound(task: Task, p: Any, x: Any, eps: Any) -> Any:
    """Minus the mean bound: of one draw (B, Z), or L_k of draws (k, B, Z)."""
    layers = list(zip(p[::2], p[1::2], strict=True))
    depth = task.depth
    hidden = x
    for weight, bias in layers[:depth]:
        hidden = jnp.tanh(hidden @ weight + bias)
    weight, bias = layers[depth]
    mu, logvar = jnp.split(hidden @ weight + bias, 2, axis=1)
    z = mu + jnp.exp(0.5 * logvar) * eps
    hidden = z
    for weight, bias in layers[depth + 1 : 2 * depth + 1]:
        hidden = jnp.tanh(hidden @ weight + bias)
    heads = [hidden @ weight + bias for weight, bias in layers[2 * depth + 1 :]]
    if task.gaussian:
        residual = x - heads[0]
        logp = -0.5 * (heads[1] + residual * residual * jnp.exp(-heads[1]) + LOG_2PI)
    else:
        logp = x * heads[0] - jax.nn.softplus(heads[0])
    if eps.ndim == 3:
        logw = logp.sum(2) + 0.5 * (eps * eps + logvar - z * z).sum(2)
        return math.log(len(eps)) - jax.nn.logsumexp(logw, axis=0).mean()
    kl = -0.5 * (1 + logvar - mu * mu - jnp.exp(logvar)).sum()
    return (kl - logp.sum()) / x.shape[0]


def update(task: Task, step: Any, p: Any, grads: Any, state: Any) -> tuple[Any, Any]:
    """Adagrad, or Adam as in the engine."""
    if task.optimizer == "adagrad":
        squares = [s + g * g for s, g in zip(state, grads, strict=True)]
        return [a - task.lr * g / (jnp.sqrt(s) + EPS) for a, g, s in zip(p, grads, squares, strict=True)], squares
    first = [0.9 * m + 0.1 * g for (m, _), g in zip(state, grads, strict=True)]
    second = [0.999 * v + 0.001 * g * g for (_, v), g in zip(state, grads, strict=True)]
    c1, c2 = 1 - 0.9**step, 1 - 0.999**step
    moved = [a - task.lr * (m / c1) / (jnp.sqrt(v / c2) + 1e-8) for a, m, v in zip(p, first, second, strict=True)]
    return moved, list(zip(first, second, strict=True))


class Training:
    """One task on the device."""

    def __init__(self, task: Task) -> None:
        self.task = task
        data, self.orders = jnp.asarray(task.train), jnp.asarray(task.orders.astype(np.int32))
        self.block = min(BLOCK, task.steps)

        def one(carry: Any, index: Any) -> tuple[Any, None]:
            step, key, p, state = carry
            key, draw = jax.random.split(key)
            x = data[index].astype(jnp.float32)
            grads = jax.grad(functools.partial(minus_bound, task))(
                p, x, jax.random.normal(draw, task.noise(task.batch))
            )
            p, state = update(task, step + 1.0, p, grads, state)
            return (step + 1.0, key, p, state), None

        self.many = jax.jit(lambda carry, orders: jax.lax.scan(one, carry, orders)[0], donate_argnums=0)
        self.reset()
        self.run(self.block)
        self.reset()

    def reset(self) -> None:
        """Back to the start."""
        p = [jnp.array(a) for a in self.task.parameters]
        state: Any = [jnp.zeros_like(a) for a in p]
        if self.task.optimizer == "adam":
            state = [(s, jnp.zeros_like(s)) for s in state]
        self.carry = (jnp.float32(0), jax.random.PRNGKey(1), p, state)
        self.place = 0

    def run(self, steps: int) -> None:
        """Whole blocks."""
        for _ in range(max(1, steps // self.block)):
            self.carry = self.many(self.carry, self.orders[self.place : self.place + self.block])
            self.place = (self.place + self.block) % (self.task.steps - self.task.steps % self.block)
        jax.block_until_ready(self.carry)

    def bound(self) -> float:
        """Of the test rows, with one draw each, or k."""
        x = jnp.asarray(self.task.test).astype(jnp.float32)
        eps = jax.random.normal(jax.random.PRNGKey(2), self.task.noise(len(x)))
        return -float(minus_bound(self.task, self.carry[2], x, eps))


def main() -> None:
    mode, out, *tasks = sys.argv[1:]
    if mode == "highest":
        jax.config.update("jax_default_matmul_precision", "highest")
    if jax.default_backend() != "gpu":
        sys.exit(f"JAX runs on {jax.default_backend()}, not on the GPU")
    device = str(jax.devices()[0])
    found: dict[str, Any] = {}
    for item in tasks:
        name, _, file = item.partition("=")
        start = time.perf_counter()
        training = Training(Task(file))
        ready = time.perf_counter() - start
        training.run(training.task.steps)
        bound = training.bound()
        us = microseconds(training.run, 2 * training.block, training.task.rounds)
        answer(out, found, name, us, bound, ready_seconds=round(ready, 2), steps=training.task.steps, device=device)


if __name__ == "__main__":
    main()
