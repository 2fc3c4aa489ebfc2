"""Studies of the method on a data set and a model: numbers and a figure in a folder of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aevb_engine.backend.cores import crowded
from aevb_engine.errors import StorageError, UsageError
from aevb_engine.evaluation import variance
from aevb_engine.experiment import atomic
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.evaluate import Progress, rows_of
from aevb_engine.experiment.folder import RunFolder
from aevb_engine.experiment.session import prepare
from aevb_engine.training.step import resident

SCHEMA = 1
MOST_ROWS = 100_000  # M x L: decoded rows of one pass


def variance_study(
    config: RunConfig,
    *,
    batches: Sequence[int] = (10, 30, 100),
    samples: Sequence[int] = (1, 3, 10),
    replicates: int = 100,
    output: Path | None = None,
    figure: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The record of ``study variance --json``: L^A, L^B and the score function on the training rows of ``config``.

    ``config.steps`` training steps come first, with its objective (none where it is None). With ``output`` the record
    is kept there as variance.json, with variance.png.
    """
    for name, values in (("--minibatch", batches), ("--latent-samples", samples)):
        if not values or min(values) < 1:
            raise UsageError(f"{name} {','.join(map(str, values))}: numbers of at least 1 are needed")
    if max(batches) * max(samples) > MOST_ROWS:
        raise UsageError(f"--minibatch {max(batches)} times --latent-samples {max(samples)}: at most {MOST_ROWS} rows")
    if replicates < 4:
        raise UsageError(f"--replicates {replicates}: at least 4 are needed")
    if output is not None:
        RunFolder.check_place(output)
    steps = config.steps or 0
    session = prepare(replace(config, steps=config.steps or 1, epochs=None), progress)
    if not session.objective.has_encoder:
        raise UsageError(f"--objective {config.objective}: it trains no encoder, whose gradient this study is about")
    trainer, config = session.trainer, session.config
    while trainer.step < steps:
        trainer.advance(min(trainer.block, steps - trainer.step))
        if progress is not None:
            progress("training", trainer.step, steps)
    rows = rows_of(session, "train")
    data = resident(session.model, rows, session.dataset.scale)
    try:
        cells = variance.study(
            session.model,
            data,
            batches=sorted(set(batches)),
            samples=sorted(set(samples)),
            replicates=replicates,
            seed=config.seed,
            threads=config.threads or 1,
            progress=None if progress is None else lambda done, total: progress("variances", done, total),
        )
    finally:
        session.backend.close()
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "study": "variance",
        "output": None if output is None else str(output),
        "figure": None,
        "warnings": crowded(config.threads),
        "dataset": config.dataset,
        "rows": len(rows),
        "decoder": config.decoder,
        "hidden": list(config.hidden),
        "latent_dim": config.latent_dim,
        "objective": config.objective,
        "steps": steps,
        "seed": config.seed,
        "replicates": replicates,
        "cells": [cell.as_dict() for cell in cells],
    }
    if output is not None:
        keep(record, output / "variance.json")  # whatever becomes of the figure
        if figure:
            from aevb_engine.experiment.figures.variance import variance as draw

            trained = f"after {steps:,} training steps" if steps else "at the initial parameters"
            subtitle = f"{config.dataset}, {config.decoder} decoder, {config.latent_dim} latent dimensions, {trained}"
            add_figure(record, lambda: draw(cells, subtitle), output / "variance.png")
            keep(record, output / "variance.json")
    return record


def keep(record: Mapping[str, Any], path: Path) -> None:
    """The record of a study as JSON, whole or not at all, nor its folder then; StorageError."""
    with atomic.storage_errors("create", path.parent):
        made = atomic.make_folder(path.parent)
    try:
        atomic.write_text(path, json.dumps(record, indent=2, allow_nan=False) + "\n")
    except StorageError:
        atomic.remove_empty(made)
        raise


def add_figure(record: dict[str, Any], make: Callable[[], Any], path: Path) -> None:
    """Draw the figure of a study and name it in the record; one that fails is a line among its warnings."""
    from aevb_engine.experiment.figures.style import drawn

    try:
        record["figure"] = str(drawn(make, path))
    except StorageError:
        raise
    except Exception as error:
        record["warnings"].append(f"{path.name} could not be drawn ({type(error).__name__}: {error})")
