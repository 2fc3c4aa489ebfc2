"""A stack of affine maps with one activation between them (the hidden layers of encoder and decoder, LX 20-24)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aevb_engine.kernel import Kernel
from aevb_engine.kernels.affine import (
    affine,
    affine_backward_bias,
    affine_backward_data,
    affine_backward_weight,
)
from aevb_engine.kernels.relu import relu, relu_backward
from aevb_engine.kernels.softplus import softplus, softplus_backward
from aevb_engine.kernels.tanh import tanh, tanh_backward
from aevb_engine.model.parameters import Parameter, Parameters
from aevb_engine.operation import Buffer, Operation, operation

ACTIVATIONS: dict[str, tuple[Kernel, Kernel]] = {
    "tanh": (tanh, tanh_backward),
    "relu": (relu, relu_backward),
    "softplus": (softplus, softplus_backward),
}
Allocate = Callable[..., Buffer]


@dataclass(frozen=True)
class GradientPiece:
    """How to compute rows ``lo`` to ``hi`` of one parameter's gradient, and what a row costs (multiply-adds)."""

    parameter: Parameter
    rows: int  # rows that can be computed apart; 1 where the parameter is one piece
    cost: int
    make: Callable[[int, int], Operation]


def weight_gradient(parameter: Parameter, x: Buffer, dy: Buffer) -> GradientPiece:
    """dW = x^T dy, any rows of it."""
    inputs, outputs = parameter.shape

    def make(lo: int, hi: int) -> Operation:
        return operation(
            affine_backward_weight,
            x.part((slice(None), slice(lo, hi))),
            dy,
            parameter.grad.part(slice(lo, hi)),
        )

    return GradientPiece(parameter, inputs, x.array.shape[0] * outputs, make)


def bias_gradient(parameter: Parameter, weight: Buffer, dy: Buffer) -> GradientPiece:
    """db = sum over rows of weight * dy."""
    flat = parameter.grad.reshaped(0, -1)
    rows = dy.array.shape[0]
    dy = dy.reshaped(dy.per_point, rows, -1)
    return GradientPiece(parameter, 1, dy.array.size, lambda lo, hi: operation(affine_backward_bias, weight, dy, flat))


class Mlp:
    """Hidden layers ``h_i = act(h_(i-1) W_i + b_i)``; none at all is allowed and passes its input through."""

    def __init__(self, name: str, inputs: int, hidden: tuple[int, ...], activation: str) -> None:
        self.name = name
        self.inputs = inputs
        self.hidden = hidden
        self.activation = activation
        self.outputs = hidden[-1] if hidden else inputs

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        width = self.inputs
        for i, units in enumerate(self.hidden, 1):
            shapes[f"{self.name}.{i}.weight"] = (width, units)
            shapes[f"{self.name}.{i}.bias"] = (units,)
            width = units
        return shapes

    def forward(self, allocate: Allocate, parameters: Parameters, x: Buffer) -> tuple[list[Operation], Buffer]:
        """The operations, and the buffer of the last hidden layer (``x`` itself without one)."""
        act = ACTIVATIONS[self.activation][0]
        operations = []
        for i, units in enumerate(self.hidden, 1):
            weight, bias = (parameters[f"{self.name}.{i}.{kind}"].theta for kind in ("weight", "bias"))
            h = allocate(f"{self.name}.h{i}", units)
            operations += [operation(affine, x, weight, bias, h), operation(act, h, h)]
            x = h
        return operations, x

    def backward_data(self, allocate: Allocate, parameters: Parameters, dx: Buffer | None = None) -> list[Operation]:
        """From the gradient ``d<name>.h<last>`` down to the first layer, and on into ``dx`` where it is given."""
        back = ACTIVATIONS[self.activation][1]
        operations = []
        for i in range(len(self.hidden), 0, -1):
            units = self.hidden[i - 1]
            h, dh, slope = (allocate(f"{p}{self.name}.h{i}", units) for p in ("", "d", "slope "))
            operations.append(operation(back, h, slope, dh))
            below = allocate(f"d{self.name}.h{i - 1}", self.hidden[i - 2]) if i > 1 else dx
            if below is not None:
                weight = parameters[f"{self.name}.{i}.weight"].theta
                operations.append(operation(affine_backward_data, dh, weight, below))
        return operations

    def backward_params(
        self, allocate: Allocate, parameters: Parameters, x: Buffer, ones: Buffer
    ) -> list[GradientPiece]:
        """Weight and bias gradients of every layer; ``x`` is the stack's input."""
        pieces = []
        for i, units in enumerate(self.hidden, 1):
            dh = allocate(f"d{self.name}.h{i}", units)
            pieces.append(weight_gradient(parameters[f"{self.name}.{i}.weight"], x, dh))
            pieces.append(bias_gradient(parameters[f"{self.name}.{i}.bias"], ones, dh))
            x = allocate(f"{self.name}.h{i}", units)
        return pieces
