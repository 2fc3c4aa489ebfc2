"""Bernoulli likelihood for binary data, from logits (LX 26-27; KW appendix C.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from aevb_engine.model.likelihood import Head, Likelihood, Support

LOG2 = math.log(2)


class Bernoulli(Likelihood):
    """log p(x | logit) = sum_d x_d logit_d - softplus(logit_d), x in {0, 1}.

    With a = logit / 2 (the head arrives halved), u = (2x - 1) a:  log p = sum u - |u| + log(1 + tanh |u|) - log 2,
    and the derivative by a is (2x - 1) - tanh a. No term overflows, and log(1 + t) is taken of products of factors in
    [1, 2], a few logarithms a row.
    """

    summary: ClassVar[str] = "binary data, from logits"
    heads = (Head("logit", scale=0.5),)
    support = Support("binary", "mass")
    scratch = 2
    cuda = """
template <typename T> __device__ T log_prob(T x, T a) {
    T u = (x + x - (T)1) * a;
    return (u < (T)0 ? u + u : (T)0) - log1p(exp((T)-2 * fabs(u)));
}
template <typename T> __device__ void log_prob_backward(T x, T a, T& da) { da = x + x - (T)1 - tanh(a); }
"""

    def log_prob(self, xp: Any, x: Any, *heads: Any, logp: Any, scratch: Sequence[Any]) -> None:
        (a,), (u, t) = heads, scratch
        _sign(xp, x, t)
        xp.multiply(a, t, out=u)
        _mismatch(xp, u, t, logp)
        xp.tanh(t, out=t)
        _add_log_one_plus(xp, t, logp)

    def log_prob_backward(self, xp: Any, x: Any, *heads: Any, dheads: Sequence[Any], scratch: Sequence[Any]) -> None:
        (a,), (da,), (_, t) = heads, dheads, scratch
        _sign(xp, x, da)
        xp.tanh(a, out=t)
        xp.subtract(da, t, out=da)

    def log_prob_and_backward(
        self, xp: Any, x: Any, *heads: Any, logp: Any, dheads: Sequence[Any], scratch: Sequence[Any]
    ) -> None:
        (a,), (da,), (u, t) = heads, dheads, scratch
        _sign(xp, x, da)
        xp.multiply(a, da, out=u)
        _mismatch(xp, u, t, logp)
        xp.tanh(a, out=t)
        xp.subtract(da, t, out=da)
        xp.absolute(t, out=t)
        _add_log_one_plus(xp, t, logp)

    def mean(self, xp: Any, *heads: Any, mean: Any) -> None:
        """sigmoid(logit) = (1 + tanh a) / 2."""
        number = mean.dtype.type
        xp.tanh(heads[0], out=mean)
        xp.add(mean, number(1), out=mean)
        xp.multiply(mean, number(0.5), out=mean)

    def mean_backward(self, xp: Any, *heads: Any, dmean: Any, dheads: Sequence[Any]) -> None:
        """d mean / da = (1 - tanh^2 a) / 2."""
        (da,) = dheads
        number = da.dtype.type
        xp.tanh(heads[0], out=da)
        xp.multiply(da, da, out=da)
        xp.subtract(number(1), da, out=da)
        xp.multiply(da, number(0.5), out=da)
        xp.multiply(da, dmean, out=da)

    def sample(self, xp: Any, *heads: Any, draw: Any, x: Any) -> None:
        self.mean(xp, *heads, mean=x)
        xp.less(draw.uniform(0), x, out=x)


def _sign(xp: Any, x: Any, sign: Any) -> None:
    """sign = 2x - 1."""
    number = sign.dtype.type
    xp.multiply(x, number(2), out=sign)
    xp.subtract(sign, number(1), out=sign)


def _mismatch(xp: Any, u: Any, magnitude: Any, logp: Any) -> None:
    """logp = sum of u - |u| - log 2, exactly zero where the sign is right; leaves |u| in ``magnitude``."""
    xp.absolute(u, out=magnitude)
    xp.subtract(u, magnitude, out=u)
    xp.add.reduce(u, axis=-1, out=logp)
    logp -= logp.dtype.type(u.shape[-1] * LOG2)


def _add_log_one_plus(xp: Any, t: Any, logp: Any) -> None:
    """logp += sum of log(1 + t), t in [0, 1]; ``t`` is overwritten by products of at most 64 factors."""
    xp.add(t, t.dtype.type(1), out=t)
    for _ in range(6):
        width = t.shape[-1]
        half = width // 2
        if half == 0:
            break
        left = t[..., :half]
        xp.multiply(left, t[..., width - half :], out=left)
        t = t[..., : width - half]
    xp.log(t, out=t)
    logp += xp.add.reduce(t, axis=-1)
