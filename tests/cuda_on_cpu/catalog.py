"""Every kernel text of the engine and of the plugins, as modules to compile."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import aevb_engine.kernels
from aevb_engine.cuda import handwritten
from aevb_engine.cuda.launch import Source
from aevb_engine.cuda.likelihood import likelihood
from aevb_engine.cuda.optimizer import optimizer
from aevb_engine.cuda.source import generate
from aevb_engine.kernel import Kernel
from aevb_engine.model.likelihood import Head, Likelihood, Support
from aevb_engine.training.optimizer import Optimizer
from aevb_plugins.decoders.bernoulli import Bernoulli
from aevb_plugins.decoders.gaussian import Gaussian
from aevb_plugins.optimizers.adagrad import Adagrad
from aevb_plugins.optimizers.adam import Adam
from aevb_plugins.optimizers.momentum import Momentum
from aevb_plugins.optimizers.rmsprop import Rmsprop
from aevb_plugins.optimizers.sgd import Sgd

EXAMPLE = Path(__file__).parents[2] / "plugins/examples/aevb-laplace/aevb_laplace/__init__.py"


@cache
def declared() -> dict[str, Kernel]:
    """The declared kernels with CUDA text."""
    names = [m.name for m in pkgutil.iter_modules(aevb_engine.kernels.__path__, "aevb_engine.kernels.")]
    values = (item for name in names for item in vars(importlib.import_module(name)).items())
    return {name: value for name, value in values if isinstance(value, Kernel) and value.cuda}


class Codes(Likelihood):
    """log p(x | logits) = logits_x - log sum_k e^logits_k: a grouped head, which no plugin of the engine has yet."""

    scratch = 0
    support = Support("codes", "mass", 3)
    heads = (
        Head("logits", group=3, scale=0.5),
        Head("shift", source="scalar"),
        Head("gain", group=3, source="per_dim"),
    )
    cuda = """
template <typename T> __device__ T log_total(const T* logits, T shift, const T* gain) {
    T total = 0;
    for (int k = 0; k < 3; k++)
        total += exp(logits[k] + shift * gain[k]);
    return log(total);
}
template <typename T> __device__ T log_prob(T x, const T* logits, T shift, const T* gain) {
    return logits[(int)x] + shift * gain[(int)x] - log_total(logits, shift, gain);
}
template <typename T>
__device__ void log_prob_backward(T x, const T* logits, T shift, const T* gain, T* dlogits, T& dshift, T* dgain) {
    T total = log_total(logits, shift, gain);
    dshift = 0;
    for (int k = 0; k < 3; k++) {
        dlogits[k] = (T)(k == (int)x) - exp(logits[k] + shift * gain[k] - total);
        dgain[k] = shift * dlogits[k];
        dshift += gain[k] * dlogits[k];
    }
}
"""

    def _all(self, xp: Any, x: Any, *heads: Any) -> tuple[Any, Any]:
        logits, shift, gain = heads
        moved = logits + shift[..., None] * gain
        log_p = moved - xp.log(xp.exp(moved).sum(-1, keepdims=True))
        return log_p, (xp.arange(3) == x[..., None]).astype(log_p.dtype)

    def log_prob(self, xp: Any, x: Any, *heads: Any, logp: Any, scratch: Any) -> None:
        log_p, hot = self._all(xp, x, *heads)
        logp[...] = (log_p * hot).sum((-1, -2))

    def log_prob_backward(self, xp: Any, x: Any, *heads: Any, dheads: Any, scratch: Any) -> None:
        log_p, hot = self._all(xp, x, *heads)
        dheads[0][...] = hot - xp.exp(log_p)
        dheads[1][...] = (dheads[0] * heads[2]).sum(-1)
        dheads[2][...] = dheads[0] * heads[1][..., None]

    def mean(self, xp: Any, *heads: Any, mean: Any) -> None:
        raise NotImplementedError

    def sample(self, xp: Any, *heads: Any, draw: Any, x: Any) -> None:
        raise NotImplementedError


@cache
def likelihoods() -> Mapping[str, Likelihood]:
    """Every plugin and every option that changes its text."""
    found: dict[str, Likelihood] = {
        "bernoulli": Bernoulli(),
        "gaussian": Gaussian(mean="linear"),
        "gaussian sigmoid": Gaussian(mean="sigmoid"),
        "gaussian per_dim": Gaussian(mean="sigmoid", variance="per_dim"),
        "gaussian without floor": Gaussian(mean="linear", variance="per_dim", min_logvar=None),
        "codes": Codes(),
    }
    if EXAMPLE.exists():  # a distribution of its own, not always installed
        spec = importlib.util.spec_from_file_location("aevb_laplace_example", EXAMPLE)
        assert spec is not None
        assert spec.loader is not None
        example = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(example)
        found["laplace"] = example.Laplace()
    return found


@cache
def optimizers() -> Mapping[str, Optimizer]:
    return {
        "sgd": Sgd(),
        "momentum": Momentum(),
        "momentum ema": Momentum(form="ema"),
        "momentum nesterov": Momentum(nesterov=True),
        "adagrad": Adagrad(),
        "adam": Adam(),
        "rmsprop": Rmsprop(),
    }


@cache
def engine() -> list[Source]:
    """The kernels that belong to no plugin."""
    return [*(generate(k) for k in declared().values()), *handwritten.sources().values()]


def of_likelihood(name: str, gradient: bool, bias: bool = False) -> Source:
    return likelihood(likelihoods()[name], gradient, bias, name.replace(" ", "_"))


def of_optimizer(name: str) -> Source:
    return optimizer(optimizers()[name], name.replace(" ", "_"))


@cache
def plugins() -> list[Source]:
    """The kernels of the plugins, all options in one module."""
    found = [of_likelihood(name, g, b) for name in likelihoods() for g in (False, True) for b in (False, True)]
    return [*found, *(of_optimizer(name) for name in optimizers())]
