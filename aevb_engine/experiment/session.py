"""From a configuration to something that can train: data, decoder, model, trainer and evaluators."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine import registry
from aevb_engine.backend import crew
from aevb_engine.backend.base import Backend, Plan
from aevb_engine.backend.choose import choose
from aevb_engine.backend.cores import crowded
from aevb_engine.data.binarize import binarize_draw
from aevb_engine.data.dataset import DataRequest, Dataset, Progress
from aevb_engine.data.load import load
from aevb_engine.errors import DataError, UsageError
from aevb_engine.evaluation.bound import Evaluator
from aevb_engine.experiment.assemble import Facts, facts_of, initialize
from aevb_engine.experiment.config import RunConfig
from aevb_engine.model.likelihood import Likelihood
from aevb_engine.model.model import Architecture, Model
from aevb_engine.objectives import held_out as judge
from aevb_engine.objectives import objective, remarks
from aevb_engine.objectives.base import Objective
from aevb_engine.training.optimizer import Optimizer
from aevb_engine.training.order import permutation, split
from aevb_engine.training.plan import choose_plan, multiply_adds, refuse
from aevb_engine.training.schedule import CONSTANT, parse_schedule
from aevb_engine.training.step import resident
from aevb_engine.training.trainer import Settings, Trainer

CONVERGENCE_VALIDATION = 0.1  # --until-converged without --validation holds out this part
CONVERGENCE_EPOCHS = 1000
DEFAULT_EPOCHS = 50.0
LEAST_STEPS = 2000  # of a run whose length is not given: 50 epochs of 200 rows would be 100
FALLING = "linear:0.5"  # the schedule where none is asked for
# Multiply-adds a step below which handing shares on costs more than it saves: for each process of a crew, for threads.
WORKER_PAYS = 1_500_000
THREADS_PAY = 4_000_000


@dataclass
class Session:
    """Everything of a run that lives in memory."""

    config: RunConfig
    dataset: Dataset
    backend: Backend
    model: Model
    trainer: Trainer
    train_rows: npt.NDArray[Any]  # of the host, without the validation part
    held_out: Evaluator | None  # validation rows, or the test set for display only; None where nothing judges them
    held_out_is: str  # "validation" or "test"
    test: Evaluator | None
    test_k: Evaluator | None  # the importance-weighted bound, where that is the objective
    total_steps: int
    eval_every: int
    data_hash: str
    facts: Facts
    warnings: list[str]
    notes: list[str]  # said once, not kept

    @property
    def objective(self) -> Objective:
        return self.trainer.objective

    @property
    def held_out_columns(self) -> tuple[str, ...]:
        """Which of bound, reconstruction and kl there are of held-out data."""
        by = judge(self.objective)
        return by.columns if by is not None else ()

    @property
    def criterion(self) -> str:
        """The held-out column that tells the best step and convergence."""
        return "bound" if "bound" in self.held_out_columns else "reconstruction"


def prepare(
    config: RunConfig,
    progress: Progress | None = None,
    change: Callable[[Dataset], Dataset] | None = None,
    *,
    resumed: bool = False,
    training: bool = True,
) -> Session:
    """Load the data and build everything; nothing is written. Raises the errors of contracts for each wrong option.

    ``change`` is applied to the data once loaded, such as ``subset``. ``resumed``: the steps take the very path of
    ``config``, or none. Without ``training`` nothing is asked of the backend but that it computes the bounds.
    """
    if training and not resumed:
        refuse(config.trainer, config.graph, config.precision, config.backend)
    warnings: list[str] = []
    said: list[str] = []
    chosen = objective(config.objective, config.objective_options)
    if config.until_converged and judge(chosen) is None:
        raise UsageError(
            f"--until-converged: the objective {config.objective} has no encoder, so there is no held-out bound to "
            "follow; give --epochs or --steps"
        )
    parse_schedule(config.lr_schedule or CONSTANT)  # before the data are loaded
    optimizer: Optimizer = registry.create("optimizer", config.optimizer, config.optimizer_options, Optimizer)
    source = registry.create("dataset", config.dataset, config.dataset_options)
    decoder_name = config.decoder or str(getattr(source, "decoder", "bernoulli"))
    likelihood: Likelihood = registry.create("decoder", decoder_name, config.decoder_options, Likelihood)
    if config.until_converged and config.validation == 0:
        config = replace(config, validation=CONVERGENCE_VALIDATION)
        warnings.append(f"--until-converged holds out {CONVERGENCE_VALIDATION:.0%} of the training rows for validation")
    dataset = load(
        source,
        DataRequest(
            seed=config.seed,
            data_dir=Path(config.data_dir) if config.data_dir else None,
            offline=config.offline,
            binarize=config.binarize,
            scale=config.scale,
            binary_support=likelihood.support.kind == "binary",
            progress=progress,
        ),
    )
    if change is not None:
        dataset = change(dataset)
    check(dataset, likelihood)
    whole = dataset.train.dtype.kind in "uib"
    if dataset.true_log_prob is not None and whole != (likelihood.support.measure == "mass"):
        dataset = replace(dataset, true_log_prob=None)  # the log of a probability and of a density do not compare
    train, validation = split_rows(dataset, config)
    if config.batch_size > len(train):
        said.append(f"the {len(train)} training rows are one batch, not {config.batch_size}")
        config = replace(config, batch_size=len(train))
    facts = facts_of(dataset, train, likelihood, config)
    likelihood = facts.adapt(likelihood)
    warnings += facts.warnings
    backend, reason = choose(config.backend, config.threads)
    if backend.name == "cpu":
        said += crowded(config.threads)
    architecture = Architecture(dataset.dim, config.latent_dim, config.hidden, config.activation, config.dtype)
    model = Model(architecture, likelihood, backend)
    plan = Plan()
    if training:
        plan = choose_plan(
            config.trainer, config.graph, config.precision, backend, reason,
            multiply_adds=multiply_adds(model, config.batch_size * config.samples), resumed=resumed,
        )  # fmt: skip
    initialize(model, train, dataset, config)
    total, every = lengths(config, len(train), chosen.updates)
    threads = config.threads or choose_threads(model, config.batch_size * config.samples, backend.threads)
    config = replace(
        config,
        decoder=decoder_name,
        binarize=dataset.binarize,
        standardize="never" if facts.units is None else "always",
        lr_schedule=config.lr_schedule or default_schedule(config),
        lr=learning_rate(config, optimizer),
        threads=threads,
    )
    settings = Settings(
        objective=chosen,
        samples=config.samples,
        batch=config.batch_size,
        lr=float(config.lr or 0.0),
        schedule=parse_schedule(config.lr_schedule or CONSTANT, total),
        weight_decay=config.weight_decay,
        seed=config.seed,
        threads=threads,
        plan=plan,
        mend=facts.mend,
    )
    trainer = Trainer(model, optimizer, resident(model, train, dataset.scale, dataset.dynamic), settings)
    warnings += trainer.warnings
    if training and backend.name != "cpu":
        config = replace(config, trainer=trainer.inner.plan.path)  # type: ignore[arg-type] # a resume goes on with it
    test_rows = resident(model, dataset.test_rows, dataset.scale)
    by = judge(chosen)
    test = held_out = None
    if by is not None:
        test = held_out = Evaluator(model, test_rows, objective_name=by, seed=config.seed, threads=threads)
    if by is not None and validation is not None:
        rows = resident(model, validation, dataset.scale)
        held_out = Evaluator(model, rows, objective_name=by, seed=config.seed, threads=threads)
    warnings += remarks(chosen, config.batch_size, trainer.count)
    test_k = None
    if config.objective == "iwae":
        test_k = Evaluator(
            model, test_rows, objective_name="iwae", samples=config.samples, seed=config.seed, threads=threads,
            batch=max(20, 500 // config.samples),
        )  # fmt: skip
    return Session(
        config=config,
        dataset=dataset,
        backend=backend,
        model=model,
        trainer=trainer,
        train_rows=train,
        held_out=held_out,
        held_out_is="test" if validation is None else "validation",
        test=test,
        test_k=test_k,
        total_steps=total,
        eval_every=every,
        data_hash=data_hash(dataset),
        facts=facts,
        warnings=warnings,
        notes=[*said, *facts.notes],
    )


def check(dataset: Dataset, likelihood: Likelihood) -> None:
    """DataError for data outside the likelihood's support; that its facts are sound was seen where it entered."""
    for what, rows in {"the training data": dataset.train, "the test data": dataset.test}.items():
        if rows is None or (dataset.dynamic and what == "the training data"):
            continue  # intensities 0..255; each step draws 0 or 1 from them
        extremes = np.array([[rows.min(), rows.max()]], np.float64) * dataset.scale
        likelihood.support.check(extremes, what)
        floats = rows.dtype.kind == "f"  # whole numbers that a scale divides may lie between those of the support
        if likelihood.support.kind in ("binary", "count", "codes") and (floats or dataset.scale != 1):
            likelihood.support.check(rows * (rows.dtype.type(dataset.scale) if floats else dataset.scale), what)


