"""A run on disk: start one, or go on with one, losing nothing when something fails."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aevb_engine.blame import blamed, said
from aevb_engine.errors import AevbError, FileFormatError, Stopped, StorageError, UsageError
from aevb_engine.evaluation.bound import draw_error, summary
from aevb_engine.evaluation.estimate import finite, standard_error
from aevb_engine.evaluation.remarks import Judged, remarks
from aevb_engine.experiment import lengthen
from aevb_engine.experiment.atomic import quoted, storage_errors
from aevb_engine.experiment.checkpoint import Checkpoint, CheckpointStore
from aevb_engine.experiment.chosen import Which, chosen
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.environment import GPU_KEYS, differences, environment
from aevb_engine.experiment.folder import RunFolder
from aevb_engine.experiment.log import MetricsLog, is_open, read_safely
from aevb_engine.experiment.session import Session, prepare
from aevb_engine.objectives.base import COLUMNS
from aevb_engine.training.convergence import Convergence
from aevb_engine.training.loop import EVAL_COLUMNS, Progress, fit
from aevb_engine.training.trainer import TRAIN_COLUMNS, Diverged

SCHEMA = 1
CHECKPOINT_SHARE = 20  # a checkpoint is due when twenty times its cost has gone by: below 5 % of the time
CHECKPOINT_SECONDS = 1.0
COLUMNS_OF = {"train": TRAIN_COLUMNS, "eval": EVAL_COLUMNS}  # the tables of the metrics log
Rows = npt.NDArray[np.float64]


class Display(Protocol):
    """What a user interface shows of a run; every method may do nothing."""

    def data(self, what: str, done: int, total: int | None) -> None: ...
    def begin(self, folder: RunFolder, session: Session) -> None: ...
    def steps(self, rows: Rows, total: int, seconds: float) -> None: ...
    def evaluated(self, row: Rows, is_best: bool) -> None: ...
    def note(self, line: str) -> None: ...


class Quiet:
    """Shows nothing."""

    def data(self, what: str, done: int, total: int | None) -> None: ...
    def begin(self, folder: RunFolder, session: Session) -> None: ...
    def steps(self, rows: Rows, total: int, seconds: float) -> None: ...
    def evaluated(self, row: Rows, is_best: bool) -> None: ...
    def note(self, line: str) -> None: ...


def start(
    config: RunConfig,
    output: Path | None = None,
    *,
    root: Path = Path("runs"),
    display: Display | None = None,
    stop: threading.Event | None = None,
) -> tuple[RunFolder, Session, dict[str, Any]]:
    """Train from the beginning into a new run folder; returns folder, session and the result record."""
    display = display or Quiet()
    RunFolder.check_place(output, root)
    session = prepare(config, display.data)
    with begun(session, output, root=root, display=display, stop=stop) as recorder:
        return recorder.folder, session, train(recorder)


@contextlib.contextmanager
def begun(
    session: Session, output: Path | None, *, root: Path, display: Display, stop: threading.Event | None
) -> Iterator[Recorder]:
    """A new run folder, locked, with its record and log; what listens to the training."""
    name = f"{session.config.dataset}-{session.config.decoder}"
    place = Path(root) if output is None else Path(output)
    there = {parent for parent in (place, *place.parents) if parent.exists()}
    folder = RunFolder.create(name, output, root)
    with _undone_on_failure(folder, there), folder.lock():
        folder.update(
            status="running",
            config=session.config.as_dict(),
            environment=environment(),
            # A data set's own facts may hold the sha256 of its file; resume compares the rows.
            data={**session.dataset.info, "rows_sha256": session.data_hash, "lattice": _lattice(session)},
            device=session.backend.device(),
            encoder_columns=session.trainer.inner.model.encoder.mlp.inputs,  # without those that are always zero
            total_steps=session.total_steps,
            eval_every=session.eval_every,
            held_out=session.held_out_is,
        )
        number = folder.read_record().get("id", "")
        with MetricsLog.create(folder.metrics_path, COLUMNS_OF, run=number) as log:
            yield Recorder(folder, session, log, Progress(), display, stop)


def resume(
    path: Path | str,
    *,
    root: Path = Path("runs"),
    exact: bool = False,
    steps: int | None = None,
    epochs: float | None = None,
    display: Display | None = None,
    stop: threading.Event | None = None,
) -> tuple[RunFolder, Session, dict[str, Any]]:
    """Go on from the newest sound checkpoint, to the same bits; a finished run is returned as it is.

    ``steps`` or ``epochs``: the new length in all, of a run that is finished or not, to the bits of a run of that
    length from the start; where that cannot be, a note says so (``exact``: an error).
    """
    display = display or Quiet()
    folder = RunFolder.open(path, root)
    with folder.lock():
        record = folder.read_record()
        if "config" not in record:
            raise FileFormatError(f"{folder.path} holds no configuration: it ended before training began; start anew")
        config = RunConfig.of_record(record, str(folder.record_path))
        longer = steps is not None or epochs is not None
        if longer:
            config = lengthen.changed(config, record, steps, epochs)
        now = environment()
        then = record.get("environment") or {}
        _same_bits(differences(then, now), exact, display)
        if config.backend == config.trainer == "auto":  # on a GPU the path that the steps took would be recorded
            config = replace(config, backend="cpu")
        session = prepare(config, display.data, resumed=True)
        if session.data_hash != (record.get("data") or {}).get("rows_sha256"):
            raise FileFormatError(
                f"the data set '{config.dataset}' has other content than when the run began; restore it to resume"
            )
        of = str(record.get("id", ""))
        if session.backend.name != "cpu":
            device = {"device": record.get("device")}, {"device": session.backend.device()}
            _same_bits(differences({**then, **device[0]}, {**now, **device[1]}, GPU_KEYS), exact, display)
        store = CheckpointStore(folder.checkpoints)
        checkpoint = store.newest()
        for line in store.warnings:
            display.note(line)
        progress = Progress()
        fallback: dict[str, Any] = {
            "train": (TRAIN_COLUMNS, progress.tail),
            "eval": (EVAL_COLUMNS, progress.evaluations),
        }
        step = 0
        ended = record.get("status") in ("done", "converged") and record.get("result")
        if checkpoint is None and ended:
            raise FileFormatError(f"{folder.path} is done, and no checkpoint of it is left; start it anew")
        if checkpoint is None and record.get("step"):
            display.note("no checkpoint is left: the run begins again with step 1")
        if checkpoint is not None:
            step = checkpoint.step
            progress = restore(session, checkpoint)
            lengthen.drop_end(session, progress)
            fallback["eval"] = (EVAL_COLUMNS, progress.evaluations)
            fallback["train"] = (TRAIN_COLUMNS, progress.tail)
        fields: dict[str, Any] = {}
        if longer:
            lengthen.check(session, max(step, record.get("step") or 0) if ended else step)
        if longer and not (ended and session.total_steps == step):
            lines = lengthen.inexact(session, progress, record)
            if lines and exact:
                raise UsageError(f"--exact: {lines[0]}")
            fields, more = lengthen.go_on(session, progress, record)
            for line in (*more, *lines):
                display.note(line)
        if ended and step == record.get("step") and not fields:
            if not _whole(folder, record):  # its writer was killed at the very end, or it was damaged since
                with MetricsLog.resume(folder.metrics_path, step, fallback, whole=("eval",), run=of) as log:
                    for line in log.warnings:
                        display.note(line)
            for line in settle(folder, session, progress).warnings:
                display.note(line)
            display.begin(folder, session)
            return folder, session, {**ended, "run": str(folder.path)}
        folder.update(status="running", resumed_from=step, environment=now, error=None, **fields)
        with _log(folder, step, fallback, of) as log:
            for line in log.warnings:
                display.note(line)
            return folder, session, train(Recorder(folder, session, log, progress, display, stop))


def _same_bits(other: list[str], exact: bool, display: Display) -> None:
    """Says what may change the bits; with ``exact`` it is an error."""
    if not other:
        return
    line = "resume is correct but not bit-identical: " + "; ".join(other)
    if exact:
        raise FileFormatError(line)
    display.note(line)


def _log(folder: RunFolder, step: int, fallback: Mapping[str, Any], of: str) -> MetricsLog:
    """The metrics up to a step. Before the first one none count: a torn log need not be read, which can take long."""
    if step:
        return MetricsLog.resume(folder.metrics_path, step, fallback, whole=("eval",), run=of)
    with storage_errors("write", folder.metrics_path):
        folder.metrics_path.unlink(missing_ok=True)
    return MetricsLog.create(folder.metrics_path, COLUMNS_OF, run=of)


def finished(path: Path | str, *, root: Path = Path("runs")) -> tuple[RunFolder, dict[str, Any], str] | None:
    """Folder, result and time of the end of a run that has ended with all its steps; None where ``resume`` has work."""
    folder = RunFolder.open(path, root)
    record = folder.read_record()
    result = record.get("result")
    if record.get("status") not in ("done", "converged") or not result:
        return None
    checkpoint = CheckpointStore(folder.checkpoints).newest()
    if checkpoint is None or checkpoint.step != record.get("step") or not _whole(folder, record):
        return None  # what is lost is trained again, or said to be lost
    when = str(checkpoint.meta.get("saved", "?"))[:19].replace("T", " ")
    return folder, {**result, "run": str(folder.path)}, f"{when} UTC"


def _whole(folder: RunFolder, record: dict[str, Any]) -> bool:
    """Whether the log of a run that is done is closed and has all of its rows, as far as that can be told now."""
    if is_open(folder.metrics_path):
        return False
    try:
        read_safely(folder.metrics_path, 60.0, run=str(record.get("id", "")), rows=record.get("rows"))
    except (FileFormatError, UsageError):
        return False
    except AevbError:  # no time or memory for it
        pass
    return True


@contextlib.contextmanager
def _undone_on_failure(folder: RunFolder, there: set[Path]) -> Iterator[None]:
    """A run that fails before anything is trained (a full disk, a broken plugin) leaves only the folders of before."""
    try:
        with blamed():
            yield
    except Exception:
        if not folder.metrics_path.exists() or _untrained(folder):
            shutil.rmtree(folder.path, ignore_errors=True)
            for parent in folder.path.parents:
                with contextlib.suppress(OSError):
                    if parent not in there:
                        parent.rmdir()  # where it is empty
        raise


def _untrained(folder: RunFolder) -> bool:
    """Whether a run has failed with nothing to keep: no step done, no checkpoint."""
    try:
        record = folder.read_record()
        return record.get("status") == "failed" and not record.get("step") and not any(folder.checkpoints.iterdir())
    except (AevbError, OSError):
        return False


def _lattice(session: Session) -> bool:
    """Whether a density is evaluated on whole numbers (8-bit data without dequantization)."""
    likelihood = session.model.likelihood
    return session.dataset.train.dtype.kind in "uib" and likelihood.support.measure == "density"


def restore(session: Session, checkpoint: Checkpoint) -> Progress:
    """Put a checkpoint's state into the session; returns where its loop stood."""
    session.trainer.restore(checkpoint.step, checkpoint.arrays)
    meta: Any = checkpoint.meta
    return Progress(
        seconds=float(meta["seconds"]),
        tail=np.array(checkpoint.arrays["progress/tail"], np.float64),
        evaluations=np.array(checkpoint.arrays["progress/evaluations"], np.float64),
        convergence=Convergence(**meta["convergence"]),
    )


