"""One report on a model and some rows: bound, log-likelihoods, latent dimensions, baselines, what compares with what.

``evaluate`` returns plain values only (numbers, text, lists, dicts; None for what does not exist), ready for JSON:

====================  =================================================================================================
bound                 L^B with one fixed noise draw a row: value, se, reconstruction, reconstruction_se, kl, kl_se, rows
estimates             by method: value, se, mc_se, rows, side, statement, diagnostics, bits_per_dim, beside the bound
pairs                 two methods on their common rows: mean difference and its standard error
bracket               forward and reverse annealing on data drawn from the model, where asked for
latent                kl and variance by dimension, number of active units, the threshold
baselines             value, se, bits_per_dim, fitted numbers, and how far the bound is above each
truth                 log p_true(x), where the process that made the data is known
notes                 what a reader must know before comparing these numbers with others
====================  =================================================================================================

Values are means over data points in nats; ``se`` is the standard error over data points, ``mc_se`` that of the
sampling alone at fixed data points.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.evaluation import baselines
from aevb_engine.evaluation.ais import TEMPERATURES, AnnealedImportanceSampler, simulate
from aevb_engine.evaluation.bound import Evaluator
from aevb_engine.evaluation.diagnostics import KHAT_LIMIT
from aevb_engine.evaluation.estimate import finite, standard_error
from aevb_engine.evaluation.latent import ACTIVE, latent_use
from aevb_engine.evaluation.methods import METHODS, Result, estimate
from aevb_engine.evaluation.subject import Plan, Subject, comparability, other_scale
from aevb_engine.training.step import resident

BRACKET_ROWS = 100
LEAST_ROUNDING = 1 / 12  # variance of rounding to whole numbers: the least of a baseline on whole numbers

Array = npt.NDArray[Any]
# Called with (what, done, total) while work goes on.
Progress = Callable[[str, int, int], None]


def evaluate(subject: Subject, plan: Plan, progress: Progress | None = None) -> dict[str, Any]:
    """The report; UsageError for a plan that cannot be carried out."""
    plan.check(subject)
    began = time.perf_counter()
    say = progress or (lambda what, done, total: None)
    model, dim = subject.model, subject.model.architecture.dim
    data = resident(model, subject.rows, subject.scale)
    notes = comparability(subject)
    bound = latent = None
    per_row: npt.NDArray[np.float64] | None = None
    if subject.encoder:
        say("bound", 0, 1)
        per_row = Evaluator(model, data, seed=plan.seed, threads=plan.threads).run()
        say("latent dimensions", 0, 1)
        latent = latent_use(model, data, seed=plan.seed, threads=plan.threads)
        bound = _bound(per_row, subject, dim)
    made = [_estimate(subject, plan, name, say) for name in plan.chosen(subject)]
    estimates = [_described(e, subject, dim, per_row) for e in made]
    for each in estimates:
        share = each["pareto_k_bad_share"]
        if share:
            notes.append(
                f"{each['method']}: Pareto k-hat is above {KHAT_LIMIT} for {share:.1%} of the rows; their errors are "
                "larger than stated, by an unknown amount"
            )
        if each["refused"]:
            reasons = "; ".join(f"{count} rows, {reason}" for reason, count in each["refused_for"].items())
            notes.append(f"{each['method']}: refused {each['refused']} of {each['rows'] + each['refused']}: {reasons}")
    return {
        "unit": "nats a data point",
        "measure": subject.measure,
        "dimensions": dim,
        "rows_in_split": len(subject.rows),
        "lattice": subject.lattice,
        "other_scale": other_scale(subject),
        "bound": bound,
        "estimates": estimates,
        "pairs": [_pair(a, b) for a, b in combinations(made, 2)],
        "bracket": _bracket(subject, plan, say) if plan.bracket else None,
        "latent": None
        if latent is None
        else {
            "kl": latent.kl.tolist(),
            "variance": latent.variance.tolist(),
            "active": latent.active,
            "threshold": ACTIVE,
        },
        "baselines": _baselines(subject, notes, per_row, say) if plan.baselines else [],
        "truth": _truth(subject, per_row),
        "notes": notes,
        "seconds": round(time.perf_counter() - began, 3),
    }


def bits_per_dimension(value: float | None, dim: int, measure: str) -> float | None:
    """-value / (D ln 2) of a mass; None for a density, which has no bits without a resolution."""
    return -value / (dim * math.log(2)) if measure == "mass" and value is not None else None


def mean_and_error(values: npt.NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Mean over data points and its standard error; None where it is not finite, of no data point, of a single one."""
    if not len(values):
        return None, None
    with np.errstate(invalid="ignore"):  # inf - inf
        mean = values.mean()
    return finite(mean), finite(standard_error(values))


