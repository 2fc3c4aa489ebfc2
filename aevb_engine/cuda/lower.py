"""From a list of operations to launches: which kernel text runs each, and which neighbours become one launch.

Every rule looks at the head of the list and takes the operations it can do in one pass; what no rule takes runs as one
launch of its own text, or, where it has none (products, plugins without device text), as array code. The rules:

=============================================================  ====================================================
affine, activation                                              product, then bias + activation
affine (head), sigma, noise, reparameterize, kl | densities     product, then one latent pass that draws its noise
scale, affine (likelihood's heads), log_prob [and backward]     products, then one pass with the biases
mean_of_samples, difference                                     the bound of L^B
log_weight ... [log_mean_exp, importance_row_weights]           the bound of L^A or L_k with its row weights
weigh, activation backward                                      one pass
reparameterize_backward, kl_backward | prior, entropy           one pass
binarize_words, gather_bernoulli                                one gather that draws its noise
=============================================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from aevb_engine import rewrite
from aevb_engine.cuda.handwritten import sources
from aevb_engine.cuda.launch import Parameter, Source
from aevb_engine.cuda.likelihood import likelihood
from aevb_engine.cuda.optimizer import optimizer
from aevb_engine.cuda.source import generate
from aevb_engine.kernels.latent import latent_backward, latent_backward_mc
from aevb_engine.kernels.philox import key, stream_id
from aevb_engine.kernels.relu import bias_relu, weighted_relu_backward
from aevb_engine.kernels.rows import add
from aevb_engine.kernels.softplus import bias_softplus, weighted_softplus_backward
from aevb_engine.kernels.tanh import bias_tanh, weighted_tanh_backward
from aevb_engine.memory import Place, Touched
from aevb_engine.operation import Buffer, Operation, Rows
from aevb_engine.rewrite import begins

BIAS_ACTIVATION = {"tanh": bias_tanh, "relu": bias_relu, "softplus": bias_softplus}
WEIGHTED_BACKWARD = {
    "tanh_backward": weighted_tanh_backward,
    "relu_backward": weighted_relu_backward,
    "softplus_backward": weighted_softplus_backward,
}


@dataclass(frozen=True)
class Text:
    """A launch of ``source`` with buffers and constants in the order it accepts."""

    source: Source
    given: tuple[Any, ...]
    unfinished: tuple[Any, ...] = ()  # of what it writes, arrays that another text has still to finish

    def arrays(self, rows: Rows) -> tuple[Any, ...]:
        return tuple(g.view(rows) if isinstance(g, Buffer) else g for g in self.given)

    @cached_property
    def touched(self) -> Touched:
        """By the parameters of the text."""
        places = [(p, _place(g)) for p, g in self.named()]
        reads = [place for p, place in places if not p.written or self.source.loads(p.name)]
        writes = [place for p, place in places if p.written]
        return Touched(reads, writes, [_place(a) for a in self.unfinished], [])

    def named(self) -> list[tuple[Parameter, Any]]:
        """The arrays or buffers with what the source says of them."""
        given = dict(zip(self.source.accepts, self.given, strict=True))
        return [(p, given[p.name]) for p in self.source.parameters if p.kind == "array"]


@dataclass(frozen=True)
class Product:
    """y = x W by the library."""

    x: Buffer
    weight: Buffer
    y: Buffer

    @property
    def touched(self) -> Touched:
        """Its bias is to come."""
        return Touched([self.x.place, self.weight.place], [self.y.place], [self.y.place], [])


Item = Text | Product | Operation  # an operation here runs as array code
Taken = tuple[int, list[Item]]  # how many operations a rule took, and what they become


def lower(operations: Sequence[Operation], read: Sequence[Buffer] | None = None) -> list[Item]:
    """The operations of one stretch, in order, as launches, products and array code.

    ``read``: what anything else reads of what they write (``rewrite.Stretch``).
    """
    return rewrite.rewrite(operations, RULES, _alone, read)


def _place(given: Any) -> Place:
    return given.place if isinstance(given, Buffer) else Place(given)


def _alone(op: Operation) -> Item:
    """One operation by its own text, or as it is."""
    kernel = op.kernel
    if kernel is not None and kernel.name == "gather":
        data, index, scale, _, x = op.arguments
        name = "gather_bytes" if data.array.dtype == np.uint8 else "gather"  # type: ignore[union-attr]
        return Text(sources()[name], (data, index, scale, x))
    if kernel is not None and kernel.cuda is not None:
        return Text(generate(kernel), op.arguments)
    if kernel is not None and kernel.name == "log_mean_exp":
        logw, _, bound = op.arguments
        return Text(sources()["log_mean_exp"], (logw, bound))
    maker = CUSTOM.get(op.name)
    return (maker(op) if maker is not None else None) or op


def _key(op: Operation) -> tuple[Any, ...]:
    f = op.facts
    return (f["step"], f["row"], stream_id(f["stream"]), *key(f["seed"]))


def _noise(op: Operation) -> Item:
    step, row, *words = _key(op)
    eps = op.facts["eps"]
    block = eps.reshaped(0, 1, *eps.array.shape)
    name = "uniform" if op.name == "uniform_noise" else "normal"
    return Text(sources()[name], (step, row, 0, eps.per_point, 0, *words, block))


def _noise_by_sample(op: Operation) -> Item:
    step, row, *words = _key(op)
    cube = op.facts["eps"]
    by_sample = Buffer(cube.name, cube.array.transpose(1, 0, 2), 0, cube.storage)
    return Text(sources()["normal"], (step, row, 0, 1, 0, *words, by_sample))


def _words(op: Operation) -> Item:
    step, row, *words = _key(op)
    (out,) = op.writes
    return Text(sources()["words"], (step, row, 0, 1, 0, *words, out.reshaped(0, 1, *out.array.shape)))


def _advance(op: Operation) -> Item:
    return Text(sources()["advance"], tuple(op.facts[n] for n in ("cursor", "orders", "rates", "index", "coef")))


def _record(op: Operation) -> Item:
    names = ("bound", "reconstruction", "kl", "metrics", "cursor", "step")
    return Text(sources()["record"], tuple(op.facts[n] for n in names))


def _update(op: Operation) -> Item | None:
    f = op.facts
    if f["optimizer"].cuda is None:
        return None
    return Text(optimizer(f["optimizer"]), (f["grad"], f["coef"], f["decay"], f["theta"], *f["state"]))


def _log_prob(op: Operation) -> Item | None:
    """The likelihood on heads that are complete."""
    f = op.facts
    if f["likelihood"].cuda is None:
        return None
    source = likelihood(f["likelihood"], bool(f["dheads"]))
    return Text(source, (f["x"], *f["heads"], f["logp"], *f["dheads"]))


CUSTOM: dict[str, Callable[[Operation], Item | None]] = {
    "noise": _noise,
    "uniform_noise": _noise,
    "noise_by_sample": _noise_by_sample,
    "binarize_words": _words,
    "advance": _advance,
    "record": _record,
    "update": _update,
    "log_prob": _log_prob,
    "log_prob_and_backward": _log_prob,
}


# Rules ------------------------------------------------------------------------------------------------------


def _affine_activation(rest: Sequence[Operation]) -> Taken | None:
    if len(rest) < 2 or rest[0].name != "affine" or rest[1].name not in BIAS_ACTIVATION:
        return None
    x, weight, bias, y = rest[0].arguments
    if rest[1].arguments != (y, y):
        return None
    return 2, [Product(x, weight, y), Text(generate(BIAS_ACTIVATION[rest[1].name]), (bias, y))]  # type: ignore[arg-type]


def _latent(rest: Sequence[Operation]) -> Taken | None:
    """The encoder's head and everything up to z, with kl or the log-densities."""
    found = rewrite.latent(rest)
    if found is None or found.noise.name != "noise":
        return None
    x, weight, bias, head = found.affine
    source = sources()["latent" if len(found.terms) == 1 else "latent_mc"]
    given = (head, bias, head, *_key(found.noise), found.sigma, found.eps, found.z, *found.terms)
    return found.count, [Product(x, weight, head), Text(source, given)]