def train(recorder: Recorder) -> dict[str, Any]:
    """To the end; the result's record."""
    announce(recorder)
    try:
        with failures(recorder):
            ended = fit(recorder.session.trainer, recorder.progress, **loop_options(recorder))
            recorder.save(is_best=False)
            return conclude(recorder, ended)
    finally:
        recorder.session.backend.close()


def announce(recorder: Recorder) -> None:
    """Show what there is to say before training."""
    for line in recorder.session.warnings:
        recorder.display.note(line)
    recorder.display.begin(recorder.folder, recorder.session)


def loop_options(recorder: Recorder) -> dict[str, Any]:
    """What the training loop is told of a run."""
    session = recorder.session
    return {
        "total": session.total_steps,
        "eval_every": session.eval_every,
        "evaluate": _evaluation(session),
        "criterion": session.criterion,
        "until_converged": session.config.until_converged,
        "listener": recorder,
    }


@contextlib.contextmanager
def failures(recorder: Recorder) -> Iterator[None]:
    """The run's record, and the state before a step that diverges, where the training fails."""
    folder, trainer = recorder.folder, recorder.session.trainer
    try:
        with blamed():
            yield
    except Stopped:
        raise
    except Diverged as error:
        recorder.save(is_best=False)
        recorder.log.close()
        folder.update(status="diverged", error=str(error), step=trainer.step)
        raise
    except Exception as error:
        with contextlib.suppress(StorageError):  # which may be what has failed
            recorder.log.close()
        line = str(error) if isinstance(error, AevbError) else said(error)
        seen = recorder.progress.tail[-1:, 0]  # the trainer may have gone back to a copy of before
        folder.update(status="failed", error=line, step=int(max([trainer.step, *seen])))
        raise


