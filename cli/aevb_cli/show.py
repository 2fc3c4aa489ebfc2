"""``aevb-engine show``: what a run is and how it went, from its folder alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from aevb_cli import complete
from aevb_cli.boundary import one_line, warn
from aevb_cli.options import CONTEXT, Command, debug_option, json_option, verbose_option
from aevb_cli.text import columns, duration, echo_json, means, number, pairs, say, setting, size, sparkline, table
from aevb_cli.work import parameters
from aevb_engine.errors import AevbError, FileFormatError, UsageError
from aevb_engine.experiment.atomic import quoted, shown

if TYPE_CHECKING:
    from aevb_engine.experiment.folder import RunFolder

SCHEMA = 1
ROWS = 8  # of the table of evaluations
EVALUATIONS = ("step", "bound", "reconstruction", "kl")
LATTICE = (
    "the data are whole numbers without dequantization: the density is evaluated on a lattice, "
    "so bounds compare among models of these data only"
)


@click.command(
    cls=Command,
    context_settings=CONTEXT,
    short_help="Show a run: bounds, course, configuration, files.",
    epilog="\b\nExamples:\n  aevb-engine show latest\n  aevb-engine show runs/my-run --json\n"
    "  aevb-engine show latest --csv eval > evaluations.csv",
)
@click.argument("name", metavar="RUN", shell_complete=complete.runs)
@click.option(
    "--csv",
    "cadence",
    type=click.Choice(["train", "eval"]),
    help="Print the metrics as CSV instead, in full precision: of training steps, or of evaluations.",
)
@json_option
@verbose_option
@debug_option
def show(name: str, cadence: str | None, as_json: bool, verbose: bool) -> None:
    """Show RUN (a folder, a name below runs/, or latest), also while it is training."""
    from aevb_engine.experiment.folder import RunFolder

    if cadence and as_json:
        raise UsageError("--csv and --json exclude each other; ask for one")
    folder = RunFolder.open(name, changed=True)
    if cadence:
        click.echo(csv(folder, cadence))
        return
    record = gather(folder)
    if as_json:
        echo_json(record)
        return
    say(report(record, verbose=verbose))
    for line in record["warnings"]:
        warn(line)


def csv(folder: RunFolder, cadence: str) -> str:
    """The metrics of a cadence under the names of their columns; every number reads back as the same float64."""
    from aevb_engine.experiment.log import read_safely

    tables = read_safely(folder.metrics_path, **_of(folder, folder.read_record(changed=True)))
    if cadence not in tables:
        raise FileFormatError(f"{folder.metrics_path} holds no metrics called '{cadence}'; known: {', '.join(tables)}")
    names, rows = tables[cadence]
    whole = [name in ("step", "seen", "best") for name in names]
    lines = [
        ",".join(str(int(v)) if i and math.isfinite(v) else repr(v) for i, v in zip(whole, row, strict=True))
        for row in rows.tolist()
    ]
    return "\n".join([",".join(names), *lines])


def _of(folder: RunFolder, record: dict[str, Any]) -> dict[str, Any]:
    """What the log of a run must agree with."""
    if folder.altered(record):
        return {}
    ended = record.get("status") in ("done", "converged")
    return {"run": str(record.get("id", "")), "rows": record.get("rows") if ended else None}


def gather(folder: RunFolder) -> dict[str, Any]:
    """Everything that ``show`` knows; a part that cannot be read is a line in ``warnings``."""
    from aevb_engine.experiment.folder import RunInfo

    stored = folder.read_record(changed=True)
    warnings: list[str] = list((stored.get("result") or {}).get("warnings") or [])
    if folder.altered(stored):
        warnings.append(folder.altered(stored))
    checkpoints, best = _checkpoints(folder, warnings)
    evaluations = _evaluations(folder, stored, warnings)
    config = stored.get("config") or {}
    steps = [stored.get("step"), *(c["step"] for c in checkpoints[-1:]), *(int(r[0]) for r in evaluations["rows"][-1:])]
    return {
        "schema": SCHEMA,
        "run": str(folder.path),
        "status": RunInfo(folder.path, stored, None).status,
        "created": stored.get("created"),
        "error": stored.get("error"),
        "step": max((s for s in steps if isinstance(s, int)), default=None),  # the record lags behind by seconds
        "total_steps": stored.get("total_steps"),
        "held_out": stored.get("held_out"),
        "heartbeat": stored.get("heartbeat"),
        "resumed_from": stored.get("resumed_from"),
        "lengthened": stored.get("lengthened"),
        "config": config,
        "changed": changed(config),
        "data": stored.get("data") or {},
        "device": stored.get("device"),
        "environment": stored.get("environment") or {},
        "result": stored.get("result"),
        "checkpoints": checkpoints,
        "best": best,
        "evaluations": evaluations,
        "figures": sorted(str(p) for p in folder.figures.glob("*") if p.is_file()) if folder.figures.is_dir() else [],
        "warnings": warnings,
    }


def changed(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that differ from the defaults, data set and decoder always among them."""
    from aevb_engine.experiment.config import RunConfig

    defaults = RunConfig().as_dict()
    return {key: value for key, value in config.items() if key in ("dataset", "decoder") or defaults.get(key) != value}


