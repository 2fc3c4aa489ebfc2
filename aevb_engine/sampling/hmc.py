"""Hamiltonian Monte Carlo on z for p(z | x)^(beta) ~ p(z) p(x | z)^beta (Neal 2011; KW appendix E), as operations.

A chain is a row b * L + l of a workspace: chain l of data point b. All operations but ``prepare`` and ``adapt`` are
row-independent: the list can be split over threads, run by evaluation code, or be part of a training step. Nothing but
data is differentiated: no parameter gradient is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.kernels.hamiltonian import (
    jitter,
    leapfrog_momentum,
    leapfrog_position,
    metropolis,
    select,
    square_energy,
)
from aevb_engine.kernels.rows import scale
from aevb_engine.model.model import Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.operation import Buffer, Operation, Rows, custom, operation
from aevb_engine.sampling.noise import normal_noise

TARGET = 0.9  # acceptance (KW appendix E)
JITTER = 0.2  # a trajectory of fixed length would come back to its start where it spans a period


class Hmc:
    """Chains on the data points ``x`` (B, D) of a workspace, L chains each.

    The state is ``z`` (B * L, Z) with its ``logp`` = log p(x | z) in nats and ``dlogp`` = d log p(x | z) / dz;
    ``start`` computes both after z, x or the parameters were changed by anybody else. ``step_size`` and the inverse
    temperature ``beta`` (B * L,) are arrays to fill between runs. A transition leaves of each chain ``probability`` =
    min(1, e^-dH) and ``accepted`` (0 or 1). Noise is the stream "hmc" at (``step``, row * L + l): ``step`` and ``row``
    are tables of one number as in a training step's clock.
    """

    def __init__(
        self,
        model: Model,
        ws: Workspace,
        x: Buffer,
        *,
        leapfrog_steps: int,
        seed: int,
        step: Buffer,
        row: Buffer,
        stream: str = "hmc",
        jitter_width: float = JITTER,
    ) -> None:
        if leapfrog_steps < 1:
            raise ValueError(f"{leapfrog_steps} leapfrog steps: at least one is needed")
        self.model, self.ws, self.x = model, ws, x
        self.leapfrog_steps = leapfrog_steps
        self.seed, self.step, self.row, self.stream = seed, step, row, stream
        self.jitter = jitter_width
        latent = model.architecture.latent
        self.z = ws.many("hmc z", latent)
        self.logp = ws.many("hmc logp")
        self.dlogp = ws.many("hmc dlogp", latent)
        self.step_size = ws.many("hmc step size")
        self.beta = ws.many("hmc beta")
        self.probability = ws.many("hmc probability")
        self.accepted = ws.many("hmc accepted")
        self.step_size.array[...] = 0.1
        self.beta.array[...] = 1
        self._one = ws.many("hmc one")
        self._one.array[...] = 1
        self._size = ws.many("hmc jittered step size")
        # The momentum; two numbers, half the sum of whose squares is Exp(1), the -log u of the acceptance; the jitter.
        self._noise = ws.many("hmc noise", latent + 3)
        self._p = self._noise.part((slice(None), slice(None, latent)))

    def prepare(self) -> list[Operation]:
        """Once after each change of the parameters, before any row."""
        return self.model.decoder.prepare(self.ws, self.model.parameters)

    def from_prior(self) -> list[Operation]:
        """z ~ N(0, I) from the stream "<stream> prior" at the present step; ``start`` must follow."""
        return [normal_noise(self.step, self.row, self.z, self.seed, f"{self.stream} prior", ahead=False)]

    def start(self) -> list[Operation]:
        """logp and dlogp of the present z."""
        found = self.ws.many("logp")
        return [*self._decode(self.z, self.dlogp), operation(scale, _column(found), 1.0, _column(self.logp))]

    def transition(self, index: int = 0) -> list[Operation]:
        """Fresh momentum, leapfrog steps, Metropolis correction.

        Several transitions within one value of ``step`` take different ``index``: each has a stream of its own.
        """
        ws, latent = self.ws, self.model.architecture.latent
        stream = self.stream if index == 0 else f"{self.stream} {index}"
        narrow, work = ws.many("hmc scratch", latent), ws.many("hmc work", latent)
        one, other = (b.part((slice(None), slice(None, 1))) for b in (narrow, work))
        proposal, dproposal = ws.many("hmc proposal", latent), ws.many("hmc dproposal", latent)
        energy, new_energy = ws.many("hmc energy"), ws.many("hmc new energy")
        exponential, scratch, new_logp = ws.many("hmc exponential"), ws.many("hmc row scratch"), ws.many("logp")
        uniform = [self._noise.part((slice(None), slice(i, i + 1))) for i in (latent, latent + 1)]
        return [
            normal_noise(self.step, self.row, self._noise, self.seed, stream, ahead=True),
            operation(jitter, self.step_size, self._noise.part((slice(None), latent + 2)), self.jitter, self._size),
            operation(square_energy, *uniform, one, other, exponential),
            operation(square_energy, self.z, self._p, narrow, work, energy),
            operation(scale, self.z, 1.0, proposal),
            *self.trajectory(proposal, dproposal),
            operation(square_energy, proposal, self._p, narrow, work, new_energy),
            operation(
                metropolis,
                *(self.logp, energy, new_logp, new_energy, self.beta, exponential, scratch),
                *(self.probability, self.accepted),
            ),
            operation(select, self.accepted, proposal, self.z),
            operation(select, self.accepted, dproposal, self.dlogp),
            operation(select, self.accepted, _column(new_logp), _column(self.logp)),
        ]

    def trajectory(self, z: Buffer, dz: Buffer) -> list[Operation]:
        """Leapfrog steps of (z, momentum) that start at the state's gradient and end with log p(x | z) in "logp".

        The step sizes are the jittered ones of the transition.
        """
        scratch = self.ws.many("hmc scratch", self.model.architecture.latent)
        operations = [self._kick(0.5, z, self.dlogp, scratch)]
        for i in range(self.leapfrog_steps):
            last = i == self.leapfrog_steps - 1
            operations.append(operation(leapfrog_position, self._p, self._size, scratch, z))
            operations += self._decode(z, dz)
            operations.append(self._kick(0.5 if last else 1.0, z, dz, scratch))
        return operations

    def adapt(self, rate: Buffer, target: float = TARGET) -> Operation:
        """log step size += rate * (mean acceptance probability - target), one step size for all rows.

        ``rate`` is a table of one number. It takes a mean over rows: no thread's share, but a phase of its own.
        """
        probability, step_size = self.probability, self.step_size

        def bind(xp: Any, rows: Rows) -> Callable[[], None]:
            found, sizes, speed = probability.array, step_size.array, rate.array
            change = xp.zeros(1, found.dtype)

            def run() -> None:
                xp.add.reduce(found, out=change[0:1], keepdims=True)
                xp.multiply(change, found.dtype.type(1 / found.size), out=change)
                xp.subtract(change, found.dtype.type(target), out=change)
                xp.multiply(change, speed, out=change)
                xp.exp(change, out=change)
                xp.multiply(sizes, change, out=sizes)

            return run

        return custom("adapt_step_size", bind, (probability, step_size, rate), (step_size,))

    def _kick(self, factor: float, z: Buffer, dz: Buffer, scratch: Buffer) -> Operation:
        return operation(leapfrog_momentum, z, dz, self.beta, self._size, factor, scratch, self._p)

    def _decode(self, z: Buffer, dz: Buffer) -> list[Operation]:
        """ "logp" and dz at z."""
        decoder, theta = self.model.decoder, self.model.parameters
        return [
            *decoder.forward(self.ws, theta, z),
            decoder.log_prob(self.ws, theta, self.x, gradient=True),
            *decoder.backward_data(self.ws, theta, self._one, dz),
        ]


class StepSize:
    """Step sizes (n,) moved towards a target acceptance: log size += rate (1 + i / 20)^-decay (acceptance - target).

    i counts the calls. With ``decay`` 0 the sizes follow a changing target distribution; with a decay in (1/2, 1] they
    settle (Robbins & Monro 1951). The acceptance is the mean probability of a data point's chains: nothing random here.
    """

    def __init__(
        self,
        count: int,
        initial: float | npt.NDArray[np.float64] = 0.5,
        *,
        rate: float = 1.0,
        decay: float = 0.0,
        target: float = TARGET,
    ) -> None:
        self.log_size = np.full(count, np.log(initial))
        self.rate, self.decay, self.target = rate, decay, target
        self.calls = 0

    @property
    def size(self) -> npt.NDArray[np.float64]:
        """(n,)"""
        sizes: npt.NDArray[np.float64] = np.exp(self.log_size)
        return sizes

    def adapt(self, acceptance: npt.NDArray[np.float64]) -> None:
        """One move after transitions with mean acceptance probabilities (n,)."""
        self.calls += 1
        self.log_size += self.rate * (1 + self.calls / 20) ** -self.decay * (acceptance - self.target)


def _column(buffer: Buffer) -> Buffer:
    """One number a row as rows x 1 column."""
    return buffer.reshaped(buffer.per_point, -1, 1)
