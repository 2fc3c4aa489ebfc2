"""L^B with a weight on its KL term, which may grow from nothing (Higgins et al. 2017; Sonderby et al. 2016)."""

from __future__ import annotations

from typing import ClassVar

from aevb_engine.errors import UsageError
from aevb_engine.kernels.kl import weighted_kl_backward
from aevb_engine.objectives.elbo import Elbo
from aevb_engine.objectives.program import Pass
from aevb_engine.operation import Operation, operation


class Beta(Elbo):
    """1/L sum_l log p(x | z_l) - beta_t KL(q(z | x) || N(0, I)), beta_t = beta min(1, (t - 1) / warmup) at step t.

    The columns recorded are those of L^B (KL of weight one), so that runs of any beta compare. What is ascended is not
    L^B unless beta = 1 without warm-up; such a run equals ``elbo``.
    """

    summary: ClassVar[str] = "L^B with a weight on its KL term, and warm-up"
    encodes_data_only: ClassVar[bool] = True

    def __init__(self, *, beta: float = 1.0, warmup: int = 0) -> None:
        if not 0 <= beta < float("inf"):
            raise UsageError(f"objective.beta={beta}: a finite number of at least 0 is needed")
        if warmup < 0:
            raise UsageError(f"objective.warmup={warmup}: a number of steps is needed, 0 for none")
        self.beta = beta
        self.warmup = warmup
        self.is_bound = beta == 1 and warmup == 0

    def coefficients(self, step: int) -> tuple[float, ...]:
        return (self.beta * min(1.0, (step - 1) / self.warmup) if self.warmup else self.beta,)

    def kl_gradient(self, p: Pass) -> Operation:
        dmu, dlogvar = p.model.encoder.halves(p.ws, "dlatent")
        weight = p.coefficients(self.coefficients(self.warmup + 1))
        factor = 1 / p.ws.batch
        return operation(weighted_kl_backward, p.mu, p.sigma, weight, factor, p.scratch(p.sigma), dmu, dlogvar)

    def remarks(self, batch: int, count: int) -> list[str]:
        if self.is_bound:
            return []
        grown = f", grown over {self.warmup} steps" if self.warmup else ""
        return [
            f"the objective beta is not a bound: its KL term weighs {self.beta:g}{grown}; "
            "the bounds reported are L^B, of weight 1"
        ]
