"""The Gaussian encoder q(z | x) = N(mu(x), diag sigma(x)^2) (LX 20-24; KW appendix C)."""

from __future__ import annotations

from aevb_engine.kernels.affine import affine, affine_backward_data
from aevb_engine.kernels.reparameterize import standard_deviation
from aevb_engine.model.mlp import GradientPiece, Mlp, bias_gradient, weight_gradient
from aevb_engine.model.parameters import Parameters
from aevb_engine.model.workspace import Workspace
from aevb_engine.operation import Buffer, Operation, operation


class Encoder:
    """Hidden layers and one affine head whose halves are mu and logvar, (B, Z) each."""

    def __init__(self, dim: int, hidden: tuple[int, ...], latent: int, activation: str) -> None:
        self.latent = latent
        self.mlp = Mlp("encoder", dim, hidden, activation)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        width = 2 * self.latent
        return {
            **self.mlp.shapes(),
            "encoder.head.weight": (self.mlp.outputs, width),
            "encoder.head.bias": (width,),
        }

    def halves(self, ws: Workspace, name: str) -> tuple[Buffer, Buffer]:
        """mu and logvar, or with ``name="dlatent"`` their gradients."""
        head = ws.one(name, 2 * self.latent)
        return (
            head.part((slice(None), slice(None, self.latent))),
            head.part((slice(None), slice(self.latent, None))),
        )

    def forward(self, ws: Workspace, parameters: Parameters, x: Buffer) -> list[Operation]:
        """mu, logvar (LX 22-24) and sigma."""
        operations, h = self.mlp.forward(ws.one, parameters, x)
        weight, bias = (parameters[f"encoder.head.{kind}"].theta for kind in ("weight", "bias"))
        head = ws.one("latent", 2 * self.latent)
        _, logvar = self.halves(ws, "latent")
        sigma = ws.one("sigma", self.latent)
        return [
            *operations,
            operation(affine, h, weight, bias, head),
            operation(standard_deviation, logvar, sigma),
        ]

    def backward_data(self, ws: Workspace, parameters: Parameters) -> list[Operation]:
        """From the gradient of (mu, logvar) down to the first hidden layer."""
        if not self.mlp.hidden:
            return []
        dh = ws.one(f"dencoder.h{len(self.mlp.hidden)}", self.mlp.outputs)
        dhead = ws.one("dlatent", 2 * self.latent)
        weight = parameters["encoder.head.weight"].theta
        return [
            operation(affine_backward_data, dhead, weight, dh),
            *self.mlp.backward_data(ws.one, parameters),
        ]

    def backward_params(self, ws: Workspace, parameters: Parameters, x: Buffer) -> list[GradientPiece]:
        ones = ws.one("ones")
        ones.array[...] = 1
        depth = len(self.mlp.hidden)
        h = ws.one(f"encoder.h{depth}", self.mlp.outputs) if depth else x
        dhead = ws.one("dlatent", 2 * self.latent)
        return [
            *self.mlp.backward_params(ws.one, parameters, x, ones),
            weight_gradient(parameters["encoder.head.weight"], h, dhead),
            bias_gradient(parameters["encoder.head.bias"], ones, dhead),
        ]
