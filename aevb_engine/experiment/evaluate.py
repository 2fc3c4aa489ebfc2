"""From a run folder to a report: its checkpoint, its data, its split, the same configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy.typing as npt

from aevb_engine.backend.cores import crowded
from aevb_engine.data.binarize import binarize_draw
from aevb_engine.errors import FileFormatError, UsageError
from aevb_engine.evaluation.report import evaluate
from aevb_engine.evaluation.subject import Plan, Subject
from aevb_engine.experiment.checkpoint import Checkpoint
from aevb_engine.experiment.chosen import Which, chosen
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.folder import ROOT, RunFolder
from aevb_engine.experiment.session import Session, prepare, split_rows
from aevb_engine.training.state import check_state

SCHEMA = 1
Split = Literal["test", "validation", "train"]


class Progress(Protocol):
    """Called with what is under way, how much is done, and of how much."""

    def __call__(self, what: str, done: int, total: int | None) -> None: ...


@dataclass(frozen=True)
class Opened:
    """A run with its model at a checkpoint and its data in memory; nothing in the folder is changed."""

    folder: RunFolder
    session: Session
    which: Which
    step: int
    warnings: list[str]


def open_run(
    path: Path | str,
    *,
    root: Path = ROOT,
    which: Which | None = None,
    backend: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Opened:
    """The run's data and its model at a checkpoint: the best where validation named one, else the last.

    UsageError for a run that is not there or has no best checkpoint, FileFormatError where record, checkpoint or data
    are not those of the run.
    """
    folder = RunFolder.open(path, root)
    record = folder.read_record()
    if "config" not in record:
        raise FileFormatError(f"{folder.path} holds no configuration: it ended before training began; run it anew")
    config = RunConfig.of_record(record, str(folder.record_path))
    found = chosen(folder.checkpoints, which)
    changes: dict[str, Any] = {"threads": threads}  # not the run's own, which are those that pay in a step
    if backend is not None:
        changes["backend"] = backend
    session = prepare(replace(config, **changes), progress, training=False)
    if session.data_hash != (record.get("data") or {}).get("rows_sha256"):
        raise FileFormatError(
            f"the data set '{config.dataset}' has other content than when the run began; restore it to evaluate the run"
        )
    load_parameters(session, found.checkpoint, str(folder.path))
    return Opened(folder, session, found.which, found.checkpoint.step, [*found.warnings, *crowded(threads)])


def load_parameters(session: Session, checkpoint: Checkpoint, where: str) -> None:
    """The checkpoint's theta into the session's model; FileFormatError where it is another model's, or its state is not
    finite."""
    theta, model = checkpoint.arrays.get("theta"), session.model
    target = model.parameters.theta
    if theta is None or theta.shape != target.shape or theta.dtype != model.dtype:
        found = "nothing" if theta is None else f"{theta.shape} {theta.dtype}"
        raise FileFormatError(f"{where}: the checkpoint's 'theta' is {found}; the configuration needs {target.shape}")
    check_state(checkpoint.arrays, f"{where}, step {checkpoint.step}")
    target[...] = model.backend.upload(theta)


def rows_of(session: Session, split: Split) -> npt.NDArray[Any]:
    """The rows (N, D) of a split as evaluation sees them; intensities are drawn once, from the seed.

    "train" is what the optimizer saw: the training rows without the validation part. UsageError without one.
    """
    dataset, config = session.dataset, session.config
    if split == "test":
        return dataset.test_rows
    train, validation = split_rows(dataset, config)
    if split == "validation":
        if validation is None:
            raise UsageError("--split validation: the run held out no validation rows; use test or train")
        return validation
    return binarize_draw(config.seed, "train", train) if dataset.dynamic else train


def subject_of(session: Session, split: Split) -> Subject:
    """What the report needs to know of a run."""
    dataset, config = session.dataset, session.config
    train, _ = split_rows(dataset, config)
    return Subject(
        model=session.model,
        rows=rows_of(session, split),
        train=train,
        scale=dataset.scale,
        train_scale=dataset.train_scale,
        binarize=dataset.binarize,
        objective=config.objective,
        encoder="bound" in session.held_out_columns,
        beta=float(getattr(session.objective, "beta", 1.0)),
        other_scale=dataset.other_scale,
        true_log_prob=dataset.true_log_prob,
    )


def samples_by_method(
    samples: Mapping[str, int] | int | None, methods: tuple[str, ...] | None, subject: Subject
) -> Mapping[str, int]:
    """A number alone is for the one method asked for; UsageError where there are more."""
    if samples is None:
        return {}
    if not isinstance(samples, int):
        return samples
    chosen = Plan(methods).chosen(subject)
    if len(chosen) > 1:
        example = ",".join(f"{name}={samples}" for name in chosen)
        raise UsageError(f"--samples {samples}: a number for each method is needed, such as --samples {example}")
    return dict.fromkeys(chosen, samples)


def evaluate_run(
    path: Path | str,
    *,
    methods: tuple[str, ...] | None = None,
    samples: Mapping[str, int] | int | None = None,
    temperatures: int | None = None,
    rows: int | None = None,
    split: Split = "test",
    which: Which | None = None,
    seed: int | None = None,
    threads: int | None = None,
    backend: str | None = None,
    bracket: bool = False,
    with_baselines: bool = True,
    root: Path = ROOT,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The record of ``evaluate --json``: what was evaluated, then the report (see evaluation.report).

    ``seed`` is that of the evaluation's noise (the run's own by default); the data stay those of the run.
    """
    opened = open_run(path, root=root, which=which, backend=backend, threads=threads, progress=progress)
    session = opened.session
    subject = subject_of(session, split)
    plan = Plan(
        methods=methods,
        samples=samples_by_method(samples, methods, subject),
        temperatures=temperatures,
        rows=rows,
        seed=session.config.seed if seed is None else seed,
        threads=session.backend.threads,
        bracket=bracket,
        baselines=with_baselines,
    )
    try:
        report = evaluate(subject, plan, progress)
    finally:
        session.backend.close()
    config = session.config
    return {
        "schema": SCHEMA,
        "run": str(opened.folder.path),
        "checkpoint": {"step": opened.step, "which": opened.which},
        "dataset": config.dataset,
        "binarize": config.binarize,
        "scale": session.dataset.scale,
        "split": split,
        "decoder": config.decoder,
        "objective": config.objective,
        "seed": plan.seed,
        "threads": plan.threads,
        "backend": session.backend.name,
        "device": session.backend.device(),
        **report,
        "warnings": opened.warnings,
    }
