"""``aevb-engine bench``: the time of a training step on this machine, beside its matrix products alone."""

from __future__ import annotations

import os
from typing import Any

import click

from aevb_cli.doctor import STEERING
from aevb_cli.options import CONTEXT, Command, debug_option, json_option
from aevb_cli.text import echo_json
from aevb_engine.errors import UsageError, suggest


@click.command(
    cls=Command,
    context_settings=CONTEXT,
    short_help="Time of a training step on this machine.",
    epilog="\b\nExamples:\n  aevb-engine bench\n  aevb-engine bench --workloads W2,W4 --threads 2 --json",
)
@click.option("--workloads", metavar="NAMES", help="Some of W1,W2,W3,W4,W5, by commas. Default: all.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each physical core.")
@json_option
@debug_option
def bench(workloads: str | None, threads: int | None, as_json: bool) -> None:
    """Measure steps a second on the CPU, and how far that is from the matrix products alone.

    The products are those of one step, done by one thread: a ratio of 1 is as fast as BLAS allows on one core. Half a
    minute for all workloads; other work on the machine makes the figures worse.
    """
    from aevb_engine import jit
    from aevb_engine.backend.cores import physical_cores
    from aevb_engine.bench import WORKLOADS, measure
    from aevb_engine.experiment.environment import environment

    names = [n.strip() for n in workloads.split(",")] if workloads is not None else list(WORKLOADS)
    for name in names:
        if name not in WORKLOADS:
            raise UsageError(f"--workloads: unknown workload '{name}': {suggest(name, WORKLOADS)}")
    threads = threads or physical_cores()
    warnings = [f"{v}={os.environ[v]} is set: OpenBLAS may run at half its speed" for v in STEERING if v in os.environ]
    timings = []
    if not as_json:
        for line in warnings:
            click.echo(f"warning: {line}", err=True)
        click.echo(f"{threads} thread{'s' if threads > 1 else ''}, compiled loops {'on' if jit.available() else 'off'}")
        click.echo(f"{'':<28}{'steps a second':>16}{'us a step':>11}{'products':>10}{'ratio':>7}")
    for timing in measure(names, threads):
        timings.append({
            "workload": timing.name,
            "steps_per_second": 1 / timing.step,
            "us_per_step": timing.step * 1e6,
            "products_us": timing.floor * 1e6,
            "ratio_to_products": timing.ratio,
        })  # fmt: skip
        if not as_json:
            click.echo(row(f"{timing.name} {WORKLOADS[timing.name]}", timings[-1]))
    if as_json:
        echo_json({
            "schema": 1,
            "environment": environment(),
            "threads": threads,
            "jit": jit.available(),
            "timings": timings,
            "warnings": warnings,
        })  # fmt: skip


def row(title: str, found: dict[str, Any]) -> str:
    """One workload as people read it."""
    return (
        f"{title:<28}{found['steps_per_second']:>16,.0f}{found['us_per_step']:>11,.0f}{found['products_us']:>10,.0f}"
        f"{found['ratio_to_products']:>7.2f}"
    )
