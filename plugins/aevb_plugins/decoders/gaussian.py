"""Gaussian likelihood for real data (LX 28-31; KW appendix C.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from aevb_engine.errors import UsageError
from aevb_engine.kernels.gaussian import LOG_2PI, gaussian_log_density, gaussian_log_density_and_backward
from aevb_engine.model.columns import Columns
from aevb_engine.model.likelihood import Head, Likelihood, Support

LEAST_VARIANCE = 1e-6  # that a constant column starts with, as a share of a usual one
EDGE = 1e-3  # how far from 0 and 1 a sigmoid mean starts
ABOVE_FLOOR = 0.1  # how far from its floor a log-variance starts: below, its gradient vanishes


class Gaussian(Likelihood):
    """log N(x; mean, e^logvar), both from the decoder.

    ``mean``: "linear", "sigmoid" (KW for the Frey faces), or "auto": sigmoid where all data lie in [0, 1].
    ``variance``: "affine" from the hidden layer or "per_dim", one free number a column. ``min_logvar``: a smooth
    floor, logvar = floor + softplus(raw - floor), for data of unit scale (data in other units move it by their
    log-variance unit); "none" for no floor.
    """

    summary: ClassVar[str] = "real data, mean and log-variance from the decoder"
    support = Support("real", "density")
    scratch = 4

    def __init__(
        self,
        *,
        mean: Literal["auto", "linear", "sigmoid"] = "auto",
        variance: Literal["affine", "per_dim"] = "affine",
        min_logvar: float | None = -7.0,
    ) -> None:
        self.mean_form = mean
        self.variance = variance
        if min_logvar is not None and not math.isfinite(min_logvar):
            raise UsageError(f"decoder.min_logvar={min_logvar}: a finite number is needed, or none")
        self.floor = min_logvar
        self._choose(sigmoid=mean == "sigmoid")
        self.cuda = _cuda(self.sigmoid, self.floor)

    def adapt(self, *, log_variance_unit: float, unit_interval: bool) -> None:
        if self.mean_form == "auto":
            self._choose(sigmoid=unit_interval)
        if self.floor is not None:
            self.floor += log_variance_unit
        self.cuda = _cuda(self.sigmoid, self.floor)

    @property
    def any_unit(self) -> bool:
        """Not where means are sigmoids, asked for or settled by the data."""
        return not self.sigmoid

    def _choose(self, *, sigmoid: bool) -> None:
        self.sigmoid = sigmoid
        self.heads = (Head("mean", scale=0.5 if sigmoid else 1.0), Head("logvar", source=self.variance))

    def scalar(self, exp: Any, log1p: Any) -> Callable[..., tuple[Any, ...]]:
        """The density of one column with its derivatives by both heads as they arrive."""
        sigmoid, floored, low = self.sigmoid, self.floor is not None, np.float32(self.floor or 0)
        zero, half, one, log_2pi = (np.float32(c) for c in (0, 0.5, 1, LOG_2PI))

        def log_prob_and_backward(x: Any, mean: Any, logvar: Any) -> tuple[Any, Any, Any]:
            mean_slope = logvar_slope = one
            if sigmoid:  # of twice the halved head
                e = exp(-abs(mean + mean))
                q = one / (one + e)
                mean = q if mean >= zero else e * q
                mean_slope = (mean + mean) * (one - mean)
            if floored:
                v = logvar - low
                e = exp(-abs(v))
                q = one / (one + e)
                logvar_slope = q if v >= zero else e * q
                logvar = low + (v if v > zero else zero) + log1p(e)
            root = exp(-half * logvar)
            residual = (x - mean) * root
            square = residual * residual
            logp = -half * (square + logvar + log_2pi)
            return logp, residual * root * mean_slope, half * (square - one) * logvar_slope

        return log_prob_and_backward

    def start(self, columns: Columns) -> Mapping[str, Any]:
        """Mean and log-variance of each column, through the inverse of the sigmoid and of the floor."""
        mean, variance = columns.mean, columns.variance
        moving = variance[variance > 0]
        constant = LEAST_VARIANCE * (float(np.median(moving)) if len(moving) else 1.0)
        logvar = np.log(np.where(variance > 0, variance, constant))
        if self.sigmoid:
            inside = np.clip(mean, EDGE, 1 - EDGE)
            mean = 0.5 * np.log(inside / (1 - inside))
        if self.floor is not None:  # logvar = floor + softplus(raw - floor)
            logvar = self.floor + np.log(np.expm1(np.maximum(logvar - self.floor, ABOVE_FLOOR)))
        return {"mean": mean, "logvar": logvar}

    def log_prob(self, xp: Any, x: Any, *heads: Any, logp: Any, scratch: Sequence[Any]) -> None:
        mean, logvar = self._mean(xp, heads[0], scratch[0]), self._logvar(xp, heads[1], scratch[1], scratch[2])
        gaussian_log_density(xp, x, mean, logvar, scratch[2], scratch[3], logp)

    def log_prob_backward(self, xp: Any, x: Any, *heads: Any, dheads: Sequence[Any], scratch: Sequence[Any]) -> None:
        unused = scratch[3][..., 0]
        self.log_prob_and_backward(xp, x, *heads, logp=unused, dheads=dheads, scratch=scratch)

    def log_prob_and_backward(
        self, xp: Any, x: Any, *heads: Any, logp: Any, dheads: Sequence[Any], scratch: Sequence[Any]
    ) -> None:
        dmean, dlogvar = dheads
        work = scratch[2]
        number = work.dtype.type
        mean, logvar = self._mean(xp, heads[0], scratch[0]), self._logvar(xp, heads[1], scratch[1], work)
        gaussian_log_density_and_backward(xp, x, mean, logvar, work, logp, dmean, dlogvar)
        if self.sigmoid:  # d mean / d(raw / 2) = 2 mean (1 - mean)
            xp.subtract(number(1), mean, out=work)
            xp.multiply(work, mean, out=work)
            xp.multiply(dmean, work, out=dmean)
            xp.add(dmean, dmean, out=dmean)
        if self.floor is not None:  # d logvar / d raw = sigmoid(raw - floor); of logvar it would cancel near the floor
            slope = work[: logvar.shape[0], : logvar.shape[1]]
            xp.subtract(number(self.floor), heads[1], out=slope)
            xp.exp(slope, out=slope)
            xp.add(slope, number(1), out=slope)
            xp.divide(dlogvar, slope, out=dlogvar)

    def mean(self, xp: Any, *heads: Any, mean: Any) -> None:
        if self.sigmoid:
            self._mean(xp, heads[0], mean)
        else:
            mean[...] = heads[0]

    def mean_backward(self, xp: Any, *heads: Any, dmean: Any, dheads: Sequence[Any]) -> None:
        dheads[1][...] = 0
        if self.sigmoid:  # (1 - tanh^2) / 2
            out = dheads[0]
            number = out.dtype.type
            xp.tanh(heads[0], out=out)
            xp.multiply(out, out, out=out)
            xp.subtract(number(1), out, out=out)
            xp.multiply(out, number(0.5), out=out)
            xp.multiply(out, dmean, out=out)
        else:
            dheads[0][...] = dmean

    def deviation(self, xp: Any, *heads: Any, deviation: Any) -> None:
        """e^(logvar / 2)."""
        logvar = self._logvar(xp, heads[1], xp.empty_like(deviation), deviation)
        xp.multiply(logvar, deviation.dtype.type(0.5), out=deviation)
        xp.exp(deviation, out=deviation)

    def sample(self, xp: Any, *heads: Any, draw: Any, x: Any) -> None:
        """mean + e^(logvar / 2) * normal."""
        deviation = draw.scratch(0)
        logvar = self._logvar(xp, heads[1], draw.scratch(1), deviation)
        xp.multiply(logvar, x.dtype.type(0.5), out=deviation)
        xp.exp(deviation, out=deviation)
        xp.multiply(deviation, draw.normal(0), out=deviation)
        self.mean(xp, *heads, mean=x)
        xp.add(x, deviation, out=x)

    def _mean(self, xp: Any, raw: Any, out: Any) -> Any:
        """The mean; sigmoid(2a) = (1 + tanh a) / 2 of the halved head."""
        if not self.sigmoid:
            return raw
        number = out.dtype.type
        xp.tanh(raw, out=out)
        xp.add(out, number(1), out=out)
        xp.multiply(out, number(0.5), out=out)
        return out

    def _logvar(self, xp: Any, raw: Any, out: Any, work: Any) -> Any:
        """floor + softplus(raw - floor) = floor + (v + |v|) / 2 + log(1 + e^-|v|)."""
        if self.floor is None:
            return raw
        out, work = (a[: raw.shape[0], : raw.shape[1]] for a in (out, work))
        number = out.dtype.type
        xp.subtract(raw, number(self.floor), out=out)
        xp.absolute(out, out=work)
        xp.add(out, work, out=out)
        xp.multiply(out, number(0.5), out=out)
        xp.negative(work, out=work)
        xp.exp(work, out=work)
        xp.log1p(work, out=work)
        xp.add(out, work, out=out)
        xp.add(out, number(self.floor), out=out)
        return out


def _cuda(sigmoid: bool, floor: float | None) -> str:
    """The device functions for these options."""
    if sigmoid:  # sigmoid(2a) = (1 + tanh a) / 2
        mean, mean_slope = "(T)0.5 * (tanh(raw) + (T)1)", "(T)2 * mean(raw) * ((T)1 - mean(raw))"
    else:
        mean, mean_slope = "raw", "(T)1"
    if floor is not None:
        low = f"(T)({floor!r})"
        logvar = f"{low} + (raw > {low} ? raw - {low} : (T)0) + log1p(exp(-fabs(raw - {low})))"
        logvar_slope = f"(raw > {low} ? (T)1 : exp(raw - {low})) / ((T)1 + exp(-fabs(raw - {low})))"
    else:
        logvar, logvar_slope = "raw", "(T)1"
    return f"""
template <typename T> __device__ T mean(T raw) {{ return {mean}; }}
template <typename T> __device__ T mean_slope(T raw) {{ return {mean_slope}; }}
template <typename T> __device__ T logvar(T raw) {{ return {logvar}; }}
template <typename T> __device__ T logvar_slope(T raw) {{ return {logvar_slope}; }}
template <typename T> __device__ T log_prob(T x, T raw_mean, T raw) {{
    T residual = (x - mean(raw_mean)) * exp((T)-0.5 * logvar(raw));
    return (T)-0.5 * (residual * residual + logvar(raw) + (T)1.8378770664093453);
}}
template <typename T> __device__ void log_prob_backward(T x, T raw_mean, T raw, T& dmean, T& dlogvar) {{
    T root = exp((T)-0.5 * logvar(raw));
    T residual = (x - mean(raw_mean)) * root;
    dmean = residual * root * mean_slope(raw_mean);
    dlogvar = (T)0.5 * (residual * residual - (T)1) * logvar_slope(raw);
}}
"""
