"""The workloads in PyTorch: modules, fused losses, and the faster of its fused and its foreach optimizer."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

OPTIMIZERS = {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad}
LOG_2PI = math.log(2 * math.pi)


def layers(widths: list[int]) -> nn.Sequential:
    """Affine layers with tanh after each."""
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(m for a, b in pairs for m in (nn.Linear(a, b), nn.Tanh())))


class Vae(nn.Module):
    """Minus the mean bound of the rows named by ``index``."""

    def __init__(self, spec: dict[str, Any], data: Tensor) -> None:
        super().__init__()
        self.register_buffer("data", data)
        widths = [spec["dim"], *spec["hidden"]]
        self.latent, self.samples = spec["latent"], spec["samples"]
        self.importance = spec["objective"] == "iwae"
        self.gaussian = spec["decoder"] == "gaussian"
        self.encoder = nn.Sequential(*layers(widths), nn.Linear(widths[-1], 2 * self.latent))
        self.hidden = layers([self.latent, *widths[:0:-1]])
        self.head = nn.Linear(widths[1], spec["dim"])
        if self.gaussian:
            self.logvar = nn.Linear(widths[1], spec["dim"])
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0, 0.01)

    def forward(self, index: Tensor) -> Tensor:
        x = self.data.index_select(0, index).float()  # a third of the time of data[index]
        mu, logvar = self.encoder(x).chunk(2, 1)
        if self.importance:
            return self.importance_weighted(x, mu, logvar)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        kl = 0.5 * (mu * mu + logvar.exp() - 1 - logvar).sum()
        return (self.minus_log_likelihood(x, z) + kl) / len(x)

    def minus_log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Summed over rows and columns."""
        h = self.hidden(z)
        raw = self.head(h)
        if not self.gaussian:
            return functional.binary_cross_entropy_with_logits(raw, x, reduction="sum")
        logvar = self.logvar(h)
        residual = x - raw
        return 0.5 * (logvar + residual * residual * torch.exp(-logvar)).sum() + 0.5 * LOG_2PI * x.numel()

    @torch.no_grad()
    def log_likelihood(self, x: Tensor, samples: int, chunk: int) -> Tensor:
        """log 1/K sum_k p(x, z_k) / q(z_k | x) of every row (B, D), by chunks of samples."""
        mu, logvar = self.encoder(x).chunk(2, 1)
        parts = []
        for first in range(0, samples, chunk):
            count = min(chunk, samples - first)
            parts.append(torch.logsumexp(self.log_weights(x, mu, logvar, count), 0))
        return torch.logsumexp(torch.stack(parts), 0) - math.log(samples)

    def importance_weighted(self, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        return math.log(self.samples) - torch.logsumexp(self.log_weights(x, mu, logvar, self.samples), 0).mean()

    def log_weights(self, x: Tensor, mu: Tensor, logvar: Tensor, samples: int) -> Tensor:
        """log p(x, z) - log q(z | x), (samples, B), of Bernoulli data."""
        eps = torch.randn(samples, *mu.shape)
        z = mu + torch.exp(0.5 * logvar) * eps
        logits = self.head(self.hidden(z.flatten(0, 1))).unflatten(0, (samples, -1))
        target = x.expand(samples, -1, -1)
        loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return 0.5 * (eps * eps + logvar - z * z).sum(2) - loss.sum(2)


class Engine:
    """``block`` trains and returns the bound of every step."""

    compiled = False

    def __init__(self, spec: dict[str, Any], data: Any, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.spec = spec
        self.rows = torch.from_numpy(data)
        self.order = iter(self.batches())
        self.note = ""
        self.start("fused")

    def start(self, form: str) -> None:
        """A new model with this form of the optimizer."""
        self.form = form
        self.model = Vae(self.spec, self.rows)
        optimizer = OPTIMIZERS[self.spec["optimizer"]]
        self.optimizer = optimizer(self.model.parameters(), lr=self.spec["lr"], **{form: True})
        self.loss: Any = torch.compile(self.model) if self.compiled else self.model

    def batches(self) -> Any:
        """Row numbers of one batch after the other, from a new permutation each epoch."""
        count, batch = len(self.rows), self.spec["batch"]
        rest = torch.empty(0, dtype=torch.int64)
        while True:
            if len(rest) < batch:
                rest = torch.cat([rest, torch.randperm(count)])
            yield rest[:batch]
            rest = rest[batch:]

    def first(self) -> float:
        """One step; the seconds that more than one took."""
        self.block(1)
        return 0.0

    def settle(self) -> None:
        """Keep the faster form of the optimizer, and start again."""
        steps = 10 if self.spec["batch"] > 100 else 40
        times: dict[str, float] = {}
        for form in ("fused", "foreach"):
            self.start(form)
            self.block(steps)
            start = time.perf_counter()
            self.block(steps)
            times[form] = time.perf_counter() - start
        self.note = min(times, key=times.__getitem__)
        self.start(self.note)

    def block(self, steps: int) -> Any:
        losses = []
        for _ in range(steps):
            loss = self.loss(next(self.order))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        return -torch.stack(losses).numpy()

    def evaluate(self, rows: int, samples: int) -> float:
        """Mean log-likelihood of the first rows by importance sampling."""
        parts = self.rows[:rows].float().split(8)
        return float(torch.cat([self.model.log_likelihood(x, samples, 250) for x in parts]).mean())
