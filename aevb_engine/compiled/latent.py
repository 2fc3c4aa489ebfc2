"""The latent variables in one loop: from the encoder's head to z with the bound's terms, and back (LX 4, 8, 25)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from aevb_engine.compiled.elementary import elementary
from aevb_engine.jit import compiled
from aevb_engine.kernels.gaussian import LOG_2PI

ZERO, HALF, ONE, LOG_TWO_PI = (np.float32(c) for c in (0, 0.5, 1, LOG_2PI))


@cache
def forward() -> Any:
    """``loop(head, bias, eps, sigma, z, kl)``: head += bias; sigma, z = mu + sigma eps and KL(q || p)."""
    exp, excess = elementary().exp, elementary().excess

    def loop(head: Any, bias: Any, eps: Any, sigma: Any, z: Any, kl: Any) -> None:
        latent = sigma.shape[1]
        for b in range(sigma.shape[0]):
            total = ZERO
            for j in range(latent):
                head[b, j] += bias[j]
                head[b, latent + j] += bias[latent + j]
                mu, logvar = head[b, j], head[b, latent + j]
                s = exp(HALF * logvar)
                sigma[b, j] = s
                total += mu * mu + excess(logvar)
                for k in range(eps.shape[1]):
                    z[b, k, j] = mu + s * eps[b, k, j]
            kl[b] = HALF * total

    return compiled(loop)


@cache
def forward_mc() -> Any:
    """``loop(head, bias, eps, sigma, z, prior, posterior)``: as ``forward``, with log p(z) and log q(z | x) instead."""
    exp = elementary().exp

    def loop(head: Any, bias: Any, eps: Any, sigma: Any, z: Any, prior: Any, posterior: Any) -> None:
        latent = sigma.shape[1]
        for b in range(sigma.shape[0]):
            entropy = LOG_TWO_PI * np.float32(latent)
            for j in range(latent):
                head[b, j] += bias[j]
                head[b, latent + j] += bias[latent + j]
                sigma[b, j] = exp(HALF * head[b, latent + j])
                entropy += head[b, latent + j]
            for k in range(eps.shape[1]):
                squares, noise = LOG_TWO_PI * np.float32(latent), entropy
                for j in range(latent):
                    e = eps[b, k, j]
                    value = head[b, j] + sigma[b, j] * e
                    z[b, k, j] = value
                    squares += value * value
                    noise += e * e
                prior[b, k] = -HALF * squares
                posterior[b, k] = -HALF * noise

    return compiled(loop)


@cache
def backward() -> Any:
    """``loop(dz, mu, sigma, eps, weight, dmu, dlogvar)``: through z, plus weight times the gradient of the KL term."""

    def loop(dz: Any, mu: Any, sigma: Any, eps: Any, weight: Any, dmu: Any, dlogvar: Any) -> None:
        for b in range(mu.shape[0]):
            for j in range(mu.shape[1]):
                total, scaled, s = ZERO, ZERO, sigma[b, j]
                for k in range(dz.shape[1]):
                    total += dz[b, k, j]
                    scaled += dz[b, k, j] * eps[b, k, j]
                dmu[b, j] = total + weight * mu[b, j]
                dlogvar[b, j] = HALF * (s * scaled + weight * (s * s - ONE))

    return compiled(loop)


@cache
def backward_mc() -> Any:
    """``loop(dz, z, row_weight, sigma, eps, entropy, dmu, dlogvar)``: with the prior's gradient -z and q's entropy."""

    def loop(dz: Any, z: Any, row_weight: Any, sigma: Any, eps: Any, entropy: Any, dmu: Any, dlogvar: Any) -> None:
        for b in range(sigma.shape[0]):
            for j in range(sigma.shape[1]):
                total, scaled = ZERO, ZERO
                for k in range(dz.shape[1]):
                    g = dz[b, k, j] - row_weight[b, k] * z[b, k, j]
                    total += g
                    scaled += g * eps[b, k, j]
                dmu[b, j] = total
                dlogvar[b, j] = HALF * sigma[b, j] * scaled + entropy

    return compiled(loop)
