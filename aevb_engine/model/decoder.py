"""The decoder p(x | z): hidden layers and heads of the engine, a likelihood from a plugin (LX 26-31)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aevb_engine.kernels.affine import affine, affine_backward_data
from aevb_engine.kernels.rows import add, scale, weigh, weighted_total
from aevb_engine.model.likelihood import Head, Likelihood
from aevb_engine.model.mlp import GradientPiece, Mlp, bias_gradient, weight_gradient
from aevb_engine.model.parameters import Parameters
from aevb_engine.model.workspace import Workspace
from aevb_engine.operation import Buffer, Operation, Rows, custom, operation


class Decoder:
    """Maps z (B * L, Z) to the likelihood's heads; row weights enter narrow arrays only."""

    def __init__(self, latent: int, hidden: tuple[int, ...], dim: int, likelihood: Likelihood, activation: str) -> None:
        self.latent = latent
        self.dim = dim
        self.likelihood = likelihood
        self.mlp = Mlp("decoder", latent, hidden, activation)
        self.affine_heads = [h for h in likelihood.heads if h.source == "affine"]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = self.mlp.shapes()
        for head in self.likelihood.heads:
            width = 1 if head.source == "scalar" else self.dim * head.group
            if head.source == "affine":
                shapes[f"decoder.{head.name}.weight"] = (self.mlp.outputs, width)
                shapes[f"decoder.{head.name}.bias"] = (width,)
            else:
                shapes[f"decoder.{head.name}"] = (width,)
        return shapes

    # Forward ------------------------------------------------------------------------------------------------

    def prepare(self, ws: Workspace, parameters: Parameters) -> list[Operation]:
        """Once a step, before any row: biases of scaled heads."""
        return [
            operation(scale, parameters[f"decoder.{h.name}.bias"].theta, h.scale, self._bias(ws, parameters, h))
            for h in self.affine_heads
            if h.scale != 1
        ]

    def forward(self, ws: Workspace, parameters: Parameters, z: Buffer) -> list[Operation]:
        """z to every affine head."""
        operations, h = self.mlp.forward(ws.many, parameters, z)
        for factor in sorted({head.scale for head in self.affine_heads} - {1.0}):
            operations.append(operation(scale, h, factor, self._hidden(ws, z, factor)))
        for head in self.affine_heads:
            weight = parameters[f"decoder.{head.name}.weight"].theta
            source, bias = self._hidden(ws, z, head.scale), self._bias(ws, parameters, head)
            operations.append(operation(affine, source, weight, bias, self._head(ws, head)))
        return operations

    def log_prob(self, ws: Workspace, parameters: Parameters, x: Buffer, gradient: bool) -> Operation:
        """logp (B, L) from the heads, with the unweighted gradient by each head where asked."""
        likelihood = self.likelihood
        heads = [self._shaped(ws, parameters, h) for h in likelihood.heads]
        scratch = [self._wide(ws, ws.many(f"scratch{i}", self.dim)) for i in range(likelihood.scratch)]
        dheads = [self._gradient(ws, h) for h in likelihood.heads] if gradient else []
        logp = ws.by_sample(ws.many("logp"))
        cube = ws.by_sample(x)

        def bind(xp: Any, rows: Rows) -> Callable[[], None]:
            given = (cube.view(rows), *(h.view(rows) for h in heads))
            out = {"logp": logp.view(rows), "scratch": [s.view(rows) for s in scratch]}
            if not gradient:
                return lambda: likelihood.log_prob(xp, *given, **out)
            backward = [d.view(rows) for d in dheads]
            return lambda: likelihood.log_prob_and_backward(xp, *given, dheads=backward, **out)

        name = "log_prob_and_backward" if gradient else "log_prob"
        products = {h.name: self._head(ws, h) for h in self.affine_heads}
        biases = {h.name: parameters[f"decoder.{h.name}.bias"].theta for h in self.affine_heads}
        facts = {"likelihood": likelihood, "x": cube, "heads": heads, "logp": logp, "dheads": dheads}
        reads = (cube, *heads)
        return custom(name, bind, reads, (logp, *dheads), tuple(scratch), products=products, biases=biases, **facts)

    def mean(self, ws: Workspace, parameters: Parameters) -> Operation:
        """mean (B, L, D) of p(x | z) from the heads, into the buffer "x mean" (a head may be called mean)."""
        return self._moment(ws, parameters, "mean")

    def deviation(self, ws: Workspace, parameters: Parameters) -> Operation:
        """Standard deviation (B, L, D) of p(x | z) from the heads, into the buffer "x deviation"."""
        return self._moment(ws, parameters, "deviation")

    def _moment(self, ws: Workspace, parameters: Parameters, name: str) -> Operation:
        method = getattr(self.likelihood, name)
        heads = [self._shaped(ws, parameters, h) for h in self.likelihood.heads]
        moment = self._wide(ws, ws.many(f"x {name}", self.dim))

        def bind(xp: Any, rows: Rows) -> Callable[[], None]:
            given = [h.view(rows) for h in heads]
            out = {name: moment.view(rows)}
            return lambda: method(xp, *given, **out)

        return custom(name, bind, tuple(heads), (moment,))

    def mean_backward(self, ws: Workspace, parameters: Parameters, dmean: Buffer) -> Operation:
        """The gradient by each head for a given dmean (B * L, D), unweighted."""
        likelihood = self.likelihood
        heads = [self._shaped(ws, parameters, h) for h in likelihood.heads]
        dheads = [self._gradient(ws, h) for h in likelihood.heads]
        given = self._wide(ws, dmean)

        def bind(xp: Any, rows: Rows) -> Callable[[], None]:
            views, d = [h.view(rows) for h in heads], given.view(rows)
            out = [h.view(rows) for h in dheads]
            return lambda: likelihood.mean_backward(xp, *views, dmean=d, dheads=out)

        return custom("mean_backward", bind, (*heads, given), tuple(dheads))

    def sample(self, ws: Workspace, parameters: Parameters, draw: Any) -> Operation:
        """x (B, L, D) ~ p(x | z) from the heads into the buffer "draw".

        ``draw`` as in ``Likelihood.sample``, or in a step what gives one for a share of the rows: ``view(rows)``, with
        the buffers it ``reads`` and ``writes``.
        """
        likelihood = self.likelihood
        heads = [self._shaped(ws, parameters, h) for h in likelihood.heads]
        x = self._wide(ws, ws.many("draw", self.dim))

        def bind(xp: Any, rows: Rows) -> Callable[[], None]:
            given = [h.view(rows) for h in heads]
            out = x.view(rows)
            numbers = draw.view(rows) if hasattr(draw, "view") else draw
            return lambda: likelihood.sample(xp, *given, draw=numbers, x=out)

        reads, writes = getattr(draw, "reads", ()), getattr(draw, "writes", ())
        return custom("sample", bind, (*heads, *reads), (x, *writes))

    # Backward -----------------------------------------------------------------------------------------------

    def backward_data(
        self, ws: Workspace, parameters: Parameters, weight: Buffer, dz: Buffer | None
    ) -> list[Operation]:
        """dz (B * L, Z) of sum over rows of weight * logp, unless None; the hidden layers' gradients on the way."""
        depth = len(self.mlp.hidden)
        width = self.mlp.outputs
        dh = ws.many(f"ddecoder.h{depth}", width) if depth else dz
        factors = sorted({head.scale for head in self.likelihood.heads})
        operations = [operation(scale, weight, f, self._weights(ws, weight, f)) for f in factors if f != 1]
        together = len({head.scale for head in self.affine_heads}) == 1  # then row weights are applied to the sum
        if dh is None:
            return operations
        for i, head in enumerate(self.affine_heads):
            matrix = parameters[f"decoder.{head.name}.weight"].theta
            dhead = self._dhead(ws, head)
            target = ws.many("partial", width) if i else dh
            operations.append(operation(affine_backward_data, dhead, matrix, target))
            if not together:
                operations.append(operation(weigh, self._weights(ws, weight, head.scale), target, target))
            if i:
                operations.append(operation(add, target, dh))
        if together:
            operations.append(operation(weigh, self._weights(ws, weight, self.affine_heads[0].scale), dh, dh))
        return operations + self.mlp.backward_data(ws.many, parameters, dz)

    def weigh_rows(self, ws: Workspace, weight: Buffer, z: Buffer) -> list[Operation]:
        """The last hidden layer times row weights and head scale: what the heads' weight gradients need."""
        return [
            operation(weigh, self._weights(ws, weight, factor), self._top(ws, z), self._weighted(ws, factor))
            for factor in sorted({head.scale for head in self.affine_heads})
        ]

    def backward_params(self, ws: Workspace, parameters: Parameters, weight: Buffer, z: Buffer) -> list[GradientPiece]:
        ones = ws.many("sample ones")
        ones.array[...] = 1
        pieces = self.mlp.backward_params(ws.many, parameters, z, ones)
        for head in self.likelihood.heads:
            weights = self._weights(ws, weight, head.scale)
            dhead = self._dhead(ws, head)
            if head.source == "affine":
                x = self._weighted(ws, head.scale)
                pieces.append(weight_gradient(parameters[f"decoder.{head.name}.weight"], x, dhead))
                pieces.append(bias_gradient(parameters[f"decoder.{head.name}.bias"], weights, dhead))
            elif head.source == "per_dim":
                pieces.append(bias_gradient(parameters[f"decoder.{head.name}"], weights, dhead))
            else:
                pieces.append(self._scalar_gradient(ws, parameters, head, weights, dhead))
        return pieces

    def _scalar_gradient(
        self, ws: Workspace, parameters: Parameters, head: Head, weights: Buffer, dhead: Buffer
    ) -> GradientPiece:
        """One number for all columns: the weighted sum of the whole gradient array."""
        parameter = parameters[f"decoder.{head.name}"]
        sums = ws.table(f"dhead {head.name} by column", self.dim * head.group)
        return GradientPiece(
            parameter,
            1,
            dhead.array.size,
            lambda lo, hi: operation(weighted_total, weights, dhead, sums, parameter.grad),
        )

    # Buffers ------------------------------------------------------------------------------------------------

    def _top(self, ws: Workspace, z: Buffer) -> Buffer:
        """The last hidden layer, or z itself."""
        depth = len(self.mlp.hidden)
        return ws.many(f"decoder.h{depth}", self.mlp.outputs) if depth else z

    def _hidden(self, ws: Workspace, z: Buffer, factor: float) -> Buffer:
        """The last hidden layer times a head's scale."""
        return self._top(ws, z) if factor == 1 else ws.many(f"decoder.h * {factor}", self.mlp.outputs)

    def _weights(self, ws: Workspace, weight: Buffer, factor: float) -> Buffer:
        return weight if factor == 1 else ws.many(f"weight * {factor}")

    def _weighted(self, ws: Workspace, factor: float) -> Buffer:
        return ws.many(f"decoder.h * weight * {factor}", self.mlp.outputs)

    def _bias(self, ws: Workspace, parameters: Parameters, head: Head) -> Buffer:
        if head.scale == 1:
            return parameters[f"decoder.{head.name}.bias"].theta
        return ws.table(f"head {head.name} bias * {head.scale}", self.dim * head.group)

    def _head(self, ws: Workspace, head: Head) -> Buffer:
        return ws.many(f"head {head.name}", self.dim * head.group)  # a head may be called x or z

    def _dhead(self, ws: Workspace, head: Head) -> Buffer:
        return ws.many(f"dhead {head.name}", self.dim * head.group)

    def _wide(self, ws: Workspace, buffer: Buffer, group: int = 1) -> Buffer:
        """(B * L, D * K) as (B, L, D) or (B, L, D, K)."""
        tail = (self.dim,) if group == 1 else (self.dim, group)
        return buffer.reshaped(1, ws.batch, ws.samples, *tail)

    def _gradient(self, ws: Workspace, head: Head) -> Buffer:
        return self._wide(ws, self._dhead(ws, head), head.group)

    def _shaped(self, ws: Workspace, parameters: Parameters, head: Head) -> Buffer:
        """A head as the likelihood receives it."""
        if head.source == "affine":
            return self._wide(ws, self._head(ws, head), head.group)
        buffer = parameters[f"decoder.{head.name}"].theta
        if head.source == "scalar":
            return buffer.reshaped(0, 1, 1, 1)
        return buffer.reshaped(0, 1, 1, *((self.dim,) if head.group == 1 else (self.dim, head.group)))
