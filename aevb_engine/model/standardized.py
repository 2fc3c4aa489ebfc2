"""Data in units of their own: what a model learns of columns with mean 0 and spread 1, said in the data's own units.

With u = (x - shift) / spread a density changes by its unit alone: log p(x) = log p(u) - sum_d log spread_d. The model
reads u; its bounds and likelihoods are those of x, and its draws and means are turned back on the way out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from aevb_engine.errors import UsageError
from aevb_engine.jit import available, inlined
from aevb_engine.model.columns import Columns
from aevb_engine.model.likelihood import Likelihood
from aevb_engine.model.units import Units


class Standardized(Likelihood):
    """A likelihood of real data on rows in units of their own, that gives log p(x) of the rows themselves."""

    def __init__(self, inner: Likelihood, units: Units) -> None:
        """``inner`` has been adapted to the data."""
        if inner.support.kind != "real" or inner.support.measure != "density":
            raise UsageError(f"{type(inner).__name__}: only densities of real data can be standardized")
        self.inner = inner
        self.units = units
        self.heads, self.support, self.scratch = inner.heads, inner.support, inner.scratch
        dim = len(units.spread)
        self._log_spread = units.log_spread
        self._share = self._log_spread / dim  # of a column
        self.cuda = _cuda(inner, self._share)

    def scalar(self, exp: Any, log1p: Any) -> Callable[..., tuple[Any, ...]] | None:
        inner = self.inner.scalar(exp, log1p)
        if inner is None:
            return None
        f, share = (inlined(inner) if available() else inner), np.float32(self._share)

        def log_prob_and_backward(x: Any, *heads: Any) -> tuple[Any, ...]:
            found = f(x, *heads)
            return (found[0] - share, *found[1:])

        return log_prob_and_backward

    def start(self, columns: Columns) -> Mapping[str, Any] | None:
        """``columns`` are those that the model reads."""
        return self.inner.start(columns)

    def log_prob(self, xp: Any, x: Any, *heads: Any, logp: Any, scratch: Sequence[Any]) -> None:
        self.inner.log_prob(xp, x, *heads, logp=logp, scratch=scratch)
        xp.subtract(logp, logp.dtype.type(self._log_spread), out=logp)

    def log_prob_backward(self, xp: Any, x: Any, *heads: Any, dheads: Sequence[Any], scratch: Sequence[Any]) -> None:
        self.inner.log_prob_backward(xp, x, *heads, dheads=dheads, scratch=scratch)

    def log_prob_and_backward(
        self, xp: Any, x: Any, *heads: Any, logp: Any, dheads: Sequence[Any], scratch: Sequence[Any]
    ) -> None:
        self.inner.log_prob_and_backward(xp, x, *heads, logp=logp, dheads=dheads, scratch=scratch)
        xp.subtract(logp, logp.dtype.type(self._log_spread), out=logp)

    def mean(self, xp: Any, *heads: Any, mean: Any) -> None:
        """As the model reads it: the encoder of wake-sleep sees draws and means, too."""
        self.inner.mean(xp, *heads, mean=mean)

    def mean_backward(self, xp: Any, *heads: Any, dmean: Any, dheads: Sequence[Any]) -> None:
        self.inner.mean_backward(xp, *heads, dmean=dmean, dheads=dheads)

    def sample(self, xp: Any, *heads: Any, draw: Any, x: Any) -> None:
        self.inner.sample(xp, *heads, draw=draw, x=x)


def _cuda(inner: Likelihood, share: float) -> str | None:
    """The inner text in a namespace of its own, and its two functions with the constant."""
    if inner.cuda is None:
        return None
    names = [f"head{i}" for i in range(len(inner.heads))]
    star = ["const T* " if h.group > 1 else "T " for h in inner.heads]
    back = ["T* " if h.group > 1 else "T& " for h in inner.heads]
    heads = ", ".join(s + n for s, n in zip(star, names, strict=True))
    dheads = ", ".join(f"{s}d{n}" for s, n in zip(back, names, strict=True))
    given = ", ".join(names)
    return f"""
namespace inner {{
{inner.cuda.strip()}
}}
template <typename T> __device__ T log_prob(T x, {heads}) {{ return inner::log_prob<T>(x, {given}) - (T)({share!r}); }}
template <typename T> __device__ void log_prob_backward(T x, {heads}, {dheads}) {{
    inner::log_prob_backward<T>(x, {given}, {", ".join("d" + n for n in names)});
}}
"""