def _heads(rest: Sequence[Operation]) -> Taken | None:
    """The likelihood's affine heads as bare products; bias and scale enter the likelihood's own pass."""
    found = rewrite.heads(rest)
    if found is None or found.log_prob.facts["likelihood"].cuda is None:
        return None
    f = found.log_prob.facts
    plugin = f["likelihood"]
    items: list[Item] = [Product(*factors) for factors in found.products]
    given: list[Any] = [f["x"]]
    for head, shaped in zip(plugin.heads, f["heads"], strict=True):
        given.append(shaped)
        if head.source == "affine":
            given.append(f["biases"][head.name])
    source = likelihood(plugin, bool(f["dheads"]), bias=True)
    return found.count, [*items, Text(source, (*given, f["logp"], *f["dheads"]))]


def _affine(rest: Sequence[Operation]) -> Taken | None:
    if rest[0].name != "affine":
        return None
    x, weight, bias, y = rest[0].arguments
    return 1, [Product(x, weight, y), Text(generate(add), (bias, y))]  # type: ignore[arg-type]


def _elbo_bound(rest: Sequence[Operation]) -> Taken | None:
    if not begins(rest, "mean_of_samples", "difference"):
        return None
    logp, reconstruction = rest[0].arguments
    minuend, kl, bound = rest[1].arguments
    if minuend is not reconstruction:
        return None
    return 2, [Text(sources()["elbo_bound"], (logp, kl, reconstruction, bound))]


