"""How much an estimator of the encoder's gradient varies: L^B, L^A and the score function (KW sections 2.2 and 2.3).

All three estimate the derivative of minus the mean bound by the variational parameters from a minibatch of M rows with
L samples each. Rows are drawn independently, with replacement, so that the variance is exactly (V_x + V_eps / L) / M:
V_x between data points, V_eps of the noise at a data point. Training takes the rows of a permutation instead, whose
variance between data points is a little less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.kernels.noise import Noise
from aevb_engine.kernels.rows import scale
from aevb_engine.kernels.score_function import score_function_backward
from aevb_engine.model.model import Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.objectives.elbo import Elbo
from aevb_engine.objectives.elbo_mc import ElboMc
from aevb_engine.objectives.importance import log_densities, log_importance_weights
from aevb_engine.objectives.program import Pass, Program
from aevb_engine.operation import Rows, operation
from aevb_engine.rewrite import read_by
from aevb_engine.training.step import Clock, ResidentRows, draw_noise, read_batch, shares

ESTIMATORS = {"elbo": "L^B", "elbo-mc": "L^A", "score-function": "score function"}

Array = npt.NDArray[np.float64]


def score_function(p: Pass) -> Program:
    """grad = 1/L sum_l log w_l grad log q(z_l | x), z_l held fixed (KW section 2.2); the encoder's gradient alone.

    The learning signal is log w = log p(x | z) + log p(z) - log q(z | x), without a baseline.
    """
    ws, model = p.ws, p.model
    dmu, dlogvar = model.encoder.halves(ws, "dlatent")
    logw, weight = ws.many("logw"), p.weight
    program = Program(prepare=model.decoder.prepare(ws, model.parameters))
    program.rows = [
        *p.encode_and_decode(log_densities(p)),
        *log_importance_weights(p),
        operation(scale, logw, -1 / (ws.batch * ws.samples), weight),
        operation(
            score_function_backward, p.cube(weight), p.sigma, p.cube(p.eps), p.cube(p.scratch(p.z)), dmu, dlogvar
        ),
        *model.encoder.backward_data(ws, model.parameters),
    ]
    program.pieces = model.encoder.backward_params(ws, model.parameters, p.x)
    return program


class EncoderGradient:
    """One estimator at one (M, L): ``draw(step, noise)`` is an unbiased gradient (P,) of minus the mean bound."""

    def __init__(
        self,
        model: Model,
        data: ResidentRows,
        estimator: str,
        batch: int,
        samples: int,
        *,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        if data.dynamic:
            raise ValueError("rows that are drawn anew at each step: draw them once before")
        self.model, self.batch, self.seed = model, batch, seed
        self.count = int(data.data.array.shape[0])
        ws = Workspace(model.backend, batch, samples, model.dtype)
        self.clock = clock = Clock(ws, 1, 0)
        one_pass = Pass(model, ws, gradient=estimator != "score-function")
        one_pass.noise = [draw_noise(clock, one_pass.eps, seed, "variance", ahead=False)]
        build = {"elbo": Elbo().build, "elbo-mc": ElboMc().build, "score-function": score_function}[estimator]
        program = build(one_pass)
        own = [p for p in program.pieces if p.parameter.name.startswith("encoder.")]
        self.lo = min(p.parameter.lo for p in own)
        self.hi = max(p.parameter.hi for p in own)
        bind = model.backend.bind
        rows = [*read_batch(ws, clock, one_pass.x, data, seed), *program.rows]
        gradients = [piece.make(0, piece.rows) for piece in own]
        self.phases = [
            [bind(program.prepare, Rows(0, batch))],
            [bind(rows, share, read=read_by([gradients])) for share in shares(batch, threads)],
            [bind(gradients, Rows(0, batch))],
        ]
        self._choice = Noise(np, seed, "variance rows")

    def draw(self, step: int, noise: int) -> Array:
        """The gradient of minibatch ``step`` under noise number ``noise``."""
        uniform = np.empty((1, 1, 4 * -(-self.batch // 4)), np.float32)
        self._choice.uniform(step, 0, uniform)
        rows = (uniform[0, 0, : self.batch].astype(np.float64) * self.count).astype(np.int64)
        self.clock.index.array[...] = self.model.backend.upload(rows)
        self.clock.step.array[...] = noise
        self.model.backend.run(self.phases, 1)
        gradient = self.model.backend.download(self.model.parameters.grad)[self.lo : self.hi]
        return gradient.astype(np.float64)


@dataclass(frozen=True)
class GradientVariance:
    """Sums over the encoder's parameters, with standard errors: total variance, the part of the noise, |E g|^2.

    ``signal`` is an unbiased estimate of |E g|^2, which may fall below zero where noise drowns it.
    """

    estimator: str
    batch: int
    samples: int
    variance: float
    variance_se: float
    noise: float
    noise_se: float
    signal: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def gradient_variance(gradient: Callable[[int, int], Array], replicates: int) -> tuple[float, ...]:
    """variance, its standard error, noise part, its standard error, |mean|^2 of ``gradient(minibatch, noise)``.

    Two noise draws for each minibatch: half the squared distance between them estimates the noise part, that between
    the gradients of two minibatches the whole; both without bias and without keeping any gradient but the last.
    """
    if replicates < 4:
        raise ValueError(f"{replicates} replicates: at least 4 are needed")
    totals, noises = [], []
    mean: Any = 0.0
    pairs = replicates // 2
    for pair in range(pairs):
        (a, b), (c, d) = ([gradient(i, 2 * i), gradient(i, 2 * i + 1)] for i in (2 * pair, 2 * pair + 1))
        totals.append(0.25 * float(((a - c) ** 2).sum() + ((b - d) ** 2).sum()))
        noises.append(0.25 * float(((a - b) ** 2).sum() + ((c - d) ** 2).sum()))
        mean = mean + (a + b + c + d) / (4 * pairs)
    total, noise = float(np.mean(totals)), float(np.mean(noises))
    # |mean|^2 exceeds |E g|^2 by the variance of the mean: between minibatches over 2 pairs, noise over 4 pairs.
    signal = float((mean**2).sum()) - (total - noise) / (2 * pairs) - noise / (4 * pairs)
    errors = [float(np.std(v, ddof=1) / np.sqrt(pairs)) for v in (totals, noises)]
    return total, errors[0], noise, errors[1], signal


def study(
    model: Model,
    data: ResidentRows,
    *,
    batches: Sequence[int],
    samples: Sequence[int],
    replicates: int = 100,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[GradientVariance]:
    """The variance of every estimator at every (M, L), at the model's present parameters, on common random numbers."""
    cells = [(name, m, n) for m in batches for n in samples for name in ESTIMATORS]
    found = []
    for i, (name, m, n) in enumerate(cells):
        source = EncoderGradient(model, data, name, m, n, seed=seed, threads=threads)
        found.append(GradientVariance(name, m, n, *gradient_variance(source.draw, replicates)))
        if progress is not None:
            progress(i + 1, len(cells))
    return found
