"""A Laplace likelihood for aevb-engine: real data with sharper peaks and heavier tails than a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from aevb_engine.model.likelihood import Head, Likelihood, Support


class Laplace(Likelihood):
    """log p(x | location, logscale) = -sum_d [|x_d - location_d| e^-logscale_d + logscale_d + log 2], in nats.

    x (B, 1, D), location and logscale (B, L, D), logp (B, L).
    """

    summary: ClassVar[str] = "real data, location and log-scale from the decoder"
    heads = (Head("location"), Head("logscale"))
    support = Support("real", "density")
    scratch = 2
    cuda = """
template <typename T> __device__ T log_prob(T x, T location, T logscale) {
    return -fabs(x - location) * exp(-logscale) - logscale - (T)0.6931471805599453;
}
template <typename T> __device__ void log_prob_backward(T x, T location, T logscale, T& dlocation, T& dlogscale) {
    T rate = exp(-logscale);
    dlocation = (T)((x > location) - (x < location)) * rate;
    dlogscale = fabs(x - location) * rate - (T)1;
}
"""

    def scalar(self, exp: Any, log1p: Any) -> Callable[..., tuple[Any, ...]]:
        """One column on numbers, for a compiled loop (optional)."""
        one, log_2 = np.float32(1), np.float32(math.log(2))

        def log_prob_and_backward(x: Any, location: Any, logscale: Any) -> tuple[Any, Any, Any]:
            rate = exp(-logscale)
            distance = abs(x - location) * rate
            slope = rate if x > location else -rate if x < location else rate - rate
            return -distance - logscale - log_2, slope, distance - one

        return log_prob_and_backward

    def log_prob(self, xp: Any, x: Any, *heads: Any, logp: Any, scratch: Sequence[Any]) -> None:
        (location, logscale), (distance, rate) = heads, scratch
        xp.exp(xp.negative(logscale, out=rate), out=rate)
        xp.absolute(xp.subtract(x, location, out=distance), out=distance)
        xp.multiply(distance, rate, out=distance)
        xp.add(distance, logscale, out=distance)
        xp.add.reduce(distance, axis=-1, out=logp)
        xp.add(logp, logp.dtype.type(x.shape[-1] * math.log(2)), out=logp)
        xp.negative(logp, out=logp)

    def log_prob_backward(self, xp: Any, x: Any, *heads: Any, dheads: Sequence[Any], scratch: Sequence[Any]) -> None:
        """dlocation = sign(x - location) e^-logscale; dlogscale = |x - location| e^-logscale - 1."""
        (location, logscale), (dlocation, dlogscale), (distance, rate) = heads, dheads, scratch
        xp.exp(xp.negative(logscale, out=rate), out=rate)
        xp.subtract(x, location, out=distance)
        xp.multiply(xp.sign(distance, out=dlocation), rate, out=dlocation)
        xp.multiply(distance, dlocation, out=dlogscale)
        xp.subtract(dlogscale, dlogscale.dtype.type(1), out=dlogscale)

    def mean(self, xp: Any, *heads: Any, mean: Any) -> None:
        mean[...] = heads[0]

    def deviation(self, xp: Any, *heads: Any, deviation: Any) -> None:
        """sqrt(2) times the scale (optional; needed by ``VAE.spread``)."""
        deviation[...] = math.sqrt(2) * xp.exp(heads[1])

    def sample(self, xp: Any, *heads: Any, draw: Any, x: Any) -> None:
        """location + scale * (difference of two exponential numbers); 1 - u is never zero."""
        location, logscale = heads
        x[...] = location + xp.exp(logscale) * (xp.log1p(-draw.uniform(0)) - xp.log1p(-draw.uniform(1)))
