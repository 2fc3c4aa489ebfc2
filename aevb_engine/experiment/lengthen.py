"""Another length for a run that has begun: to the bits of a run of that length from the start, or a line that says why
not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from aevb_engine.errors import UsageError
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.session import Session, lengths
from aevb_engine.training.convergence import Convergence
from aevb_engine.training.loop import EVAL_COLUMNS, Progress
from aevb_engine.training.schedule import Schedule


def changed(config: RunConfig, record: Mapping[str, Any], steps: int | None, epochs: float | None) -> RunConfig:
    """The configuration with the new length, evaluated as often as before; UsageError for a run that diverged."""
    if record.get("status") == "diverged":
        raise UsageError(f"the run diverged ({record.get('error')}): more steps cannot help; start anew")
    every = config.eval_every or record.get("eval_every")
    return replace(config, steps=steps, epochs=epochs, eval_every=every)


def check(session: Session, done: int) -> None:
    """UsageError where more steps are done than were asked for."""
    config, total = session.config, session.total_steps
    if total < done:
        given = f"--steps {config.steps}" if config.steps is not None else f"--epochs {config.epochs} ({total} steps)"
        raise UsageError(f"{given}: {done} steps are done, and none is taken back; ask for more")


def drop_end(session: Session, progress: Progress) -> None:
    """Forget the evaluation at the end of a shorter length: a longer run has none there.

    It stays where it is the best on validation rows, whose checkpoint is kept.
    """
    if not len(progress.evaluations):
        return
    last = dict(zip(EVAL_COLUMNS, progress.evaluations[-1], strict=True))
    on_grid = last["step"] % session.eval_every == 0 or last["step"] == session.total_steps
    if on_grid or (last["best"] and session.held_out_is == "validation"):
        return
    progress.evaluations = progress.evaluations[:-1]
    progress.convergence = Convergence()
    at, bound = EVAL_COLUMNS.index("step"), EVAL_COLUMNS.index(session.criterion)
    for row in progress.evaluations:
        progress.convergence.add(int(row[at]), float(row[bound]), waiting=row[at] > session.objective.warmup)


def go_on(session: Session, progress: Progress, record: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What the record says of the new length, and what the user is told: nothing where it is the old one.

    A run that has converged goes on whatever the bound.
    """
    config, step, total = session.config, session.trainer.step, session.total_steps
    converged = config.until_converged and progress.convergence.converged
    if total == record.get("total_steps") and not converged:
        return {}, []
    lines = []
    if converged:
        config = session.config = replace(config, until_converged=False)
        lines.append(f"the run had converged at step {step}: it goes on to step {total} whatever the bound")
    # Of a run that was not told how often to evaluate.
    _, fresh = lengths(replace(config, eval_every=None), session.trainer.count, session.objective.updates)
    was_told = (record.get("config") or {}).get("eval_every") is not None
    if fresh != session.eval_every and not was_told:
        lines.append(
            f"evaluations stay {session.eval_every} steps apart, as under --eval-every {session.eval_every}; "
            f"a run of {total} steps from the start would have {fresh}"
        )
    note = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "from": record.get("total_steps"),
        "to": total,
    }
    fields = {
        "config": config.as_dict(),
        "total_steps": total,
        "lengthened": [*(record.get("lengthened") or []), note],
        "result": None,
    }
    return fields, lines


def inexact(session: Session, progress: Progress, record: Mapping[str, Any]) -> list[str]:
    """Why the result is not that of a run of the new length from the start; nothing where it is, to the bit."""
    step, total = session.trainer.step, session.total_steps
    if not step or total == record.get("total_steps"):
        return []
    lines = []
    of_a_run = f"the result is not that of a run of {total} steps from the start"
    if not _same_rates(session.trainer.settings.schedule, step, record):
        text = session.config.lr_schedule
        lines.append(
            f"--lr-schedule {text} follows the length, and the steps done had the rates of another: {of_a_run}"
        )
    evaluated = progress.evaluations[:, EVAL_COLUMNS.index("step")].astype(int)
    return lines + [
        f"the evaluation at step {at}, an end before, stays as the best so far: {of_a_run}"
        for at in evaluated
        if at % session.eval_every and at != total
    ]


def _same_rates(schedule: Schedule, step: int, record: Mapping[str, Any]) -> bool:
    """Whether the steps done had the rates that they have now; the length may have changed before."""
    if not schedule.of_length:
        return True
    first = 1
    for note in (*(record.get("lengthened") or []), {"step": step, "from": record.get("total_steps")}):
        then = replace(schedule, total=note["from"] or 0)
        if any(then(s) != schedule(s) for s in range(first, note["step"] + 1)):
            return False
        first = note["step"] + 1
    return True
