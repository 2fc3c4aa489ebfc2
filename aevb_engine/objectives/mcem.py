"""Monte Carlo EM with Hamiltonian dynamics (KW appendix E; Duane et al. 1987)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np

from aevb_engine.errors import UsageError
from aevb_engine.kernels.bound import mean_of_samples
from aevb_engine.kernels.gather import gather
from aevb_engine.kernels.noise import Noise
from aevb_engine.objectives.base import Objective
from aevb_engine.objectives.program import Feed, Pass, Program
from aevb_engine.operation import Buffer, Operation, Rows, custom, operation
from aevb_engine.sampling.hmc import Hmc

INITIAL_STEP = 0.1
RATE = 1.0  # log step size += RATE * (mean acceptance - target) at each visit: it follows a changing posterior


class Mcem(Objective):
    """E-step: z ~ p(z | x) by Hamiltonian Monte Carlo; M-step: weight updates that ascend 1/L sum_l log p(x | z_l).

    At each visit of a batch the E-step makes ``transitions`` of ``leapfrogs`` steps, with one step size for all chains
    tuned to ``acceptance``; then the batch and its samples stay for ``updates`` weight updates, each of them a step.
    The defaults are those of KW appendix E. There are L = ``--samples`` chains a data point.

    Chains persist: a data point's chains go on from where its last visit left them, starting from the prior. One
    trajectory from a fresh prior draw is far from the posterior, and the weights would follow that error; a chain that
    goes on forgets its start while the posterior moves little between visits. The chains (N, L Z), the samples of the
    batch and the step size are state, stored in checkpoints. Where a batch holds a data point twice (across the end of
    an epoch), the later place keeps its chain. With dynamic binarization a visit is one draw.

    There is no encoder: its parameters are neither trained nor decayed. There is no bound either; recorded is
    reconstruction, the mean of log p(x | z) over the samples. KW call their Monte Carlo EM not on-line; on minibatches
    it is an extension of this program.
    """

    summary: ClassVar[str] = "Monte Carlo EM by HMC, without an encoder: not a bound"
    is_bound = False
    has_encoder: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("reconstruction",)

    def __init__(self, *, leapfrogs: int = 10, updates: int = 5, transitions: int = 1, acceptance: float = 0.9) -> None:
        for name, value in (("leapfrogs", leapfrogs), ("updates", updates), ("transitions", transitions)):
            if value < 1:
                raise UsageError(f"objective.{name}={value}: at least 1 is needed")
        if not 0 < acceptance < 1:
            raise UsageError(f"objective.acceptance={acceptance}: a rate between 0 and 1 is needed")
        self.leapfrogs = leapfrogs
        self.updates = updates
        self.transitions = transitions
        self.acceptance = acceptance

    def build(self, p: Pass) -> Program:
        if not p.gradient:
            raise UsageError("the objective mcem has no encoder and no bound: it cannot judge held-out data")
        ws, theta, decoder = p.ws, p.model.parameters, p.model.decoder
        p.undefined("bound", "kl")
        p.weight.array[...] = -1 / (ws.batch * ws.samples)
        z = ws.many("hmc z", p.latent)
        program = Program(prepare=decoder.prepare(ws, theta))
        program.rows = [
            *decoder.forward(ws, theta, z),
            decoder.log_prob(ws, theta, p.x, gradient=True),
            operation(mean_of_samples, p.cube(p.logp), ws.one("reconstruction")),
            *decoder.backward_data(ws, theta, p.weight, None),
            *decoder.weigh_rows(ws, p.weight, z),
        ]
        program.pieces = decoder.backward_params(ws, theta, p.weight, z)
        if p.feed is not None:
            self._e_step(p, p.feed, program)
        return program

    def _e_step(self, p: Pass, feed: Feed, program: Program) -> None:
        ws = p.ws
        hmc = Hmc(p.model, ws, p.x, leapfrog_steps=self.leapfrogs, seed=feed.seed, step=feed.step, row=feed.row)
        hmc.step_size.array[...] = INITIAL_STEP
        width = ws.samples * p.latent
        chains = ws.table("hmc chains", feed.count, width)
        chains.array[...] = p.model.backend.upload(_prior(feed, ws.samples, p.latent).astype(ws.dtype))
        rate = ws.table("hmc rate", 1)
        rate.array[...] = RATE
        held = hmc.z.reshaped(1, ws.batch, width)
        program.visit = [
            operation(gather, chains, feed.index, 1.0, held, held),
            *hmc.start(),
            *(op for i in range(self.transitions) for op in hmc.transition(i)),
        ]
        program.leave = [hmc.adapt(rate, self.acceptance), _keep(held, feed, chains, ws.one("scratch chains", width))]
        program.state = {"chains": chains, "z": hmc.z, "step-size": hmc.step_size}

    def remarks(self, batch: int, count: int) -> list[str]:
        lines = ["the objective mcem is not a bound and has no encoder: likelihoods need a sampler (AIS or HMC)"]
        if batch < count:
            lines.append(
                f"Monte Carlo EM on minibatches ({batch} of {count} data points) is an extension: the original is not "
                "on-line (KW section 5)"
            )
        return lines


def _prior(feed: Feed, samples: int, latent: int) -> Any:
    """z ~ N(0, I) of every chain (N, L Z): stream "hmc chains" at row n * L + l."""
    draws = np.empty((1, feed.count * samples, latent), np.float32)
    Noise(np, feed.seed, "hmc chains").normal(0, 0, draws)
    return draws.reshape(feed.count, samples * latent)


def _keep(held: Buffer, feed: Feed, chains: Buffer, scratch: Buffer) -> Operation:
    """The batch's chains back to their data points; where one is twice in the batch, the later place counts."""
    twice = feed.count % held.array.shape[0] != 0

    def bind(xp: Any, rows: Rows) -> Callable[[], None]:
        index, z, table, work = feed.index.array, held.array, chains.array, scratch.array
        take = partial(np.take, mode="clip") if xp is np else xp.take  # NumPy's would check and buffer, CuPy's wraps

        def run() -> None:
            if not twice:
                table[index] = z
                return
            # A scatter of one index twice has no order on a GPU: both places write what the later one holds.
            order = xp.argsort(index, kind="stable")
            ordered = index[order]
            last = xp.searchsorted(ordered, ordered, side="right") - 1
            take(z, order[last], axis=0, out=work)
            table[ordered] = work

        return run

    return custom("keep_chains", bind, (held, feed.index, chains), (chains,), (scratch,))
