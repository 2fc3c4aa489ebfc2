"""The kernel of a decoder plugin: logp of a row, and its gradient by every head, in one pass over the data.

The contract of ``Likelihood.cuda``: two device functions of one column d of one row, each a template over the number
type, with a parameter for every head in the order of ``Likelihood.heads``::

    template <typename T> __device__ T log_prob(T x, T head0, T head1, ...)
    template <typename T> __device__ void log_prob_backward(T x, T head0, T head1, ..., T& dhead0, T& dhead1, ...)

``log_prob`` gives log p(x_d | heads_d) with its normalising constant; ``log_prob_backward`` assigns its derivative by
each head as it was received (scaled); row weights are the engine's. A head of ``group=K`` is ``const T*`` to its K
values and ``T*`` to its K derivatives. Options of the plugin are written into the text as literals when the plugin is
made or adapted (``self.cuda = ...``). No headers are there; ``exp log log1p expm1 tanh sqrt fabs lgamma`` work on both
types; literals need ``(T)``. Further device functions may stand before the two: each plugin's text gets a namespace of
its own. What both functions compute alike the compiler computes once.

The shapes of heads are those of the array code: affine (B, L, D[, K]), per_dim (1, 1, D[, K]), scalar (1, 1, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aevb_engine.cuda.launch import Source, rows
from aevb_engine.cuda.source import PREFIX, at, fill, parameter


class Head(Protocol):
    """What is read of a head (``aevb_engine.model.likelihood.Head``)."""

    @property
    def group(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def scale(self) -> float: ...


class Likelihood(Protocol):
    """What is read of a decoder plugin."""

    @property
    def cuda(self) -> str | None: ...
    @property
    def heads(self) -> Sequence[Head]: ...


KERNEL = """\
extern "C" __global__ void __launch_bounds__(256, 2) $name($parameters)
{
    for (int index_l = blockIdx.y; index_l < size_l; index_l += gridDim.y)
        for (int base = blockIdx.x * blockDim.y; base < size_b; base += gridDim.x * blockDim.y) {
            const int index_b = base + threadIdx.y;
            T logp = 0;
            if (index_b < size_b)
                for (int index_d = threadIdx.x; index_d < size_d; index_d += blockDim.x) {
                    const T x = x_[(long long)index_b * x_b + (long long)index_d * x_d];
                    $loads
                    logp += $space::log_prob<T>($given);
                    $backward
                }
            logp = row_sum(logp);
            if (index_b < size_b && threadIdx.x == 0)
                logp_[(long long)index_b * logp_b + (long long)index_l * logp_l] = logp;
        }
}
"""


def likelihood(plugin: Likelihood, gradient: bool, bias: bool = False, label: str = "") -> Source:
    """The source for a plugin with CUDA text; TypeError without.

    Takes x (B, 1, D), each head, logp (B, L) and with ``gradient`` each dhead. With ``bias`` an affine head is the bare
    product, followed by its bias (D * K,): the kernel takes head = scale * (product + bias) (and stores it, for K > 1).
    ``label`` tells two sets of options apart within one module.
    """
    label = label or type(plugin).__name__.lower()
    if plugin.cuda is None:
        raise TypeError(f"likelihood {label} has no CUDA text")
    heads = list(enumerate(plugin.heads))
    name = f"{PREFIX}{label}_log_prob{'_and_backward' if gradient else ''}{'_of_product' if bias else ''}"
    parameters = ["const T* x_, int x_b, int x_d"]
    loads: list[str] = []
    for i, head in heads:
        finish = bias and head.source == "affine"
        parameters.append(parameter(f"head{i}", _letters(head), head.group > 1 and finish))
        if finish:
            parameters.append(f"const T* bias{i}_, int bias{i}_w")
        loads += _load(i, head, finish)
    parameters.append("T* logp_, int logp_b, int logp_l")
    backward: list[str] = []
    if gradient:
        for i, head in heads:
            if head.group > 1:
                parameters.append(parameter(f"dhead{i}", "bldk", True))
                backward.append(f"T* const dhead{i} = &{at(f'dhead{i}', 'bld')};")
            else:
                parameters.append(parameter(f"dhead{i}", "bld", True))
                backward.append(f"T dhead{i};")
        given = [f"head{i}" for i, _ in heads] + [f"dhead{i}" for i, _ in heads]
        backward.append(f"{label}::log_prob_backward<T>(x, {', '.join(given)});")
        backward += [f"{at(f'dhead{i}', 'bld')} = dhead{i};" for i, head in heads if head.group == 1]
    parameters.append("int size_b, int size_l, int size_d")
    values = {
        "space": label,
        "name": name,
        "parameters": ", ".join(parameters),
        "loads": "\n".join(loads),
        "given": ", ".join(["x", *(f"head{i}" for i, _ in heads)]),
        "backward": "\n".join(backward),
    }
    device = f"namespace {label} {{\n{plugin.cuda.strip()}\n}}\n"
    return Source(name, fill(KERNEL, values), rows("bl", "d"), ("reduce.cuh",), device=device)


def _letters(head: Head) -> str:
    axes = {"affine": "bld", "per_dim": "d", "scalar": ""}[head.source]
    return axes + "k" if head.group > 1 else axes


def _load(i: int, head: Head, finish: bool) -> list[str]:
    """The head of one column: a value, or a pointer to a group of them."""
    place = at(f"head{i}", _letters(head).rstrip("k"))
    scale = f"(T){head.scale!r} * " if head.scale != 1 else ""
    if head.group == 1:
        if finish:
            return [f"const T head{i} = {scale}({place} + bias{i}_[(long long)index_d * bias{i}_w]);"]
        return [f"const T head{i} = {place};"]
    if not finish:
        return [f"const T* const head{i} = &{place};"]
    k = head.group
    return [
        f"T* const head{i} = &{place};",
        f"for (int k = 0; k < {k}; k++)",
        f"    head{i}[k] = {scale}(head{i}[k] + bias{i}_[((long long)index_d * {k} + k) * bias{i}_w]);",
    ]
