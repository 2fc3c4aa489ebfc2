"""The task that ``peers.py`` leaves for PyTorch and JAX, and how their answers go back. Needs NumPy alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Task:
    """A model with tanh layers, trained on given rows in a given order.

    ``parameters`` are weights (in, out) and biases in turn: ``depth`` hidden layers, the encoder's head (mu, logvar),
    ``depth`` hidden layers, and the logits, or under ``gaussian`` mean and log-variance. Trained by the bound of one
    draw, or by L_k of Burda et al. of k = ``samples`` draws.
    """

    def __init__(self, file: str) -> None:
        with np.load(file) as stored:
            self.train, self.test, self.orders = stored["train"], stored["test"], stored["orders"]
            self.lr, self.latent, self.optimizer = float(stored["lr"]), int(stored["latent"]), str(stored["optimizer"])
            self.samples, self.depth, self.rounds = (int(stored[n]) for n in ("samples", "depth", "rounds"))
            self.gaussian = bool(stored["gaussian"])
            count = sum(n.startswith("parameter ") for n in stored.files)
            self.parameters = [stored[f"parameter {i}"] for i in range(count)]
        self.steps, self.batch = self.orders.shape

    def noise(self, rows: int) -> tuple[int, ...]:
        """The shape of the normal numbers for so many rows: (B, Z), or (k, B, Z) for L_k."""
        return (self.samples, rows, self.latent) if self.samples > 1 else (rows, self.latent)


def answer(out: str, found: dict[str, Any], name: str, us: float, bound: float, **more: Any) -> None:
    """Write what is known so far."""
    found[name] = {"us_per_step": round(us, 2), "bound": bound, **more}
    path = Path(out)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(found), encoding="utf-8")
    temporary.replace(path)


def microseconds(run: Callable[[int], None], steps: int, rounds: int) -> float:
    """Median of rounds; ``run(steps)`` returns when the device is done."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run(steps)
        times.append((time.perf_counter() - start) / steps)
    return float(np.median(times)) * 1e6
