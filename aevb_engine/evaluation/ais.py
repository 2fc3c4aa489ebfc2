"""Annealed importance sampling of log p(x) (Neal 2001; for decoders Wu, Burda, Salakhutdinov & Grosse 2017).

From the prior to the posterior through p(z) p(x | z)^beta, 0 = beta_0 < ... < beta_T = 1:

    log w = sum_t (beta_(t+1) - beta_t) log p(x | z_t),   z_0 ~ N(0, I),   z_t by HMC at beta_t from z_(t-1)

E[w] = p(x), so that log 1/K sum w is below log p(x) in expectation. For simulated x the chain can be run backwards from
the z that x was drawn from, an exact posterior sample: then E[1 / w] = 1 / p(x), and -log 1/K sum 1/w is above.

Step sizes are found by a pilot run of a few chains with noise of its own, a size for each data point and temperature.
Sizes that looked at the acceptance of the chains that they move would make E[w] differ from p(x); given the pilot, the
sizes of the run proper are constants and E[w] = p(x) holds. The encoder is not used.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.errors import UsageError
from aevb_engine.evaluation import apply
from aevb_engine.evaluation.blocks import block
from aevb_engine.evaluation.chains import Chains, rows_at_once
from aevb_engine.evaluation.estimate import Estimate, RunningWeights
from aevb_engine.model.model import Model
from aevb_engine.operation import Buffer
from aevb_engine.sampling.hmc import TARGET, StepSize
from aevb_engine.training.step import ResidentRows

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]

STEEPNESS = 4.0
PILOT_CHAINS = 4
TEMPERATURES = 100
PILOT_MOVES = 100  # in all, so that few temperatures still leave time to adapt


@dataclass(frozen=True)
class AisEstimate(Estimate):
    """``acceptance`` (N,): mean acceptance probability over chains and temperatures.

    Of a reverse run the weights are 1 / w: ``log_likelihood`` is the upper bound.
    """

    acceptance: Array


@dataclass(frozen=True)
class Simulated:
    """Data x (N, D) made by ``simulate``, with the z (N, Z) that each was drawn from: an exact sample of p(z | x)."""

    x: Array
    z: Array
    model: str  # digest of the parameters


def simulate(model: Model, n: int, seed: int = 0) -> Simulated:
    """n draws z ~ N(0, I), x ~ p(x | z)."""
    z = apply.prior(model, n, seed).astype(model.dtype)
    return Simulated(apply.sample(model, n, seed), z, _digest(model))


def sigmoid_schedule(steps: int, steepness: float = STEEPNESS) -> npt.NDArray[np.float64]:
    """beta_0 = 0 .. beta_T = 1 (T + 1,), T = ``steps``: s(c (2t / T - 1)), shifted and scaled, s the logistic function.

    Close together at both ends, where log w varies most; c = 4 as in Wu et al. 2017.
    """
    if steps < 1:
        raise UsageError(f"temperatures={steps}: at least one is needed")
    values = 1 / (1 + np.exp(-steepness * np.linspace(-1, 1, steps + 1)))
    betas: npt.NDArray[np.float64] = (values - values[0]) / (values[-1] - values[0])
    betas[-1] = 1
    return betas


class AnnealedImportanceSampler:
    """AIS of resident rows (N, D), or of ``Simulated`` data, by K chains a data point over T temperatures.

    Memory is that of ``ROWS_AT_ONCE`` decoded rows, or of a block of data points for each thread where that is more.
    On one machine the estimate of a data point is the same to the last bit for every number of threads, chunk and
    number of rows; elsewhere rounding makes other chains of it, as another seed would (``Chains``).
    """

    def __init__(
        self,
        model: Model,
        data: ResidentRows | Simulated,
        *,
        temperatures: int = TEMPERATURES,
        chains: int = 16,
        leapfrog_steps: int = 10,
        target: float = TARGET,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        if chains < 1:
            raise UsageError(f"chains={chains}: at least one is needed")
        self.simulated = data if isinstance(data, Simulated) else None
        if isinstance(data, Simulated):
            data = ResidentRows(Buffer("data", model.backend.upload(data.x.astype(model.dtype))))
        self.model, self.count, self.chains, self.target = model, int(data.data.array.shape[0]), chains, target
        self.betas = sigmoid_schedule(temperatures)
        most, size = max(chains, PILOT_CHAINS), block(min(chains, PILOT_CHAINS))
        self.batch = rows_at_once(self.count, most, size, -(-block(chains) * threads // size))
        batch = min(self.count, self.batch)  # rounded up to blocks of pilot and chains, each to its own
        common: dict[str, Any] = {"leapfrog_steps": leapfrog_steps, "seed": seed, "threads": threads}
        self._pilot = Chains(model, data, batch, PILOT_CHAINS, stream="hmc pilot", **common)
        self._forward = Chains(model, data, batch, chains, stream="hmc ais", **common)
        self._reverse: Chains | None = None
        if self.simulated is not None:
            self._reverse = Chains(model, data, batch, chains, stream="hmc reverse", **common)

    def run(self, progress: Progress | None = None) -> AisEstimate:
        """A lower bound on log p(x) of each row in expectation, close to it where the chains keep up."""
        return self._all(self._anneal, self._forward, progress)

    def reverse(self, progress: Progress | None = None) -> AisEstimate:
        """An upper bound on log p(x) in expectation, of simulated data only."""
        if self.simulated is None or self._reverse is None:
            raise UsageError("reverse AIS needs the z that x was drawn from: give data made by simulate(model, n)")
        if self.simulated.model != _digest(self.model):
            raise UsageError("reverse AIS needs data of this very model: call simulate(model, n) again")
        return self._all(self._anneal_backwards, self._reverse, progress)

    def _all(self, anneal: Any, chains: Chains, progress: Progress | None) -> AisEstimate:
        parts = []
        for lo in range(0, self.count, self.batch):
            n = min(self.batch, self.count - lo)

            def at(done: float, lo: int = lo, n: int = n) -> None:
                if progress is not None:
                    progress(lo + int(done * n), self.count)

            parts.append(anneal(chains, lo, n, self._step_sizes(lo), at))
        return AisEstimate.joined(parts)

    def _step_sizes(self, lo: int) -> npt.NDArray[np.float64]:
        """(T, pilot's B): a size for each temperature but the last, where nothing moves, from a run thrown away."""
        pilot = self._pilot
        pilot.put(lo)
        pilot.from_prior()
        sizes = StepSize(pilot.batch, target=self.target)
        moves = math.ceil(PILOT_MOVES / len(self.betas))
        out = np.empty((len(self.betas) - 1, pilot.batch))
        for t, beta in enumerate(self.betas[:-1]):
            for _ in range(moves):
                pilot.move(beta, sizes.size)
                sizes.adapt(pilot.acceptance())
            out[t] = sizes.size
        return out

    def _anneal(self, chains: Chains, lo: int, n: int, sizes: Array, at: Callable[[float], None]) -> AisEstimate:
        betas = self.betas
        chains.put(lo)
        chains.from_prior()
        logw = (betas[1] - betas[0]) * chains.logp()
        accepted = []
        for t in range(1, len(betas) - 1):
            chains.move(betas[t], sizes[t])
            accepted.append(chains.acceptance())
            logw += (betas[t + 1] - betas[t]) * chains.logp()
            at(t / (len(betas) - 1))
        at(1)
        return _estimate(logw[:n], accepted, n, 1)

    def _anneal_backwards(
        self, chains: Chains, lo: int, n: int, sizes: Array, at: Callable[[float], None]
    ) -> AisEstimate:
        betas = self.betas
        assert self.simulated is not None
        chains.put(lo)
        chains.from_points(self.simulated.z[lo : lo + n])
        last = len(betas) - 1
        logw = (betas[last] - betas[last - 1]) * chains.logp()
        accepted = []
        for t in range(last - 1, 0, -1):
            chains.move(betas[t], sizes[t])
            accepted.append(chains.acceptance())
            logw += (betas[t] - betas[t - 1]) * chains.logp()
            at(1 - t / last)
        at(1)
        return _estimate(logw[:n], accepted, n, -1)


def _estimate(logw: Array, accepted: list[Array], n: int, sign: int) -> AisEstimate:
    """From the log-weights (n, K) of a chunk; with ``sign`` -1 of their inverses."""
    running = RunningWeights(n, logw.shape[1])
    running.add(sign * logw)
    e = running.estimate()
    acceptance = np.mean(accepted, axis=0)[:n] if accepted else np.full(n, np.nan)
    return AisEstimate(sign * e.log_likelihood, e.standard_error, e.effective_samples, e.khat, acceptance)


def _digest(model: Model) -> str:
    return hashlib.sha256(model.backend.download(model.parameters.theta).tobytes()).hexdigest()
