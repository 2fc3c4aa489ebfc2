"""``aevb-engine bench``: the time of a training step on this machine, beside its matrix products alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from aevb_cli.boundary import warn
from aevb_cli.doctor import STEERING
from aevb_cli.options import CONTEXT, Command, debug_option, json_option
from aevb_cli.text import columns, echo_json, records, say
from aevb_engine.errors import UsageError, suggest

HEAD = ("", "steps a second", "us a step", "products", "ratio")
WIDTH = 72  # of the table


@click.command(
    cls=Command,
    context_settings=CONTEXT,
    short_help="Time of a training step on this machine.",
    epilog="\b\nExamples:\n  aevb-engine bench\n  aevb-engine bench --workloads W2,W4 --threads 2 --json",
)
@click.option("--workloads", metavar="NAMES", help="Some of W1,W2,W3,W4,W5, by commas. Default: all.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Default: one for each physical core.")
@json_option
@debug_option
def bench(workloads: str | None, threads: int | None, as_json: bool) -> None:
    """Measure steps a second on the CPU, and how far that is from the matrix products alone.

    The products are those of one step, done by one thread: a ratio of 1 is as fast as BLAS allows on one core. Half a
    minute for all workloads; other work on the machine makes the figures worse.
    """
    from aevb_engine import jit
    from aevb_engine.backend.cores import most_workers, physical_cores
    from aevb_engine.bench import WORKLOADS, measure
    from aevb_engine.experiment.environment import environment

    names = [n.strip() for n in workloads.split(",")] if workloads is not None else list(WORKLOADS)
    for name in names:
        if name not in WORKLOADS:
            raise UsageError(f"--workloads: unknown workload '{name}': {suggest(name, WORKLOADS)}")
    threads, most = threads or physical_cores(), most_workers()
    if threads > most:  # it would time the waiting for cores
        raise UsageError(f"--threads {threads}: this machine runs at most {most} workers; measure {most} or fewer")
    warnings = [f"{v}={os.environ[v]} is set: OpenBLAS may run at half its speed" for v in STEERING if v in os.environ]
    timings = []
    narrow = (columns() or WIDTH) < WIDTH
    if not as_json:
        for line in warnings:
            warn(line)
        say(f"{threads} thread{'s' if threads > 1 else ''}, compiled loops {'on' if jit.available() else 'off'}")
        if not narrow:
            click.echo(line_of(HEAD))
    for timing in measure(names, threads):
        timings.append({
            "workload": timing.name,
            "steps_per_second": 1 / timing.step,
            "us_per_step": timing.step * 1e6,
            "products_us": timing.floor * 1e6,
            "ratio_to_products": timing.ratio,
        })  # fmt: skip
        if not as_json:
            cells = row(f"{timing.name} {WORKLOADS[timing.name]}", timings[-1])
            click.echo(records(HEAD, [cells]) if narrow else line_of(cells))
    if as_json:
        echo_json({
            "schema": 1,
            "environment": environment(),
            "threads": threads,
            "jit": jit.available(),
            "timings": timings,
            "warnings": warnings,
        })  # fmt: skip


def row(title: str, found: dict[str, Any]) -> tuple[str, ...]:
    """One workload as people read it."""
    figures = (found[key] for key in ("steps_per_second", "us_per_step", "products_us"))
    return title, *(f"{value:,.0f}" for value in figures), f"{found['ratio_to_products']:.2f}"


def line_of(cells: Sequence[str]) -> str:
    """A line of the table, whose other lines are not known yet."""
    return cells[0].ljust(28) + "".join(c.rjust(w) for c, w in zip(cells[1:], (16, 11, 10, 7), strict=True))