def choose_threads(model: Model, rows: int, cores: int) -> int:
    """As many physical cores as a step is large enough to share among."""
    cost = 3 * rows * model.parameters.size
    if crew.possible():
        return max(1, min(cores, cost // WORKER_PAYS))
    return cores if cost >= THREADS_PAY else 1


def data_hash(dataset: Dataset) -> str:
    """SHA-256 of the training and test rows."""
    digest = hashlib.sha256()
    for rows in (dataset.train, dataset.test_rows):
        digest.update(f"{rows.shape} {rows.dtype}".encode())
        digest.update(np.ascontiguousarray(rows).data)
    return digest.hexdigest()


def split_rows(dataset: Dataset, config: RunConfig) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Training rows, and validation rows drawn once where training draws anew."""
    if not config.validation:
        return dataset.train, None
    count = len(dataset.train)
    if count < 2:
        raise DataError(f"--validation {config.validation}: the training set has {count} row; two are needed")
    kept, held = split(count, config.validation, config.seed, dataset.contiguous)
    if not len(kept):
        raise UsageError(f"--validation {config.validation}: nothing is left of {count} training rows; use less")
    validation = dataset.train[held]
    if dataset.dynamic:
        validation = binarize_draw(config.seed, "validation", validation)
    return dataset.train[kept], validation


def subset(dataset: Dataset, rows: int, seed: int) -> Dataset:
    """The data with the first ``rows`` training rows of a permutation from the seed: smaller subsets lie in larger."""
    count = len(dataset.train)
    if rows > count:
        raise UsageError(f"--train-rows {rows}: '{dataset.name}' has {count} training rows")
    kept = permutation(seed, 0, count, "train rows")[:rows]
    return replace(dataset, train=dataset.train[kept], train_labels=None, factors={})


def default_schedule(config: RunConfig) -> str:
    """Where none is asked for: constant in the paper's way and where the length is not known."""
    return CONSTANT if config.initial == "normal" or config.until_converged else FALLING


def learning_rate(config: RunConfig, optimizer: Optimizer) -> float:
    """The one asked for, or the optimizer's own; it may have a higher one for a schedule that ends at zero."""
    if config.lr is not None:
        return config.lr
    falls = parse_schedule(config.lr_schedule or default_schedule(config)).of_length
    return optimizer.peak_lr if falls and optimizer.peak_lr is not None else optimizer.default_lr


def without_length(config: RunConfig) -> RunConfig:
    """For a training that is stopped here and there: UsageError for a schedule over a length that it does not have."""
    if parse_schedule(config.lr_schedule or CONSTANT).of_length:
        raise UsageError(f"--lr-schedule {config.lr_schedule}: a study looks at many lengths; use one that has none")
    return replace(config, lr_schedule=config.lr_schedule or CONSTANT)


def lengths(config: RunConfig, count: int, updates: int) -> tuple[int, int]:
    """Steps in all, and between evaluations: an epoch, but at least ten evaluations a run.

    An epoch passes all data points once, whatever the number of ``updates`` that a batch is used for.
    """
    per_epoch = updates * count / config.batch_size
    if config.steps is not None:
        total = config.steps
    else:
        default = CONVERGENCE_EPOCHS if config.until_converged else DEFAULT_EPOCHS
        epochs = config.epochs if config.epochs is not None else default
        total = max(1 if config.epochs is not None else LEAST_STEPS, round(epochs * per_epoch))
    every = config.eval_every or max(1, min(round(per_epoch) or 1, -(-total // 10)))
    return total, every
