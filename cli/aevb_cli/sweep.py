"""The end of varied runs for people: a table of all, the best first, and one of the means over the seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aevb_cli.text import number, setting, table
from aevb_engine.experiment.atomic import quoted
from aevb_engine.experiment.ranking import in_order

BY = {
    "validation_bound": "the validation bound of the best checkpoint",
    "test_bound": "the test bound, for display only: --validation F holds out rows that choose",
    "validation_reconstruction": "the validation reconstruction of the best checkpoint: there is no bound",
    "test_reconstruction": "the test reconstruction, for display only: not all runs have a bound",
    "train_reconstruction": "the reconstruction of the training batches, for display only: not all runs have more",
}
OF_BEST = "each run's bounds are of its best parameters for the validation rows"
Record = Mapping[str, Any]


def compared(record: Record, near: Callable[[Path], str]) -> str:
    """Runs, combinations where one has several seeds, and what ranked them; folders as ``near`` writes them."""
    combinations = in_order(record["combinations"])
    parts = [_runs(record, combinations, near)]
    measure = record["ranked_by"]
    if measure is not None and any(c.get(f"{measure}_sd") is not None for c in combinations):
        parts.append(_means(measure, combinations))
    if measure is not None and len(combinations) > 1:
        several = any(c["rank"] == 2 for c in combinations)
        lines = [OF_BEST] if str(measure).startswith("validation") else []
        lines += [f"ranked by {BY[measure]}" + ("; * is the best" if several else "")]
        if record["ranked_within"]:
            what = ["decoder" if name == "measure" else name for name in record["ranked_within"]]
            lines.append(f"runs of another {' or '.join(what)} do not compare: each has ranks of its own")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _runs(record: Record, combinations: Sequence[Record], near: Callable[[Path], str]) -> str:
    """A row a run, those that diverged last."""
    kind = "reconstruction" if str(record["ranked_by"]).endswith("reconstruction") else "bound"
    known = [f"{part}_{kind}" for part in ("train", "validation", "test")]
    shown = [n for n in known if any(r.get(n) is not None for r in record["replicas"])] or known[-1:]
    rows, gone = [], []
    for found in combinations:
        for each in (r for r in record["replicas"] if _belongs(r, found)):
            numbers = (number(each.get(name)) for name in shown)
            rows.append((*_lead(found, combinations), str(each["seed"]), *numbers, quoted(near(Path(each["run"])))))
        for each in (r for r in record.get("lost", ()) if _belongs(r, found)):
            words = (*["-"] * (len(shown) - 1), "diverged")
            lead = _lead({**found, "rank": None}, combinations)
            gone.append((*lead, str(each["seed"]), *words, quoted(near(Path(each["run"])))))
    head = (*_head(combinations), "seed", *(name.replace("_", " ") for name in shown), "run")
    return table(head, rows + gone, right=range(len(head) - 1))


def _means(measure: str, combinations: Sequence[Record]) -> str:
    """A row a combination: what ranks, and the test bound beside it."""
    beside = [name for name in ("test_bound",) if name != measure and any(name in c for c in combinations)]
    rows = []
    for found in combinations:
        spread = found.get(f"{measure}_sd")
        seeds = str(found["runs"]) + (f", {found['diverged']} diverged" if found["diverged"] else "")
        numbers = [number(found.get(measure)), "-" if spread is None else f"{spread:.2f}"]
        rows.append((*_lead(found, combinations), seeds, *numbers, *(number(found.get(name)) for name in beside)))
    names = [f"mean {name.replace('_', ' ')}" for name in (measure, *beside)]
    head = (*_head(combinations), "seeds", names[0], "standard deviation", *names[1:])
    return table(head, rows, right=range(len(head)))


def _head(combinations: Sequence[Record]) -> tuple[str, ...]:
    keys = tuple(combinations[0]["varied"])
    return ("rank", *keys) if len(combinations) > 1 else keys


def _lead(found: Record, combinations: Sequence[Record]) -> tuple[str, ...]:
    """Rank, with a star at the best of several that compare, and options."""
    values = tuple("none" if value is None else setting(value) for value in found["varied"].values())
    if len(combinations) == 1:
        return values
    if found["rank"] is None:
        return ("-", *values)
    best = found["rank"] == 1 and any(c["rank"] == 2 and c.get("within") == found.get("within") for c in combinations)
    return (f"{found['rank']} *" if best else str(found["rank"]), *values)


def _belongs(result: Record, found: Record) -> bool:
    options: Record = {key: value for key, value in result["varied"].items() if key != "seed"}
    return bool(options == found["varied"])
