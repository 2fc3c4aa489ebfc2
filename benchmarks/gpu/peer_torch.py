"""PyTorch on the task: ``peer_torch.py eager|compiled|graph OUT NAME=FILE ...``.

eager: fused Adam, foreach Adagrad, batches gathered on the device. compiled: forward and backward by torch.compile.
graph: one whole step, gather to optimizer, captured and replayed.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import torch
from peer_task import Task, answer, microseconds
from torch.nn import functional

EPS = 1e-10  # of Adagrad, as in the engine
LOG_2PI = math.log(2 * math.pi)
DEVICE = "cuda"  # peer_check.py looks at the models on the CPU


def minus_bound(p: list[Any], x: Any, eps: Any, depth: int, gaussian: bool) -> Any:
    """Minus the bound, summed over the batch: of one draw (B, Z), or L_k of draws (k, B, Z)."""
    layers = list(zip(p[1::2], p[::2], strict=True))
    hidden = x
    for bias, weight in layers[:depth]:
        hidden = torch.tanh(torch.addmm(bias, hidden, weight))
    bias, weight = layers[depth]
    mu, logvar = torch.addmm(bias, hidden, weight).chunk(2, 1)
    z = mu + torch.exp(0.5 * logvar) * eps
    hidden = z.flatten(0, -2)
    for bias, weight in layers[depth + 1 : 2 * depth + 1]:
        hidden = torch.tanh(torch.addmm(bias, hidden, weight))
    heads = [torch.addmm(bias, hidden, weight) for bias, weight in layers[2 * depth + 1 :]]
    if eps.dim() == 3:
        logit = heads[0].unflatten(0, eps.shape[:2])
        loss = functional.binary_cross_entropy_with_logits(logit, x.expand_as(logit), reduction="none").sum(2)
        logw = 0.5 * (eps * eps + logvar - z * z).sum(2) - loss
        return len(x) * math.log(len(eps)) - torch.logsumexp(logw, 0).sum()
    kl = -0.5 * (1 + logvar - mu * mu - logvar.exp()).sum()
    if not gaussian:
        return functional.binary_cross_entropy_with_logits(heads[0], x, reduction="sum") + kl
    mean, spread = heads
    residual = x - mean
    return 0.5 * (spread + residual * residual * torch.exp(-spread) + LOG_2PI).sum() + kl


class Adagrad:
    """The whole update on the device, so that it can be captured."""

    def __init__(self, parameters: list[Any], lr: float) -> None:
        self.parameters, self.lr = parameters, lr
        self.squares = [torch.zeros_like(p) for p in parameters]

    def step(self) -> None:
        grads = [p.grad for p in self.parameters]
        with torch.no_grad():
            torch._foreach_addcmul_(self.squares, grads, grads)
            roots = torch._foreach_sqrt(self.squares)
            torch._foreach_add_(roots, EPS)
            torch._foreach_addcdiv_(self.parameters, grads, roots, -self.lr)

    def reset(self) -> None:
        torch._foreach_zero_(self.squares)


class Adam:
    """torch.optim.Adam, fused."""

    def __init__(self, parameters: list[Any], lr: float, capturable: bool) -> None:
        self.inner = torch.optim.Adam(parameters, lr=lr, fused=True, capturable=capturable)
        self.step = self.inner.step

    def reset(self) -> None:
        for state in self.inner.state.values():
            for tensor in state.values():
                tensor.zero_()


class Training:
    """One task on the device."""

    def __init__(self, task: Task, mode: str) -> None:
        self.task = task
        self.data, self.orders = (torch.as_tensor(a, device=DEVICE) for a in (task.train, task.orders))
        self.first = [torch.as_tensor(a, device=DEVICE) for a in task.parameters]
        self.parameters = [a.clone().requires_grad_() for a in self.first]
        made: Any = Adagrad(self.parameters, task.lr)
        if task.optimizer == "adam":
            made = Adam(self.parameters, task.lr, mode == "graph")
        self.optimizer = made
        self.cursor = torch.zeros(1, dtype=torch.int64, device=DEVICE)
        self.loss = torch.compile(minus_bound, dynamic=False) if mode == "compiled" else minus_bound
        self.place = 0
        self.replay: Any = None
        if mode == "graph":
            self._capture()
        else:
            self.run(5)
        self.reset()

    def _backward(self, index: Any) -> None:
        x = self.data.index_select(0, index).float()
        task = self.task
        loss = self.loss(self.parameters, x, self.noise(task.batch), task.depth, task.gaussian) / task.batch
        loss.backward()
        self.optimizer.step()

    def noise(self, rows: int) -> Any:
        """Normal numbers for so many rows."""
        return torch.randn(self.task.noise(rows), device=DEVICE)

    def _captured_step(self) -> None:
        for p in self.parameters:
            p.grad.zero_()
        self._backward(self.orders.index_select(0, self.cursor).view(-1))
        self.cursor.add_(1).remainder_(self.task.steps)

    def _capture(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for p in self.parameters:
                p.grad = torch.zeros_like(p)
            for _ in range(3):
                self._captured_step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._captured_step()
        self.replay = graph.replay

    def reset(self) -> None:
        """Back to the start."""
        with torch.no_grad():
            for p, first in zip(self.parameters, self.first, strict=True):
                p.copy_(first)
        self.optimizer.reset()
        self.cursor.zero_()
        self.place = 0
        wait()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            if self.replay is not None:
                self.replay()
                continue
            for p in self.parameters:
                p.grad = None
            self._backward(self.orders[self.place])
            self.place = (self.place + 1) % self.task.steps
        wait()

    def bound(self) -> float:
        """Of the test rows, with one draw each, or k."""
        task = self.task
        x = torch.as_tensor(task.test, device=DEVICE).float()
        with torch.no_grad():
            return -float(minus_bound(self.parameters, x, self.noise(len(x)), task.depth, task.gaussian)) / len(x)


def wait() -> None:
    """Until the device is done."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    mode, out, *tasks = sys.argv[1:]
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("highest")
    found: dict[str, Any] = {}
    for item in tasks:
        name, _, file = item.partition("=")
        start = time.perf_counter()
        training = Training(Task(file), mode)
        ready = time.perf_counter() - start
        training.run(training.task.steps)
        bound = training.bound()
        us = microseconds(training.run, min(200, training.task.steps), training.task.rounds)
        answer(out, found, name, us, bound, ready_seconds=round(ready, 2), steps=training.task.steps)


if __name__ == "__main__":
    main()
