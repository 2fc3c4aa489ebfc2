"""The comparison of learners (KW Fig. 3): one model, one estimator, log p(x) over the data points seen."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine import objectives as learners
from aevb_engine.backend.cores import crowded
from aevb_engine.errors import TrainingError, UsageError
from aevb_engine.evaluation.ais import AisEstimate, AnnealedImportanceSampler
from aevb_engine.evaluation.estimate import finite, standard_error
from aevb_engine.evaluation.methods import METHODS
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.evaluate import Progress, Split, rows_of
from aevb_engine.experiment.folder import RunFolder
from aevb_engine.experiment.session import Session, prepare, subset, without_length
from aevb_engine.experiment.study import add_figure, keep
from aevb_engine.objectives.mcem import Mcem
from aevb_engine.training.step import resident
from aevb_engine.training.trainer import Diverged

SCHEMA = 1
OBJECTIVES = ("elbo", "wake-sleep", "mcem")
SEEN = 100_000
LEAPFROG_STEPS = 10
SPLITS: tuple[Split, ...] = ("test", "train")
COUNTED = "data points of all minibatches, each minibatch counted once whatever the number of updates it is used for"

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """What is compared: learners with their options, training rows (none: all), data points seen, and the AIS."""

    objectives: Sequence[str] = OBJECTIVES
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    train_rows: Sequence[int] = ()
    seen: Sequence[int] = (SEEN,)
    rows: int = 100
    temperatures: int = 50
    chains: int = 16

    def __post_init__(self) -> None:
        names = list(self.objectives)
        if not all(names) or not names or len(set(names)) < len(names):
            raise UsageError(f"--objectives {','.join(names)}: names of learners are needed, each once")
        for name in self.options:
            if name not in names:
                raise UsageError(f"-o {name}: not one of the learners {', '.join(names)}")
        for name in names:
            learners.objective(name, dict(self.options.get(name, {})))
        for option, values in (("--train-rows", self.train_rows), ("--seen", self.seen)):
            if any(value < 1 for value in values) or (option == "--seen" and not values):
                raise UsageError(f"{option} {','.join(map(str, values))}: numbers of at least 1 are needed")
        for option, value, least in (("rows", self.rows, 2), ("temperatures", self.temperatures, 1),
                                     ("chains", self.chains, 1)):  # fmt: skip
            if value < least:
                raise UsageError(f"--{option} {value}: at least {least} is needed")

    def visits(self, batch: int) -> list[int]:
        """Minibatches after which log p(x) is estimated; of one number the 1-2-5 series from ten minibatches to it."""
        last = -(-max(self.seen) // batch)
        if len(self.seen) > 1:
            return sorted({-(-seen // batch) for seen in self.seen})
        series = (step * 10**power for power in range(1, 19) for step in (1, 2, 5))
        return sorted({last, *(visits for visits in series if visits < last)})


def learners_study(
    config: RunConfig,
    plan: Plan | None = None,
    *,
    output: Path | None = None,
    figure: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The record of ``study learners --json``; the objective and the length of ``config`` do not matter.

    With ``output`` it is kept there as learners.json, anew after every estimate, with learners.png at the end. A
    learner that diverges ends its curve and says so there; whatever else ends the study leaves what was measured.
    """
    plan = plan or Plan()
    if plan.train_rows and min(plan.train_rows) < config.batch_size:
        raise UsageError(f"--train-rows {min(plan.train_rows)}: at least a minibatch ({config.batch_size}) is needed")
    if output is not None:
        RunFolder.check_place(output)
    study = _Study(without_length(config), plan, output, progress)
    try:
        study.run()
    except BaseException:
        study.record["status"] = "interrupted"
        study.keep()
        raise
    study.record["status"] = "done"
    study.keep()
    if output is not None and figure:
        from aevb_engine.experiment.figures.learners import learners as draw

        add_figure(study.record, lambda: draw(study.record), output / "learners.png")
        study.keep()
    return study.record