def _checkpoints(folder: RunFolder, warnings: list[str]) -> tuple[list[dict[str, int]], dict[str, Any] | None]:
    from aevb_engine.experiment.checkpoint import CheckpointStore

    try:
        store = CheckpointStore(folder.checkpoints)
        found = []
        for step in store.steps():
            try:
                found.append({"step": step, "bytes": store.path(step).stat().st_size})
            except FileNotFoundError:  # a live run has just removed it
                continue
        named = store.best_score()
        warnings += store.warnings
    except (AevbError, OSError) as error:
        warnings.append(str(error))
        return [], None
    return found, None if named is None else {"step": named[0], "score": named[1]}


def _evaluations(folder: RunFolder, stored: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    from aevb_engine.experiment.log import read_safely

    try:
        columns, rows = read_safely(folder.metrics_path, **_of(folder, stored))["eval"]
    except (AevbError, KeyError) as error:
        warnings.append(f"no curve: {error}")
        return {"columns": [], "rows": []}
    return {"columns": list(columns), "rows": rows.tolist()}


def report(record: dict[str, Any], *, verbose: bool) -> str:
    """The record as people read it."""
    sections = [pairs(_head(record))]
    curve = _curve(record)
    if curve:
        sections.append(curve)
    config = record["config"] if verbose else record["changed"]
    rows = [(k.replace("_", "-"), setting(v)) for k, v in config.items() if v is not None and v != {}]
    title = "configuration" if verbose else "configuration (given or chosen for this run; -v shows all)"
    sections.append(f"{title}\n{pairs(rows, '  ')}")
    if verbose and record["environment"]:
        rows = [(k, setting(v) or "-") for k, v in record["environment"].items()]
        sections.append(f"environment\n{pairs(rows, '  ')}")
    return "\n\n".join(sections)


def _head(record: dict[str, Any]) -> list[tuple[str, str]]:
    result, data = record["result"] or {}, record["data"]
    place = quoted(record["run"])
    rows = [("run", shown(record["run"])), ("status", _status(record))]
    if isinstance(record["lengthened"], list):
        known = [note for note in record["lengthened"] if isinstance(note, dict)]
        rows += [("lengthened", f"at step {n.get('step')} from {n.get('from')} to {n.get('to')} steps") for n in known]
    if record["error"]:
        rows.append(("error", one_line(record["error"])))
    if result and result.get("test_bound") is None and result.get("train_bound") is None:
        parts = [f"{name} {number(result.get(f'{name}_reconstruction'))}" for name in ("train", "test")]
        rows += [("reconstruction", "   ".join(parts) + "   nats a data point"), ("bound", "- (not a bound)")]
        rows += means(result)
    elif result:
        rows += [
            ("train bound", f"{number(result.get('train_bound'))} nats a data point"),
            (
                "test bound",
                f"{number(result.get('test_bound'))} = reconstruction {number(result.get('test_reconstruction'))} "
                f"- KL {number(result.get('test_kl'))}",
            ),
            *means(result),
        ]
    if result:
        if result.get("test_bound_k") is not None:
            rows.append(("", f"{number(result['test_bound_k'])} importance-weighted"))
        for scale in ("raw", "unit"):
            if result.get(f"test_bound_{scale}") is not None:
                rows.append(("", f"{number(result[f'test_bound_{scale}'])} on the {scale} scale"))
        if result.get("best_step") is not None and record["held_out"] == "validation":
            rows.append(("best", f"step {number(result['best_step'])}"))
        if parameters(result):
            rows.append(("", parameters(result)))
    if data.get("lattice"):
        rows.append(("note", LATTICE))
    binarize = data.get("binarize") or record["config"].get("binarize")
    source = f"{setting(record['config'].get('dataset', '?'))}: {setting(data.get('source', '?'))}"
    rows.append(("data", f"{source}" + (f", binarization {binarize}" if binarize and binarize != "none" else "")))
    for key, what in (("rows_sha256", "of the rows"), ("sha256", "of the file")):
        if data.get(key):
            rows.append(("", f"sha256 {data[key]} {what}"))
    if result.get("seconds") is not None:
        rows.append(("training", f"{duration(result['seconds'])}, {number(result.get('steps_per_second'))} steps/s"))
    environment = record["environment"]
    if environment:
        rows.append(
            ("machine", f"{environment.get('machine', '?')}, {record['config'].get('threads', '?')} threads, Python "
                        f"{environment.get('python', '?')}, NumPy {environment.get('numpy', '?')}")
        )  # fmt: skip
    kept = record["checkpoints"]
    if kept:
        count = f"{len(kept)}, the newest of " if len(kept) > 1 else ""
        rows.append(("checkpoints", f"{count}step {number(kept[-1]['step'])} ({size(kept[-1]['bytes'])})"))
    if record["figures"]:
        rows.append(("figures", f"{len(record['figures'])} in {shown(record['run'])}/figures"))
    if record["status"] in ("stopped", "interrupted", "failed"):
        rows.append(("next", f"aevb-engine resume {place}"))
    return rows


def _status(record: dict[str, Any]) -> str:
    step, total = record["step"], record["total_steps"]
    at = f", step {number(step)}" + (f" of {number(total)}" if total else "") if step is not None else ""
    again = f", resumed from step {number(record['resumed_from'])}" if record["resumed_from"] is not None else ""
    return f"{record['status']}{at}{again}, begun {str(record['created'])[:19].replace('T', ' ')} UTC"


def _curve(record: dict[str, Any]) -> str:
    """The held-out bound as a line of blocks and a few rows of a table."""
    names, rows = record["evaluations"]["columns"], record["evaluations"]["rows"]
    if not rows:
        return ""
    label = "validation" if record["held_out"] == "validation" else "test, display only"
    known = [c for c in EVALUATIONS if c in names and not all(math.isnan(row[names.index(c)]) for row in rows)]
    places = [names.index(c) for c in known]
    what = "bound" if "bound" in known else "reconstruction"
    bounds = [row[names.index(what)] for row in rows]
    last = len(rows) - 1
    chosen = sorted({round(i * last / (ROWS - 1)) for i in range(ROWS)}) if last >= ROWS else range(len(rows))
    shown = [[number(int(rows[i][0])), *(number(rows[i][p]) for p in places[1:])] for i in chosen]
    course = min(40, (columns() or 80) - 4)
    title = f"held-out {what} ({label}), {len(rows)} evaluations  {sparkline(bounds, course)}".rstrip()
    return f"{title}\n{table([names[p] for p in places], shown, right=range(len(places)), indent='  ')}"
