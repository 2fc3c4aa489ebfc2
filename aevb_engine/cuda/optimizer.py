"""The kernel of an optimizer plugin: one pass over a range of the flat parameters, weight decay included.

The contract of ``Optimizer.cuda``: statements on one parameter. ``grad`` (with weight decay, may be overwritten),
``theta`` and every name of ``Optimizer.state`` are variables of type ``T``; theta and the state are stored afterwards.
``coef[i]`` are the step's coefficients in device memory, in the order of ``Optimizer.coefficients``.
"""

from __future__ import annotations

from typing import Protocol

from aevb_engine.cuda.launch import Source, flat
from aevb_engine.cuda.source import PREFIX, fill


class Optimizer(Protocol):
    """What is read of an optimizer plugin."""

    @property
    def cuda(self) -> str | None: ...
    @property
    def state(self) -> tuple[str, ...]: ...


KERNEL = """\
extern "C" __global__ void __launch_bounds__(256) $name(
    const T* grad_, int grad_e, const T* coef_, T decay, T* theta_, int theta_e, $state
    long long size_e)
{
    const T* const coef = coef_;
    for (long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x; e < size_e;
         e += (long long)gridDim.x * blockDim.x) {
        $load
        $update
        $store
    }
}
"""


def optimizer(plugin: Optimizer, label: str = "") -> Source:
    """Takes grad, coef, decay (lambda / N), theta, then each state vector; ``grad`` is only read.

    ``label`` tells two sets of options apart within one module.
    """
    label = label or type(plugin).__name__.lower()
    if plugin.cuda is None:
        raise TypeError(f"optimizer {label} has no CUDA text")
    written = ["theta", *plugin.state]
    values = {
        "name": f"{PREFIX}{label}_update",
        "state": " ".join(f"T* {name}_, int {name}_e," for name in plugin.state),
        "load": "\n".join(
            [*(f"T {n} = {n}_[e * {n}_e];" for n in written), "T grad = grad_[e * grad_e] + decay * theta;"]
        ),
        "update": plugin.cuda.strip(),
        "store": "\n".join(f"{n}_[e * {n}_e] = {n};" for n in written),
    }
    return Source(values["name"], fill(KERNEL, values), flat("e"), ())