def conclude(recorder: Recorder, ended: str) -> dict[str, Any]:
    """The result of a run that has ended, in its record too; Stopped where it can go on."""
    folder, session, progress = recorder.folder, recorder.session, recorder.progress
    if ended == "stopped":
        recorder.log.close()
        folder.update(status="stopped", step=session.trainer.step)
        raise Stopped(
            f"stopped after step {session.trainer.step} of {session.total_steps}; "
            f"go on with: aevb-engine resume {quoted(folder.path)}"
        )
    record = result(folder, session, progress, "converged" if ended == "converged" else "done")
    for line in record["warnings"][len(session.warnings) :]:
        recorder.display.note(line)
    rows = {name: recorder.log.count(name) for name in recorder.log.columns}
    recorder.log.close()  # a kill between the two leaves a run that can be resumed, not a log that is open for ever
    folder.update(status=record["status"], step=record["steps"], rows=rows, result=record)
    return record


@dataclass(frozen=True)
class Settled:
    """Whose parameters a session holds at its end, the rows of the last steps up to them, and what there is to say.

    ``steps`` and ``seen`` are those of the training as a whole.
    """

    step: int
    which: Which
    last: Rows
    steps: int
    seen: int
    warnings: list[str]


def settle(folder: RunFolder, session: Session, progress: Progress) -> Settled:
    """Put what stands for the run into the session: the state of the best checkpoint where validation rows chose one.

    What comes after it (bounds, figures) is of these parameters; ``resume`` goes on from the last.
    """
    trainer = session.trainer
    steps, seen, best = trainer.step, trainer.seen, progress.convergence.best_step
    if session.held_out_is != "validation" or best is None:
        return Settled(steps, "last", progress.last_steps(), steps, seen, [])
    found = chosen(folder.checkpoints)
    if found.which == "last":
        line = f"the best checkpoint, of step {best}, cannot be read: the result is of the last parameters"
        return Settled(steps, "last", progress.last_steps(), steps, seen, [*found.warnings, line])
    if found.checkpoint.step != steps:
        progress = restore(session, found.checkpoint)
    return Settled(found.checkpoint.step, "best", progress.last_steps(), steps, seen, found.warnings)


