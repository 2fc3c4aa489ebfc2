"""The public model: fit, bound, encode, decode, reconstruct, sample, save, load."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine import registry
from aevb_engine.backend.choose import choose
from aevb_engine.data.dataset import DataRequest, Dataset
from aevb_engine.errors import DataError, FileFormatError, UsageError
from aevb_engine.evaluation import apply
from aevb_engine.evaluation.bound import Evaluator, summary
from aevb_engine.evaluation.methods import METHODS, check_method, estimate
from aevb_engine.experiment.assemble import Facts, facts_of, initialize
from aevb_engine.experiment.checkpoint import Checkpoint, CheckpointStore, read, write
from aevb_engine.experiment.config import RunConfig, parse_hidden
from aevb_engine.experiment.session import check, choose_threads
from aevb_engine.model.likelihood import Likelihood
from aevb_engine.model.model import Architecture, Model
from aevb_engine.objectives import held_out
from aevb_engine.objectives import objective as chosen_objective
from aevb_engine.objectives.base import Objective
from aevb_engine.training.loop import Progress, fit
from aevb_engine.training.optimizer import Optimizer
from aevb_engine.training.plan import choose_plan, multiply_adds, refuse
from aevb_engine.training.schedule import CONSTANT, parse_schedule
from aevb_engine.training.step import resident
from aevb_engine.training.trainer import Settings, Trainer

Array = npt.NDArray[Any]


class VAE:
    """A variational autoencoder: q(z | x) Gaussian, p(z) = N(0, I), p(x | z) by a decoder plugin.

    ``decoder``: a registered name or a Likelihood. ``hidden``: widths of the encoder, mirrored in the decoder; ``()``
    is a linear model. Other keywords are the options of ``aevb-engine run`` (``lr``, ``objective``, ``samples``,
    ``batch_size``, ``activation``, ``weight_decay``, ``lr_schedule``, ``precision``, ``trainer``, ``seed``,
    ``decoder_options``, ``optimizer_options``, ...). All bounds are in nats a data point; higher is better.
    """

    def __init__(
        self,
        decoder: str | Likelihood = "bernoulli",
        hidden: int | Sequence[int] = 200,
        latent_dim: int = 2,
        *,
        optimizer: str = "adam",
        backend: str = "auto",
        seed: int = 0,
        **options: Any,
    ) -> None:
        values: dict[str, Any] = {
            "hidden": parse_hidden(hidden if isinstance(hidden, int) else list(hidden)),
            "latent_dim": latent_dim,
            "optimizer": optimizer,
            "backend": backend,
            "seed": seed,
            **options,
        }
        if isinstance(decoder, str):
            values["decoder"] = decoder
        try:
            self.config = RunConfig.from_mapping(values, "VAE")
        except DataError as error:
            raise UsageError(str(error)) from error
        refuse(self.config.trainer, self.config.graph, self.config.precision, backend)
        defaults = RunConfig()
        for name in ("validation", "until_converged", "eval_every"):
            if getattr(self.config, name) != getattr(defaults, name):
                raise UsageError(f"{name}={getattr(self.config, name)}: fit holds nothing out; `aevb-engine run` does")
        self._named = isinstance(decoder, str)
        self._likelihood = _likelihood(decoder, self.config.decoder_options)
        # Not of a loaded model: data under a name may be binarized as they were in its run.
        self._asked = [n for n in ("binarize", "scale") if getattr(self.config, n) not in (None, "none")]
        self._objective: Objective = chosen_objective(self.config.objective, self.config.objective_options)
        self._model: Model | None = None
        self._reason: str | None = None  # why auto means the CPU
        self._trainer: Trainer | None = None
        self._stored: tuple[int, Mapping[str, Any]] | None = None  # a loaded model's step and arrays
        self._facts = Facts()
        self.history: list[dict[str, float]] = []

    # Training -----------------------------------------------------------------------------------------------

    def fit(
        self,
        data: str | Array | Dataset,
        *,
        epochs: float | None = None,
        steps: int | None = None,
        data_dir: str | Path | None = None,
        offline: bool = False,
    ) -> VAE:
        """Train on a data set by name, a Dataset, or rows (N, D) inside the decoder's support; returns the model.

        A second call goes on from the present parameters and optimizer state. What is not given here is as the model
        was made, else 20 epochs. ``history`` gains a row a block. An interrupt leaves a state of some steps before.
        """
        config = self.config
        if epochs is not None and steps is not None:
            raise UsageError("epochs and steps exclude each other; give one of them")
        if epochs is None and steps is None:
            epochs, steps = config.epochs, config.steps
        for name, value in (("epochs", epochs), ("steps", steps)):
            if value is not None and not (isinstance(value, (int, float, np.number)) and 0 < value < math.inf):
                raise UsageError(f"{name}={value}: a positive number is needed")
        dataset = self._dataset(data, data_dir if data_dir is not None else config.data_dir, offline or config.offline)
        check(dataset, self._likelihood)
        config = replace(config, batch_size=min(config.batch_size, len(dataset.train)))
        model = self._build(dataset)
        optimizer: Optimizer = registry.create("optimizer", config.optimizer, config.optimizer_options, Optimizer)
        threads = config.threads or choose_threads(model, config.batch_size * config.samples, model.backend.threads)
        settings = Settings(
            objective=self._objective,
            samples=config.samples,
            batch=config.batch_size,
            lr=config.lr if config.lr is not None else optimizer.default_lr,
            schedule=parse_schedule(config.lr_schedule or CONSTANT),
            mend=self._facts.mend,
            weight_decay=config.weight_decay,
            seed=config.seed,
            threads=threads,
            plan=choose_plan(
                config.trainer, config.graph, config.precision, model.backend, self._reason,
                multiply_adds=multiply_adds(model, config.batch_size * config.samples),
            ),
        )  # fmt: skip
        rows = resident(model, dataset.train, dataset.scale, dataset.dynamic)
        trainer = Trainer(model, optimizer, rows, settings)
        for line in (*([] if self._trainer or self._stored else self._facts.warnings), *trainer.warnings):
            warnings.warn(line, stacklevel=2)
        self._go_on(trainer)
        self._trainer, self._stored = trainer, None
        per_epoch = self._objective.updates * trainer.count / settings.batch
        count = epochs * per_epoch if epochs is not None else steps
        if count is None:
            count = 20 * per_epoch
        total = trainer.step + max(1, round(count))
        fit(
            trainer,
            Progress(),
            total=total,
            eval_every=total + 1,
            evaluate=lambda: {k: float("nan") for k in ("bound", "reconstruction", "kl", "bound_se")},
            until_converged=False,
            listener=_History(self.history),
        )
        return self

    def _go_on(self, trainer: Trainer) -> None:
        """With the optimizer's and the objective's state of the training before, or of the file."""
        same = True  # data points; chains on others are of no use
        if self._trainer is not None:
            step, kept = self._trainer.step, self._trainer.arrays()
            same = self._trainer.count == trainer.count
        elif self._stored is not None:
            step, stored = self._stored
            kept = dict(stored)
        else:
            return
        state = trainer.arrays()
        for name, fresh in state.items():
            of_data = name.startswith("objective/")
            if name != "theta" and name in kept and not (of_data and not (same and kept[name].shape == fresh.shape)):
                state[name] = kept[name]
        trainer.restore(step, state)

    def _dataset(self, data: str | Array | Dataset, data_dir: str | Path | None, offline: bool) -> Dataset:
        if isinstance(data, Dataset):
            return data
        config = self.config
        if isinstance(data, str):
            request = DataRequest(
                seed=config.seed,
                data_dir=Path(data_dir) if data_dir is not None else None,
                asked="data_dir",
                offline=offline,
                binarize=config.binarize,
                scale=config.scale,
                binary_support=self._likelihood.support.kind == "binary",
            )
            loaded: Dataset = registry.create("dataset", data, config.dataset_options).load(request)
            return loaded
        if self._asked:
            raise UsageError(f"{self._asked[0]}: rows are taken as they are; give the data set's name, or leave it out")
        rows = self._as_rows(data)
        return Dataset(name="array", train=rows, test=rows)

    def _as_rows(self, x: Any) -> Array:
        if np.ma.is_masked(x):
            raise DataError("the data are masked: leave out or impute those rows")
        try:
            rows = np.asarray(x)
        except ValueError as error:
            raise DataError(f"the data are no array: {error}") from error
        if rows.dtype.kind not in "fiub":
            raise DataError(f"data of type {rows.dtype}; numbers are needed")
        if rows.ndim > 2:
            rows = rows.reshape(len(rows), -1)
        if rows.ndim != 2 or rows.size == 0:
            raise DataError(f"data of shape {rows.shape}; rows (N, D) are needed")
        if self._model is not None and rows.shape[1] != self._model.architecture.dim:
            raise DataError(f"data of {rows.shape[1]} columns; the model has {self._model.architecture.dim}")
        if self._model is None or self._model.likelihood.units is not None:
            return rows  # the model reads them in units of its own, where float32 may be too coarse for the data's
        return rows if rows.dtype == np.uint8 else rows.astype(self.config.dtype)

    def _build(self, dataset: Dataset) -> Model:
        if self._model is None:
            self._facts = facts_of(dataset, dataset.train, self._likelihood, self.config)
            self._likelihood = self._facts.adapt(self._likelihood)
            self._model, self._reason = _model(self.config, self._likelihood, dataset.dim)
            initialize(self._model, dataset.train, dataset, self.config)
        elif self._model.architecture.dim != dataset.dim:
            raise DataError(f"data of {dataset.dim} columns; the model has {self._model.architecture.dim}")
        return self._model

    # Use ----------------------------------------------------------------------------------------------------

    @property
    def model(self) -> Model:
        """The engine's model; UsageError before the first fit."""
        if self._model is None:
            raise UsageError("the model has no data yet: call fit, or load one")
        return self._model

    def _needs_encoder(self, what: str, mend: str = "") -> None:
        if not self._objective.has_encoder:
            raise UsageError(f"{what} needs an encoder; the objective {self.config.objective} trains none{mend}")

    def _needs_posterior(self, what: str, mend: str = "") -> None:
        self._needs_encoder(what, mend)
        judge = held_out(self._objective)
        if judge is None or "bound" not in judge.columns:
            raise UsageError(f"{what} needs q(z | x); the objective {self.config.objective} trains none{mend}")

    def bound(self, x: Any, *, objective: str = "elbo", samples: int = 1) -> float:
        """Mean bound of rows x (N, D) in nats a data point: L^B by default, with fixed noise."""
        self._needs_posterior("bound")
        if not chosen_objective(objective).is_bound:
            raise UsageError(f"the objective {objective} is not a bound; ask for elbo, elbo-mc or iwae")
        if samples < 1:
            raise UsageError(f"samples={samples}: at least one is needed")
        model, rows = self.model, self._as_rows(x)
        self._likelihood.support.check(rows, "the data")
        data = resident(model, rows)
        evaluator = Evaluator(
            model,
            data,
            objective_name=objective,
            samples=samples,
            seed=self.config.seed,
            batch=max(1, 500 // samples),
        )
        return summary(evaluator.run())["bound"]

    def log_likelihood(
        self, x: Any, *, method: str = "is", samples: int | None = None, temperatures: int | None = None
    ) -> Array:
        """log p(x) of each row (N,) in nats: low on average by ``is`` and ``ais``, high by ``hmc``.

        ``method``: "is", importance sampling with K = ``samples`` (5000); "ais", annealing by ``samples`` chains (16)
        through ``temperatures`` (100); "hmc", KW appendix D with ``samples`` draws a chain (500), NaN for rows that it
        refuses.
        """
        check_method(method)
        if METHODS[method].needs_encoder:
            self._needs_posterior("log_likelihood", mend='; use method="ais"')
        if samples is not None and samples < 1:
            raise UsageError(f"samples={samples}: at least one is needed")
        model, rows = self.model, self._as_rows(x)
        self._likelihood.support.check(rows, "the data")
        threads = self.config.threads or model.backend.threads
        data = resident(model, rows)
        return estimate(
            method, model, data, samples=samples, temperatures=temperatures, seed=self.config.seed, threads=threads
        ).values

    def encode(self, x: Any) -> tuple[Array, Array]:
        """Mean and standard deviation (N, Z) of q(z | x) for rows x (N, D)."""
        self._needs_encoder("encode")
        return apply.encode(self.model, self._as_rows(x))

    def decode(self, z: Any) -> Array:
        """Mean (N, D) of p(x | z) for z (N, Z)."""
        latent = np.asarray(z, dtype=self.config.dtype)
        if latent.ndim != 2 or latent.shape[1] != self.model.architecture.latent or not len(latent):
            raise DataError(f"z of shape {latent.shape}; (N, {self.model.architecture.latent}) is needed")
        return apply.decode(self.model, latent)

    def reconstruct(self, x: Any) -> Array:
        """Mean (N, D) of p(x | z) at the mean of q(z | x)."""
        self._needs_encoder("reconstruct")
        return apply.reconstruct(self.model, self._as_rows(x))

    def sample(self, n: int, *, seed: int = 0) -> Array:
        """n draws (n, D): z ~ N(0, I), x ~ p(x | z)."""
        if n < 1:
            raise UsageError(f"sample({n}): at least one draw is needed")
        return apply.sample(self.model, int(n), seed)

    # Storage ------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the model, atomically, as one HDF5 file; ``load`` reads it back, training state included."""
        if not self._named:
            raise UsageError("a decoder given as an object cannot be saved by name; register it as a plugin")
        model = self.model
        step, arrays = self._stored or (0, {})
        if self._trainer is not None:
            step, arrays = self._trainer.step, self._trainer.arrays()
        arrays = {**arrays, **self._facts.arrays(), "theta": model.backend.download(model.parameters.theta)}
        meta = {
            "config": self.config.as_dict(),
            "dim": model.architecture.dim,
            **self._facts.meta(),
        }
        write(Path(path), Checkpoint(step, arrays, meta), hash_file=False)


def load(path: str | Path) -> VAE:
    """A model from a file of ``save``, from a checkpoint, or from a run folder (its newest checkpoint)."""
    place = Path(path)
    if place.is_dir():
        folder = place / "checkpoints"
        newest = CheckpointStore(folder if folder.is_dir() else place).newest()
        if newest is None:
            raise FileFormatError(f"{place} holds no sound checkpoint; name a run folder or a saved model")
        checkpoint = newest
    else:
        checkpoint = read(place, require_hash=False)
    meta: Mapping[str, Any] = checkpoint.meta
    try:
        config = RunConfig.from_mapping(meta["config"], str(place))
        dim = int(meta["dim"])
        facts = Facts.stored(meta, checkpoint.arrays)
        theta = checkpoint.arrays["theta"]
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise FileFormatError(f"{place} is not a model of this program: {error}") from error
    vae = VAE(
        config.decoder or "bernoulli",
        config.hidden,
        config.latent_dim,
        **{k: v for k, v in config.as_dict().items() if k not in ("decoder", "hidden", "latent_dim", *OF_RUNS)},
    )
    vae._asked = []
    vae._likelihood = facts.adapt(vae._likelihood)
    vae._facts = facts
    model, vae._reason = _model(config, vae._likelihood, dim)
    if model.backend.name == "cpu":  # trained on a GPU, perhaps; it goes on as the CPU does
        vae.config = replace(vae.config, trainer="auto", graph=False, precision=config.dtype)  # type: ignore[arg-type]
    if theta.shape != (model.parameters.size,):
        raise FileFormatError(f"{place} holds {theta.size} parameters; its configuration needs {model.parameters.size}")
    model.parameters.theta[...] = model.backend.upload(theta.astype(model.dtype))
    vae._model = model
    state = {n: a for n, a in checkpoint.arrays.items() if n.startswith(("optimizer/", "objective/"))}
    vae._stored = checkpoint.step, state
    return vae


# What steers a run and not a model: a loaded one trains by what it is told.
OF_RUNS = ("validation", "until_converged", "eval_every", "epochs", "steps", "data_dir", "offline")


def _likelihood(decoder: str | Likelihood, options: Mapping[str, Any]) -> Likelihood:
    """By name, or a copy of an object: a model adapts its own to its data."""
    if isinstance(decoder, str):
        made: Likelihood = registry.create("decoder", decoder, options, Likelihood)
        return made
    if not isinstance(decoder, Likelihood):
        kind = type(decoder).__name__
        raise UsageError(f"decoder={decoder}: a name or an object of a Likelihood is needed, not {kind}")
    if options:
        raise UsageError("decoder_options: the decoder is an object; give the options to its class")
    return copy.deepcopy(decoder)


def _model(config: RunConfig, likelihood: Likelihood, dim: int) -> tuple[Model, str | None]:
    """The model, and why it is on the CPU."""
    architecture = Architecture(dim, config.latent_dim, config.hidden, config.activation, config.dtype)
    backend, reason = choose(config.backend, config.threads)
    return Model(architecture, likelihood, backend), reason


class _History:
    """Keeps the mean of each block in memory."""

    def __init__(self, rows: list[dict[str, float]]) -> None:
        self._rows = rows

    def steps(self, rows: npt.NDArray[np.float64]) -> None:
        means = rows[:, 2:5].mean(axis=0)  # NaN where the objective has none
        self._rows.append(
            {
                "step": float(rows[-1, 0]),
                "bound": float(means[0]),
                "reconstruction": float(means[1]),
                "kl": float(means[2]),
            }
        )

    def evaluated(self, row: npt.NDArray[np.float64], is_best: bool) -> None: ...

    def stop(self) -> bool:
        return False
