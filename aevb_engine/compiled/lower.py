"""From a list of operations to fewer: the stretches that a compiled loop does in one pass, for float32 on the CPU.

=============================================================  ====================================================
gather [, select_columns]                                       one loop
record                                                          one loop
affine, tanh                                                    product, then bias + tanh
affine (head), sigma, noise, reparameterize, kl | densities     product, noise, then one loop up to z
scale, affine (likelihood's heads), log_prob [and backward]     products, then one loop with biases and scales
[weigh,] tanh_backward                                          one loop
reparameterize_backward, kl_backward | prior, entropy           one loop
=============================================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from aevb_engine import rewrite
from aevb_engine.compiled import batch, hidden, latent, likelihood
from aevb_engine.kernels.affine import product
from aevb_engine.operation import Buffer, Operation, Rows, custom, operation
from aevb_engine.rewrite import begins

Taken = tuple[int, list[Operation]]  # how many operations a rule took, and what they become


def lower(operations: Sequence[Operation], read: Sequence[Buffer] | None = None) -> list[Operation]:
    """The operations of one stretch with every rule applied; what no rule takes stays as it is.

    ``read``: what anything else reads of what they write (``rewrite.Stretch``).
    """
    return rewrite.rewrite(operations, RULES, lambda operation: operation, read)


def _product(x: Buffer, weight: Buffer, y: Buffer) -> Operation:
    """x W, whose bias is to come."""
    return replace(operation(product, x, weight, y), unfinished=True)


def _loop(
    name: str, function: Any, *given: Any, writes: tuple[Any, ...] = (), changes: tuple[Any, ...] = ()
) -> Operation:
    """``function`` on buffers and numbers in its order; those it ``writes`` are not read, those it ``changes`` are."""
    given = tuple(np.float32(a) if isinstance(a, float) else a for a in given)

    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        views = tuple(a.view(rows) if isinstance(a, Buffer) else a for a in given)
        return lambda: function(*views)

    new = {id(a) for a in writes}
    reads = tuple(a for a in given if isinstance(a, Buffer) and id(a) not in new)
    return custom(f"{name} loop", bind, reads, (*writes, *changes))


def _single(*buffers: Any) -> bool:
    return all(b.array.dtype == np.float32 for b in buffers)


def _gather(rest: Sequence[Any]) -> Taken | None:
    if not begins(rest, "gather") or not _single(rest[0].arguments[-1]):
        return None
    data, index, scale, _, x = rest[0].arguments
    if begins(rest, "gather", "select_columns") and rest[1].reads[0] is x:
        (live,) = rest[1].writes
        given = (data, index, float(scale), rest[1].facts["runs"], x, live)
        return 2, [_loop("gather_runs", batch.gather_runs(), *given, writes=(x, live))]
    return 1, [_loop("gather", batch.gather(), data, index, float(scale), x, writes=(x,))]


def _select_columns(rest: Sequence[Any]) -> Taken | None:
    """After another way of reading the batch."""
    if not begins(rest, "select_columns"):
        return None
    (x,), (live,) = rest[0].reads, rest[0].writes
    return 1, [_loop("select_columns", batch.select_columns(), x, rest[0].facts["runs"], live, writes=(live,))]


def _record(rest: Sequence[Any]) -> Taken | None:
    if not begins(rest, "record"):
        return None
    names = ("bound", "reconstruction", "kl", "metrics", "cursor", "step")
    given = tuple(rest[0].facts[name] for name in names)
    return 1, [_loop("record", batch.record(), *given, changes=given[3:])]


def _affine_tanh(rest: Sequence[Any]) -> Taken | None:
    if not begins(rest, "affine", "tanh"):
        return None
    x, weight, bias, y = rest[0].arguments
    if rest[1].arguments != (y, y) or not _single(y):
        return None
    return 2, [_product(x, weight, y), _loop("bias_tanh", hidden.bias_tanh(), bias, y, changes=(y,))]


def _latent(rest: Sequence[Any]) -> Taken | None:
    """The encoder's head and everything up to z, with kl or the log-densities."""
    found = rewrite.latent(rest)
    if found is None or not _single(found.z):
        return None
    x, weight, bias, head = found.affine
    function = latent.forward if len(found.terms) == 1 else latent.forward_mc
    given, made = (head, bias, found.eps), (found.sigma, found.z, *found.terms)
    return found.count, [
        _product(x, weight, head),
        found.noise,
        _loop(function.__name__, function(), *given, *made, writes=made, changes=(head,)),
    ]


def _heads(rest: Sequence[Any]) -> Taken | None:
    """The likelihood's affine heads as bare products; bias and scale enter the likelihood's own loop."""
    found = rewrite.heads(rest)
    if found is None:
        return None
    facts = found.log_prob.facts
    plugin, x, logp, dheads = (facts[n] for n in ("likelihood", "x", "logp", "dheads"))
    function = likelihood.loop(plugin, bool(dheads)) if _single(x, logp) else None
    if function is None:
        return None
    given: list[Any] = [x, logp]
    for i, (declared, head) in enumerate(zip(plugin.heads, facts["heads"], strict=True)):
        width = x.array.shape[-1]
        bias = facts["biases"].get(declared.name) or Buffer("no bias", np.zeros(width, np.float32))
        given += [head, bias, declared.scale, dheads[i] if dheads else x]
    matrices = [_product(*factors) for factors in found.products]
    return found.count, [*matrices, _loop("likelihood", function, *given, writes=(logp, *dheads))]


def _tanh_backward(rest: Sequence[Any]) -> Taken | None:
    if begins(rest, "tanh_backward"):
        h, _, dh = rest[0].arguments
        if _single(h):
            return 1, [_loop("tanh_backward", hidden.tanh_backward(), h, dh, changes=(dh,))]
    if begins(rest, "weigh", "tanh_backward"):
        weight, dh, out = rest[0].arguments
        h, _, target = rest[1].arguments
        if dh is out is target and _single(h):
            function = hidden.weighted_tanh_backward()
            return 2, [_loop("weighted_tanh_backward", function, weight, h, dh, changes=(dh,))]
    return None


def _latent_backward(rest: Sequence[Any]) -> Taken | None:
    if not rewrite.latent_backward(rest):
        return None
    dz, sigma, eps, _, dmu, dlogvar = rest[0].arguments
    mu, _, weight, *_ = rest[1].arguments
    if not _single(mu):
        return None
    given = (dz, mu, sigma, eps, weight, dmu, dlogvar)
    return 2, [_loop("latent_backward", latent.backward(), *given, writes=(dmu, dlogvar))]


def _latent_backward_mc(rest: Sequence[Any]) -> Taken | None:
    if not rewrite.latent_backward_mc(rest):
        return None
    weight, z, _, _ = rest[0].arguments
    dz, sigma, eps, _, dmu, dlogvar = rest[1].arguments
    if not _single(sigma):
        return None
    b, samples, width = dz.array.shape
    z, weight = z.reshaped(1, b, samples, width), weight.reshaped(1, b, samples)
    given = (dz, z, weight, sigma, eps, rest[2].arguments[0], dmu, dlogvar)
    return 3, [_loop("latent_backward_mc", latent.backward_mc(), *given, writes=(dmu, dlogvar))]


RULES: tuple[Callable[[Sequence[Any]], Taken | None], ...] = (
    _gather,
    _select_columns,
    _record,
    _affine_tanh,
    _latent,
    _heads,
    _tanh_backward,
    _latent_backward,
    _latent_backward_mc,
)