def _evaluation(session: Session) -> Callable[[], dict[str, float]] | None:
    held_out = session.held_out
    return None if held_out is None else lambda: summary(held_out.run())


class Recorder:
    """The loop's listener: metrics, checkpoints, heartbeat, display."""

    def __init__(
        self,
        folder: RunFolder,
        session: Session,
        log: MetricsLog,
        progress: Progress,
        display: Display,
        stop: threading.Event | None,
    ) -> None:
        self.folder, self.session, self.log = folder, session, log
        self.progress, self.display, self.event = progress, display, stop
        self.store = CheckpointStore(folder.checkpoints)
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._cost = 0.0

    def stop(self) -> bool:
        return self.event is not None and self.event.is_set()

    def steps(self, rows: Rows) -> None:
        self.log.append("train", rows)
        self.display.steps(rows, self.session.total_steps, self.progress.seconds)
        self.folder.heartbeat(step=self.session.trainer.step)
        wait = max(CHECKPOINT_SECONDS, CHECKPOINT_SHARE * self._cost)
        step, total = self.session.trainer.step, self.session.total_steps
        at_evaluation = self.session.held_out is not None and (step % self.session.eval_every == 0 or step == total)
        if not at_evaluation and time.monotonic() - self._saved_at > wait:
            self.save(is_best=False)

    def evaluated(self, row: Rows, is_best: bool) -> None:
        self.log.append("eval", row)
        self.display.evaluated(row, is_best)
        wait = max(CHECKPOINT_SECONDS, CHECKPOINT_SHARE * self._cost)
        keep_best = is_best and self.session.held_out_is == "validation"
        if keep_best or time.monotonic() - self._saved_at > wait:
            self.save(is_best=keep_best)

    def save(self, *, is_best: bool) -> None:
        """Commit metrics, then a checkpoint of the present step."""
        if self.session.trainer.step == self._saved_step and not is_best:
            return
        began = time.monotonic()
        self.log.commit()
        checkpoint = snapshot(self.session, self.progress, self.store.run)
        self.store.save(checkpoint, best=is_best, score=self.progress.convergence.best if is_best else None)
        self._saved_step = self.session.trainer.step
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - began