def _bound(per_row: npt.NDArray[np.float64], subject: Subject, dim: int) -> dict[str, Any]:
    (value, error), (reconstruction, r_error), (kl, kl_error) = (mean_and_error(per_row[:, i]) for i in range(3))
    return {
        "value": value,
        "se": error,
        "reconstruction": reconstruction,
        "reconstruction_se": r_error,
        "kl": kl,
        "kl_se": kl_error,
        "rows": len(per_row),
        "bits_per_dim": bits_per_dimension(value, dim, subject.measure),
        "statement": "a lower bound in expectation over its noise: E[L^B] <= log p(x) (KW 3, 7)",
    }


def _estimate(subject: Subject, plan: Plan, name: str, say: Progress) -> Result:
    rows = plan.rows or min(len(subject.rows), METHODS[name].rows or len(subject.rows))
    return estimate(
        name,
        subject.model,
        resident(subject.model, subject.rows[:rows], subject.scale),
        samples=plan.samples.get(name),
        temperatures=plan.temperatures if name == "ais" else None,
        seed=plan.seed,
        threads=plan.threads,
        progress=lambda done, total: say(METHODS[name].title, done, total),
    )


def _described(found: Result, subject: Subject, dim: int, per_row: npt.NDArray[np.float64] | None) -> dict[str, Any]:
    """Means over the rows that were not refused; diagnostics over all of them."""
    method = METHODS[found.method]
    sound = np.isfinite(found.values)
    values = found.values[sound]
    value, error = mean_and_error(values)
    gap, gap_error, bound, bound_error = None, None, None, None
    if per_row is not None:
        same = per_row[: len(sound), 0][sound]
        gap, gap_error = mean_and_error(values - same)
        bound, bound_error = mean_and_error(same)
    return {
        "method": found.method,
        "title": method.title,
        "samples": found.samples,
        "samples_are": method.samples_are,
        "temperatures": found.temperatures,
        "rows": len(values),
        "refused": len(sound) - len(values),
        "refused_for": dict(Counter(found.reasons)),
        "value": value,
        "se": error,
        "mc_se": finite(np.sqrt((found.error[sound] ** 2).sum()) / len(values)) if len(values) else None,
        "side": method.side,
        "statement": method.statement,
        "bits_per_dim": bits_per_dimension(value, dim, subject.measure),
        "above_bound": gap,
        "above_bound_se": gap_error,
        "bound_of_rows": bound,
        "bound_of_rows_se": bound_error,
        "bound_of_rows_bits": bits_per_dimension(bound, dim, subject.measure),
        "effective_samples_median": _at(found.effective_samples, np.median),
        "effective_samples_min": _at(found.effective_samples, np.min),
        "pareto_k_median": _at(found.pareto_k, np.median),
        "pareto_k_bad_share": _bad_share(found.pareto_k),
        "acceptance": _at(found.acceptance, np.mean),
        "r_hat_max": _at(found.r_hat, np.max),
        "seconds": round(found.seconds, 3),
    }


def _at(values: npt.NDArray[np.float64] | None, what: Callable[..., Any]) -> float | None:
    """A summary over the rows where there is a diagnosis; None where it is infinite (chains that never moved)."""
    known = values[~np.isnan(values)] if values is not None else np.empty(0)
    return finite(what(known)) if known.size else None


def _bad_share(khat: npt.NDArray[np.float64]) -> float | None:
    return None if np.isnan(khat).all() else float((khat > KHAT_LIMIT).mean())


def _pair(a: Result, b: Result) -> dict[str, Any]:
    n = min(len(a.values), len(b.values))
    differences = a.values[:n] - b.values[:n]
    differences = differences[np.isfinite(differences)]
    difference, error = mean_and_error(differences)
    return {"methods": [a.method, b.method], "rows": len(differences), "difference": difference, "se": error}


