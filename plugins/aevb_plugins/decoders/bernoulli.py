"""Bernoulli likelihood for binary data, from logits (LX 26-27; KW appendix C.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from aevb_engine.kernels.row import row
from aevb_engine.model.columns import Columns
from aevb_engine.model.likelihood import Head, Likelihood, Support

LOG2 = math.log(2)


class Bernoulli(Likelihood):
    """log p(x | logit) = sum_d x_d logit_d - softplus(logit_d), x in {0, 1}.

    With a = logit / 2 (the head arrives halved), u = (2x - 1) a:  log p = sum 2 min(u, 0) + log(1 + |tanh a|) - log 2,
    and the derivative by a is (2x - 1) - tanh a. No term overflows, and log(1 + t) is taken of products of eight
    factors in [1, 2]: an eighth of the logarithms.
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

    def scalar(self, exp: Any, log1p: Any) -> Callable[..., tuple[Any, ...]]:
        """x logit - max(logit, 0) - log(1 + e^-|logit|), and twice x - sigmoid(logit)."""
        zero, one = np.float32(0), np.float32(1)

        def log_prob_and_backward(x: Any, a: Any) -> tuple[Any, Any]:
            logit = a + a
            e = exp(-abs(logit))
            q = one / (one + e)
            d = x - (q if a >= zero else e * q)
            return x * logit - (logit if a > zero else zero) - log1p(e), d + d

        return log_prob_and_backward

    def start(self, columns: Columns) -> Mapping[str, Any]:
        """Half the logit of each column's mean, with one row of ones and one of zeros added (Laplace)."""
        ones, count = columns.mean * columns.count + 1, columns.count + 2
        return {"logit": 0.5 * np.log(ones / (count - ones))}

    def log_prob(self, xp: Any, x: Any, *heads: Any, logp: Any, scratch: Sequence[Any]) -> None:
        (a,), (u, t) = heads, scratch
        sign = t[:, :1]  # one for all samples
        _sign(xp, x, sign)
        xp.multiply(a, sign, out=u)
        xp.tanh(a, out=t)
        _log_prob(xp, u, t, logp)

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
        xp.tanh(a, out=t)
        xp.subtract(da, t, out=da)
        _log_prob(xp, u, t, logp)

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

    def deviation(self, xp: Any, *heads: Any, deviation: Any) -> None:
        """sqrt(p (1 - p)) = 1 / (e^a + e^-a), which keeps its digits where p is near 0 or 1."""
        number = deviation.dtype.type
        xp.absolute(heads[0], out=deviation)  # e^-|a| / (1 + e^-2|a|): nothing overflows
        xp.negative(deviation, out=deviation)
        xp.exp(deviation, out=deviation)
        deviation /= deviation * deviation + number(1)

    def sample(self, xp: Any, *heads: Any, draw: Any, x: Any) -> None:
        self.mean(xp, *heads, mean=x)
        xp.less(draw.uniform(0), x, out=x)


def _sign(xp: Any, x: Any, sign: Any) -> None:
    """sign = 2x - 1."""
    xp.add(x, x, out=sign)
    xp.subtract(sign, sign.dtype.type(1), out=sign)


def _log_prob(xp: Any, u: Any, t: Any, logp: Any) -> None:
    """logp = sum of 2 min(u, 0) + log(1 + |t|) - log 2, with exactly no first term where the sign is right.

    ``u`` and ``t`` are overwritten; the logarithms are taken of products of at most 8 factors in [1, 2].
    """
    width = u.shape[-1]
    zero, two = row(xp, u.dtype, 0, width), row(xp, u.dtype, 2, width)
    xp.minimum(u, zero, out=u)  # a row: NumPy's minimum of an array and a number is four times slower
    xp.matmul(u, two, out=logp)
    xp.absolute(t, out=t)
    xp.add(t, t.dtype.type(1), out=t)
    for _ in range(3):
        half = width // 2
        if half == 0:
            break
        left = t[..., :half]
        xp.multiply(left, t[..., width - half :], out=left)
        width -= half
        t = t[..., :width]
    xp.log(t, out=t)
    logp += xp.add.reduce(t, axis=-1)
    logp -= logp.dtype.type(u.shape[-1] * LOG2)
