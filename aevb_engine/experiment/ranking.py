"""Which of the varied options did best: each combination with its means over the seeds and its rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# What ranks, the first that all runs have. Validation rows choose; the others are for display only.
MEASURES = (
    "validation_bound",
    "test_bound",
    "validation_reconstruction",
    "test_reconstruction",
    "train_reconstruction",
)
Record = dict[str, Any]


def ranked(results: Sequence[Record], lost: Sequence[Mapping[str, Any]]) -> Record:
    """``combinations``, in the order in which they were trained, and ``ranked_by``, ``ranked_within``.

    ``lost`` are runs that diverged. A combination has the means and standard deviations of the bounds of its ``runs``,
    in nats a data point, and its ``rank``, 1 for the best: None where all of it diverged or the mean is not finite.
    Where runs of some options do not compare, these are in ``ranked_within``, and each of their values (``within``) has
    ranks of its own.
    """
    measure = next((m for m in MEASURES if results and all(r.get(m) is not None for r in results)), None)
    within = _apart(results)
    combinations: list[Record] = []
    for varied in _different([*results, *lost]):
        some = [r for r in results if _options(r) == varied]
        gone = sum(_options(r) == varied for r in lost)
        found: Record = {"varied": varied, "rank": None, "runs": len(some), "diverged": gone, **means(some)}
        if within and some:
            found["within"] = {name: _value(some[0], name) for name in within}
        combinations.append(found)
    if measure is not None:
        for group in _groups(combinations):
            judged = [c for c in group if c["runs"] and math.isfinite(c[measure])]
            for i, found in enumerate(sorted(judged, key=lambda c: -float(c[measure]))):
                found["rank"] = i + 1
    return {"ranked_by": measure, "ranked_within": within, "combinations": combinations}


def in_order(combinations: Sequence[Record]) -> list[Record]:
    """As a table shows them: the best first, those without a rank after them, those that diverged last."""
    ordered = [c for group in _groups([c for c in combinations if c["runs"]]) for c in sorted(group, key=_place)]
    return [*ordered, *(c for c in combinations if not c["runs"])]


def _place(found: Record) -> float:
    return found["rank"] or math.inf


def _groups(combinations: Sequence[Record]) -> list[list[Record]]:
    """Those that compare with each other, in the order of the first of each."""
    keys: list[Any] = []
    for each in combinations:
        if each.get("within") not in keys:
            keys.append(each.get("within"))
    return [[c for c in combinations if c.get("within") == key] for key in keys]


def means(results: Sequence[Mapping[str, Any]]) -> Record:
    """Mean and standard deviation of each measure that all of these runs have."""
    found: Record = {}
    for name in ("train_bound", *MEASURES):
        values = [r.get(name) for r in results]
        if values and None not in values:
            numbers = np.array(values, np.float64)
            spread = float(numbers.std(ddof=1)) if len(numbers) > 1 and np.isfinite(numbers).all() else None
            found |= {name: float(numbers.mean()), f"{name}_sd": spread}
    return found


def _options(result: Mapping[str, Any]) -> Record:
    return {key: value for key, value in result["varied"].items() if key != "seed"}


def _different(results: Sequence[Mapping[str, Any]]) -> list[Record]:
    found: list[Record] = []
    for result in results:
        if _options(result) not in found:
            found.append(_options(result))
    return found


def _apart(results: Sequence[Record]) -> list[str]:
    """What makes runs that do not compare: other data, or a density beside a probability."""
    names = ["dataset", "binarize", "measure", "scale"]
    names += [key for key in (results[0]["varied"] if results else ()) if key.startswith("dataset.")]
    return [name for name in names if len({_value(r, name) for r in results}) > 1]


def _value(result: Mapping[str, Any], name: str) -> Any:
    return result.get(name, result["varied"].get(name))