def snapshot(session: Session, progress: Progress, run: str = "") -> Checkpoint:
    """The present state, with everything needed to go on or to load the model elsewhere."""
    arrays = {**session.trainer.arrays(), **session.facts.arrays()}
    arrays["progress/tail"] = progress.tail
    arrays["progress/evaluations"] = progress.evaluations
    meta: dict[str, Any] = {
        **progress.meta(),
        "config": session.config.as_dict(),
        "dim": session.dataset.dim,
        **session.facts.meta(),
        "image_shape": list(session.dataset.image_shape or ()),
        "data_sha256": session.data_hash,
        "run": run,
        "saved": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Checkpoint(session.trainer.step, arrays, meta)


def result(folder: RunFolder, session: Session, progress: Progress, status: str) -> dict[str, Any]:
    """The record of ``run --json``; bounds in nats a data point, higher is better; what does not exist is None.

    Bounds are of the parameters that ``checkpoint`` names, which the session holds from now on: the best for the
    validation rows where there are some, else the last. ``train_bound`` is the mean over the last batches up to them.
    """
    settled = settle(folder, session, progress)
    config, trainer, last, warnings = session.config, session.trainer, settled.last, session.warnings + settled.warnings
    per_point = session.test.run() if session.test is not None else None
    means = summary(per_point) if per_point is not None else {}
    test = {name: means[name] if name in session.held_out_columns else None for name in COLUMNS}
    trained = {name: name in session.objective.columns for name in COLUMNS}
    seconds, bound = progress.seconds, test["bound"]
    noise = np.nan
    if session.test is not None and per_point is not None and bound is not None:
        noise = draw_error(per_point[:, 0], session.test.run(draw=1)[:, 0])
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "run": str(folder.path),
        "status": status,
        "backend": session.backend.name,
        "device": session.backend.device(),
        "trainer": trainer.inner.plan.path,
        "precision": config.precision,
        "dataset": config.dataset,
        "binarize": config.binarize,
        "decoder": config.decoder,
        "measure": session.model.likelihood.support.measure,
        "optimizer": config.optimizer,
        "objective": config.objective,
        "seed": config.seed,
        "parameters": trainer.trained,
        "steps": settled.steps,
        "epochs": settled.seen / trainer.count,
        "seconds": round(seconds, 4),
        "steps_per_second": round(settled.steps / seconds, 2) if seconds > 0 else None,
        "checkpoint": {"step": settled.step, "which": settled.which},
        "train_bound": float(last[:, 2].mean()) if trained["bound"] else None,
        "train_reconstruction": float(last[:, 3].mean()) if trained["reconstruction"] else None,
        "train_bound_steps": len(last),  # the last steps up to these parameters, whose batches these are means of
        "test_bound": test["bound"],
        "test_bound_se": finite(means["bound_se"]) if test["bound"] is not None else None,
        "test_bound_draw_sd": finite(noise),  # by its one draw of noise a row alone
        "test_reconstruction": test["reconstruction"],
        "test_kl": test["kl"],
        "best_step": progress.convergence.best_step if session.held_out_is == "validation" else None,
        "threads": config.threads,
        "warnings": warnings,
    }
    if session.held_out_is == "validation":
        record[f"validation_{session.criterion}"] = progress.convergence.best  # of the best checkpoint
    if per_point is not None and bound is not None and np.isfinite(bound):
        found = remarks(judged(session, progress, per_point, steps=settled.steps, last=last))
        units = session.model.architecture.latent
        record |= {
            "latent_units": units,
            "active_units": found.active,
            "independent_columns": found.independent,
            "ppca": found.linear,
        }
        record["warnings"] = [*warnings, *found.lines]
    if session.test_k is not None:
        record["test_bound_k"] = summary(session.test_k.run())["bound"]
    other = session.dataset.other_scale
    if other is not None:
        record[f"test_bound_{other[0]}"] = bound + other[1] if bound is not None else None
    if session.dataset.true_log_prob is not None and per_point is not None and bound is not None:
        excess = per_point[:, 0] - session.dataset.true_log_prob(session.dataset.test_rows)
        record["test_excess"] = float(excess.mean())
        record["test_excess_se"] = finite(standard_error(excess))
    if per_point is not None and bound is not None and not np.isfinite(bound):
        lost = int((~np.isfinite(per_point[:, 0])).sum())
        line = f"{lost} of {len(per_point)} test rows have no finite bound: values too large for {config.dtype}?"
        record["warnings"] = [*warnings, line]
    return record


def judged(session: Session, progress: Progress, per_point: Rows, *, steps: int, last: Rows) -> Judged:
    """A trained session by its test rows, after so many ``steps``; ``last``: the rows of those up to its parameters."""
    dataset, config, schedule = session.dataset, session.config, session.trainer.settings.schedule
    return Judged(
        model=session.model,
        rows=dataset.test_rows,
        bounds=per_point[:, 0],
        name="test",
        train=session.train_rows,
        train_bound=float(last[:, 2].mean()),
        steps=steps,
        course=progress.evaluations[:, [0, 2]],
        scale=dataset.scale,
        train_scale=dataset.train_scale,
        steady=schedule.steady,
        paper_start=config.initial == "normal",
        best_step=progress.convergence.best_step if session.held_out_is == "validation" else None,
    )