class _Study:
    """The record, and how it grows."""

    def __init__(self, config: RunConfig, plan: Plan, output: Path | None, progress: Progress | None) -> None:
        self.config, self.plan, self.output, self.progress = config, plan, output, progress
        self.began = time.perf_counter()
        self.first: dict[tuple[int, int, Split], Values] = {}  # of the first learner, by rows, seen and split
        self.initial: dict[int, tuple[str, str]] = {}  # of the first learner, by rows: its name, digest of theta
        self.record: dict[str, Any] = {
            "schema": SCHEMA,
            "study": "learners",
            "status": "running",
            "output": None if output is None else str(output),
            "figure": None,
            "warnings": crowded(config.threads),
            **{name: getattr(config, name) for name in ("dataset", "latent_dim", "activation", "initial")},
            "hidden": list(config.hidden),
            **{name: getattr(config, name) for name in ("optimizer", "batch_size", "samples", "weight_decay", "seed")},
            "precision": config.precision,
            "objectives": list(plan.objectives),
            "seen_is": COUNTED,
            "estimator": {
                "method": "ais",
                "temperatures": plan.temperatures,
                "chains": plan.chains,
                "leapfrog_steps": LEAPFROG_STEPS,
                "rows": plan.rows,
                "seed": config.seed,
                "statement": METHODS["ais"].statement,
            },
            "curves": [],
            "seconds": 0.0,
        }

    def run(self) -> None:
        for rows in self.plan.train_rows or (None,):
            for name in self.plan.objectives:
                self._learner(name, rows)

    def keep(self) -> None:
        """The record as it stands onto the disk, once there is an estimate."""
        self.record["seconds"] = round(time.perf_counter() - self.began, 3)
        if self.output is None or not any(curve["evaluations"] for curve in self.record["curves"]):
            return
        keep(self.record, self.output / "learners.json")

    def _learner(self, name: str, rows: int | None) -> None:
        options = dict(self.plan.options.get(name, {}))
        seed, most = self.config.seed, max(self.plan.train_rows, default=0)
        config = replace(self.config, objective=name, objective_options=options, steps=1, epochs=None)

        def change(dataset: Any) -> Any:
            subset(dataset, most, seed)  # the largest is asked for before the smallest has taken its time
            return subset(dataset, len(dataset.train) if rows is None else rows, seed)

        session = prepare(config, self.progress, change)
        try:
            self._curve(session, name)
        finally:
            session.backend.close()

    def _curve(self, session: Session, name: str) -> None:
        trainer, config = session.trainer, session.config
        digest = hashlib.sha256(session.backend.download(session.model.parameters.theta).tobytes()).hexdigest()
        other, same = self.initial.setdefault(trainer.count, (name, digest))
        if digest != same:
            raise TrainingError(f"'{name}' begins with other parameters than '{other}': they cannot be compared")
        resolved = ("decoder", "binarize", "lr", "threads")
        self.record |= {key: getattr(config, key) for key in resolved}
        self.record |= {"backend": session.backend.name, "device": session.backend.device()}
        judges = {split: _Judge(session, split, self.plan) for split in SPLITS}
        evaluations: list[dict[str, Any]] = []
        curve = {
            "objective": name,
            "train_rows": trainer.count,
            "extension": isinstance(session.objective, Mcem) and config.batch_size < trainer.count,
            "remarks": session.warnings,
            "updates": session.objective.updates,
            "initial_sha256": digest,
            "rows_sha256": {split: judge.digest for split, judge in judges.items()},
            "diverged": None,
            "evaluations": evaluations,
        }
        self.record["curves"].append(curve)
        seconds = 0.0
        for visits in self.plan.visits(config.batch_size):
            try:
                seconds += self._train(session, visits * session.objective.updates)
            except Diverged as error:
                curve["diverged"] = str(error)
                return
            evaluations.append(
                {
                    "seen": trainer.seen,
                    "epochs": trainer.seen / trainer.count,
                    "steps": trainer.step,
                    "seconds": round(seconds, 6),
                    **{split: self._estimate(session, judges[split], split) for split in SPLITS},
                }
            )
            self.keep()

    def _train(self, session: Session, steps: int) -> float:
        """Train up to that many steps; the seconds that it took."""
        trainer, seconds = session.trainer, 0.0
        what = f"{session.config.objective} on {trainer.count:,} data points"
        while trainer.step < steps:
            began = time.perf_counter()
            trainer.advance(min(trainer.block, steps - trainer.step))
            seconds += time.perf_counter() - began
            if self.progress is not None:
                self.progress(what, trainer.step, steps)
        return seconds

    def _estimate(self, session: Session, judge: _Judge, split: Split) -> dict[str, Any]:
        progress, count, seen = self.progress, session.trainer.count, session.trainer.seen
        what = f"log p(x) under {session.config.objective}, {split}"
        began = time.perf_counter()
        e = judge.run(None if progress is None else lambda done, total: progress(what, done, total))
        values = e.log_likelihood
        if session.config.objective == self.plan.objectives[0]:
            self.first[count, seen, split] = values
            paired = None
        else:
            first = self.first.get((count, seen, split))
            paired = None if first is None else values - first
        found = e.summary()
        return {
            "log_likelihood": finite(found["log_likelihood"]),
            "se": finite(found["sampling_se"]),
            "mc_se": finite(found["monte_carlo_se"]),
            "above_first": None if paired is None else finite(float(paired.mean())),
            "above_first_se": None if paired is None else finite(standard_error(paired)),
            "acceptance": finite(float(e.acceptance.mean())),
            "rows": len(values),
            "seconds": round(time.perf_counter() - began, 3),
        }


class _Judge:
    """AIS of the first rows of a split, from the prior, so that no learner needs an encoder; the same noise always."""

    def __init__(self, session: Session, split: Split, plan: Plan) -> None:
        rows = rows_of(session, split)[: plan.rows]
        rows = rows if rows.dtype.kind == "u" else rows.astype(session.model.dtype, copy=False)
        if len(rows) < 2:
            raise UsageError(f"'{session.dataset.name}' has {len(rows)} {split} row; two are needed")
        self.digest = hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()
        self._sampler = AnnealedImportanceSampler(
            session.model,
            resident(session.model, rows, session.dataset.scale),
            temperatures=plan.temperatures,
            chains=plan.chains,
            leapfrog_steps=LEAPFROG_STEPS,
            seed=session.config.seed,
            threads=session.backend.threads,
        )

    def run(self, progress: Any = None) -> AisEstimate:
        return self._sampler.run(progress)