def _monte_carlo_bound(rest: Sequence[Operation]) -> Taken | None:
    if not begins(rest, "log_weight", "mean_of_samples", "mean_of_samples", "difference"):
        return None
    densities = rest[0].arguments[:3]
    reconstruction, kl = rest[1].arguments[1], rest[3].arguments[2]
    if begins(rest[4:], "mean_of_samples"):
        return 5, [Text(sources()["elbo_mc_bound"], (*densities, reconstruction, kl, rest[4].arguments[1]))]
    if begins(rest[4:], "log_mean_exp", "importance_row_weights"):
        _, bound, factor, weight = rest[5].arguments
        return 6, [Text(sources()["iwae_bound"], (*densities, factor, weight, reconstruction, kl, bound))]
    return None


def _weighted_backward(rest: Sequence[Operation]) -> Taken | None:
    if len(rest) < 2 or rest[0].name != "weigh" or rest[1].name not in WEIGHTED_BACKWARD:
        return None
    weight, dh, out = rest[0].arguments
    h, slope, target = rest[1].arguments
    if not dh is out is target:
        return None
    return 2, [Text(generate(WEIGHTED_BACKWARD[rest[1].name]), (weight, h, slope, dh))]


def _latent_backward(rest: Sequence[Operation]) -> Taken | None:
    if not rewrite.latent_backward(rest):
        return None
    dz, sigma, eps, scratch, dmu, dlogvar = rest[0].arguments
    mu, _, weight, narrow, *_ = rest[1].arguments
    return 2, [Text(generate(latent_backward), (dz, mu, sigma, eps, weight, scratch, narrow, dmu, dlogvar))]


def _latent_backward_mc(rest: Sequence[Operation]) -> Taken | None:
    if not rewrite.latent_backward_mc(rest):
        return None
    weight, z, _, _ = rest[0].arguments
    dz, sigma, eps, scratch, dmu, dlogvar = rest[1].arguments
    entropy = rest[2].arguments[0]
    b, samples, latent = dz.array.shape  # type: ignore[union-attr]
    z = z.reshaped(1, b, samples, latent)  # type: ignore[union-attr]
    weight = weight.reshaped(1, b, samples)  # type: ignore[union-attr]
    given = (dz, z, weight, sigma, eps, entropy, scratch, scratch, dmu, dlogvar)
    return 3, [Text(generate(latent_backward_mc), given)]


def _gather_bernoulli(rest: Sequence[Operation]) -> Taken | None:
    if not begins(rest, "binarize_words", "gather_bernoulli"):
        return None
    data, index = rest[1].arguments[:2]
    return 2, [Text(sources()["gather_bernoulli"], (data, index, *_key(rest[0]), rest[1].arguments[-1]))]


RULES: tuple[Callable[[Sequence[Operation]], Taken | None], ...] = (
    _affine_activation,
    _latent,
    _heads,
    _affine,
    _elbo_bound,
    _monte_carlo_bound,
    _weighted_backward,
    _latent_backward,
    _latent_backward_mc,
    _gather_bernoulli,
)
