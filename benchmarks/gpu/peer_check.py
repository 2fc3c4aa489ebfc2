"""The peers' models against this engine on the CPU at tiny sizes: ``peer_check.py torch|jax``.

For each workload the relative error by norm of the first batch's bound, of its gradient with the engine's own noise,
and of the first step of the optimizer; one line of JSON.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import peers
from parity import relative
from peer_task import Task
from section import Options


def engine(made: Any) -> tuple[Any, Any, Any, Any]:
    """Bound, gradient and step of the first batch, and its noise (k, B, Z) or (B, Z)."""
    from aevb_engine.kernels.noise import Noise

    config = made.config
    shape = (
        config.batch_size,
        config.samples,
        config.latent_dim,
    )  # the engine's rows: draws of one data point together
    eps = np.empty((1, shape[0] * shape[1], shape[2]), np.float32)
    Noise(np, config.seed, "noise").normal(0, 0, eps)
    before = made.model.parameters.theta.astype(np.float64)
    rows = made.trainer.advance(1)
    parameters = made.model.parameters
    grad, moved = parameters.grad.astype(np.float64), parameters.theta.astype(np.float64) - before
    eps = eps.reshape(shape).transpose(1, 0, 2)
    return rows[0, 2], grad, moved, np.ascontiguousarray(eps if config.samples > 1 else eps[0])


def torch_peer(task: Task, eps: Any) -> tuple[Any, Any, Any]:
    import peer_torch
    import torch

    peer_torch.DEVICE = "cpu"
    made = peer_torch.Training(task, "eager")
    made.noise = lambda rows: torch.from_numpy(eps)  # type: ignore[method-assign]
    x = made.data[made.orders[0]].float()
    bound = -peer_torch.minus_bound(made.parameters, x, torch.from_numpy(eps), task.depth, task.gaussian) / task.batch
    made.run(1)
    grad = flat([p.grad.numpy() for p in made.parameters])
    return float(bound.detach()), grad, flat([p.detach().numpy() for p in made.parameters]) - flat(task.parameters)


def jax_peer(task: Task, eps: Any) -> tuple[Any, Any, Any]:
    import jax
    import jax.numpy as jnp
    import peer_jax

    made = peer_jax.Training(task)
    _, _, p, state = made.carry
    x = jnp.asarray(task.train)[task.orders[0]].astype(jnp.float32)
    value, grads = jax.value_and_grad(functools.partial(peer_jax.minus_bound, task))(p, x, jnp.asarray(eps))
    moved, _ = peer_jax.update(task, jnp.float32(1), p, grads, state)
    return -float(value), flat(grads), flat(moved) - flat(task.parameters)


def flat(arrays: Any) -> Any:
    return np.concatenate([np.asarray(a, np.float64).ravel() for a in arrays])


def main() -> None:
    peer = {"torch": torch_peer, "jax": jax_peer}[sys.argv[1]]
    errors = {}
    with tempfile.TemporaryDirectory() as folder:
        options = Options(True, None, Path(folder), time.monotonic() + 600)
        for name in peers.WORK:
            made = peers.begun("cpu", name, options, {"threads": 1, "initial": "glorot"})  # all layers matter
            file = Path(folder) / f"{name}.npz"
            peers.leave(made, name, file, 2)
            bound, grad, moved, eps = engine(made)
            found = peer(Task(str(file)), eps)
            errors[name] = {
                "bound": abs(found[0] - bound) / abs(bound),
                "gradient": relative(grad, found[1]),
                "step": relative(moved, found[2]),
            }
    sys.stdout.write(json.dumps(errors) + "\n")


if __name__ == "__main__":
    main()