def _bracket(subject: Subject, plan: Plan, say: Progress) -> dict[str, Any]:
    """log p of data drawn from the model itself, from below (forward) and from above (reverse annealing)."""
    rows = plan.rows or BRACKET_ROWS
    chains = plan.samples.get("ais", METHODS["ais"].samples)
    made = simulate(subject.model, rows, plan.seed)
    temperatures = plan.temperatures or TEMPERATURES
    sampler = AnnealedImportanceSampler(
        subject.model, made, temperatures=temperatures, chains=chains, seed=plan.seed, threads=plan.threads
    )
    forward = sampler.run(lambda done, total: say("forward annealing", done, total))
    backward = sampler.reverse(lambda done, total: say("reverse annealing", done, total))
    below, above = forward.log_likelihood, backward.log_likelihood
    (low, low_error), (high, high_error), (gap, gap_error) = (mean_and_error(v) for v in (below, above, above - below))
    return {
        "rows": rows,
        "samples": chains,
        "temperatures": temperatures,
        "forward": low,
        "forward_se": low_error,
        "reverse": high,
        "reverse_se": high_error,
        "gap": gap,
        "gap_se": gap_error,
        "acceptance_forward": _at(forward.acceptance, np.mean),
        "acceptance_reverse": _at(backward.acceptance, np.mean),
        "statement": "for data drawn from the model both sides are bounds in expectation (Grosse et al. 2015); nothing "
        "follows for other data but that annealing of this length is accurate where the model's own data are alike",
    }


def _baselines(
    subject: Subject, notes: list[str], per_row: npt.NDArray[np.float64] | None, say: Progress
) -> list[dict[str, Any]]:
    kind, dim = subject.model.likelihood.support.kind, subject.model.architecture.dim
    train, scale = subject.train, subject.train_scale
    units, rows, shift = subject.model.likelihood.units, subject.rows, 0.0
    if units is not None:  # principal axes are those of columns of one spread; the densities are of the data
        train, rows = units.inward(train, np.float64, scale), units.inward(rows, np.float64, subject.scale)
        scale, shift = 1.0, units.log_spread
    fits: list[Callable[[], baselines.Baseline]] = []
    if kind == "binary":
        fits.append(lambda: baselines.bernoulli(train, scale=scale))
    elif subject.measure == "density":
        least = LEAST_ROUNDING * subject.scale**2 if subject.lattice and units is None else None
        fits.append(lambda: baselines.gaussian(train, scale=scale, least_variance=least))
        if not 2 <= dim <= baselines.LARGEST_DIM:
            notes.append(f"no probabilistic PCA of {dim} columns: 2 to {baselines.LARGEST_DIM} are possible")
        else:
            latent = subject.model.architecture.latent
            fits.append(lambda: baselines.ppca(train, latent, scale=scale, least_variance=least))
    else:
        notes.append(f"no baseline for data of kind {kind}")
    out = []
    for i, fit in enumerate(fits):
        say("baselines", i, len(fits))
        baseline = fit()
        values = baseline.score(rows, subject.scale if units is None else 1.0) - shift
        value, error = mean_and_error(values)
        gap, gap_error = mean_and_error(per_row[:, 0] - values) if per_row is not None else (None, None)
        out.append({
            "name": baseline.name,
            "value": value,
            "se": error,
            "bits_per_dim": bits_per_dimension(value, dim, subject.measure),
            "rows": len(values),
            "parameters": baseline.parameters,
            "note": baseline.note,
            "bound_above": gap,
            "bound_above_se": gap_error,
        })  # fmt: skip
    return out


def _truth(subject: Subject, per_row: npt.NDArray[np.float64] | None) -> dict[str, Any] | None:
    """log p_true(x) of the rows, and how far the bound is above it: by chance, or not at all in expectation."""
    if subject.true_log_prob is None:
        return None
    values = np.asarray(subject.true_log_prob(subject.rows), np.float64)
    value, error = mean_and_error(values)
    gap, gap_error = mean_and_error(per_row[:, 0] - values) if per_row is not None else (None, None)
    return {"value": value, "se": error, "bound_above": gap, "bound_above_se": gap_error}
