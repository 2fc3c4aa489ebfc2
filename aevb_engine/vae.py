"""The public model: fit, bound, encode, decode, reconstruct, sample, draw, save, load."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine import blame, registry
from aevb_engine.backend.choose import choose
from aevb_engine.backend.cores import crowded
from aevb_engine.data.dataset import DataRequest, Dataset
from aevb_engine.data.facts import sound
from aevb_engine.data.given import Given
from aevb_engine.data.load import load as load_data
from aevb_engine.errors import DataError, FileFormatError, ResultWarning, UsageError, suggest
from aevb_engine.evaluation import apply
from aevb_engine.evaluation.bound import Evaluator, summary
from aevb_engine.evaluation.methods import METHODS, check_method, estimate
from aevb_engine.evaluation.remarks import LEAST_STEPS, MOST_ROWS, Judged, remarks
from aevb_engine.experiment.assemble import Facts, check_squares, facts_of, initialize
from aevb_engine.experiment.checkpoint import Checkpoint, read, write
from aevb_engine.experiment.chosen import Which, chosen
from aevb_engine.experiment.config import RunConfig, parse_hidden
from aevb_engine.experiment.session import check, choose_threads, default_schedule, learning_rate, split_rows
from aevb_engine.interface import progress as display
from aevb_engine.interface.arguments import flag, path_of, seed_of, whole
from aevb_engine.interface.course import Best, Callback, Course, check_callback, digest
from aevb_engine.interface.held_out import HeldOut, asked, check_length, interval, length
from aevb_engine.interface.history import HISTORY_EVERY, History
from aevb_engine.interface.interrupt import Interrupt
from aevb_engine.interface.rows import as_array, as_rows
from aevb_engine.interface.words import in_python, spoken, spoken_class, warn
from aevb_engine.model.likelihood import Likelihood
from aevb_engine.model.model import Architecture, Model
from aevb_engine.model.start import columns_read
from aevb_engine.model.units import FAR, Units
from aevb_engine.objectives import held_out as judge_of
from aevb_engine.objectives import objective as chosen_objective
from aevb_engine.objectives import remarks as remarks_of
from aevb_engine.objectives.base import Objective
from aevb_engine.training.loop import Progress, fit, window
from aevb_engine.training.optimizer import Optimizer
from aevb_engine.training.plan import choose_plan, multiply_adds, refuse
from aevb_engine.training.schedule import parse_schedule
from aevb_engine.training.state import check_state
from aevb_engine.training.step import resident
from aevb_engine.training.trainer import Settings, Trainer

Array = npt.NDArray[Any]
# What belongs to one process, and is made anew where a model is copied or unpickled.
LIVE = ("_model", "_trainer", "_lock", "_at_work")


@spoken_class
class VAE:
    """A variational autoencoder: q(z | x) Gaussian, p(z) = N(0, I), p(x | z) by a decoder plugin.

    ``decoder``: a registered name or a Likelihood. ``hidden``: widths of the encoder, mirrored in the decoder; ``()``
    is a linear model. Other keywords are the options of ``aevb-engine run`` (``lr``, ``objective``, ``samples``,
    ``batch_size``, ``activation``, ``weight_decay``, ``lr_schedule``, ``precision``, ``trainer``, ``seed``,
    ``decoder_options``, ``optimizer_options``, ...); ``epochs``, ``steps``, ``validation``, ``until_converged`` and
    ``eval_every`` are what ``fit`` does where it is not told otherwise. All bounds are in nats a data point; higher is
    better.

    ``history``: a dict for every 50 steps with ``step``, the last of them, and the means of ``bound``,
    ``reconstruction`` and ``kl`` over their batches. ``evaluations``: the same of held-out rows at ``step``.

    Rows mean in every method what they meant in the last ``fit``: those of an integer type are multiplied by the
    ``scale`` of its Dataset, 1 for other data; floats are the data themselves. Outputs are such data, too. A model can
    be copied and pickled, and goes on as it would have; pickles are to be loaded from where you trust, ``save`` is for
    others. Worker processes and threads are there while a method runs, and no longer.
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
            "hidden": _widths(hidden),
            "latent_dim": latent_dim,
            "optimizer": optimizer,
            "backend": backend,
            "seed": seed,
            **options,
        }
        if isinstance(decoder, str):
            values["decoder"] = decoder
        if seed is None:
            seed_of(seed)  # says what is needed
        if isinstance(options.get("standardize"), (bool, np.bool_)):
            values["standardize"] = "always" if options["standardize"] else "never"
        try:
            self.config = RunConfig.from_mapping(values, "VAE")
        except DataError as error:
            raise UsageError(str(error)) from error
        refuse(self.config.trainer, self.config.graph, self.config.precision, backend)
        self._named = isinstance(decoder, str)
        self._likelihood = _likelihood(decoder, self.config.decoder_options)
        self._open = self._likelihood.any_unit  # the decoder has not been asked for a unit of its own
        # Not of a loaded model: data under a name may be binarized as they were in its run.
        self._asked = [n for n in ("binarize", "scale") if getattr(self.config, n) not in (None, "none")]
        self._objective: Objective = chosen_objective(self.config.objective, self.config.objective_options)
        self._model: Model | None = None
        self._reason: str | None = None  # why auto means the CPU
        self._trainer: Trainer | None = None
        # Of a model that was loaded or copied: step, arrays, and the number of training rows where it is known.
        self._stored: tuple[int, Mapping[str, Any], int | None] | None = None
        self._facts = Facts()
        self.history: list[dict[str, float]] = []
        self.evaluations: list[dict[str, float]] = []
        self.remarks: list[str] = []  # what is amiss after the last fit
        self._windows = History(self.history)
        self._best: Best | None = None
        self._drawn: Counter[str] = Counter()  # numbers of the draws so far, by stream
        self._begin()

    def _begin(self) -> None:
        """What belongs to this process."""
        self._lock = threading.Lock()  # of what several threads change
        self._at_work: set[object] = set()  # methods under way

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Worker processes and threads that are started meanwhile end with the last method that is under way."""
        me = object()
        try:
            with self._lock:
                self._at_work.add(me)
            yield
        finally:
            with self._lock:
                self._at_work.discard(me)
                if not self._at_work and self._model is not None:
                    self._model.backend.close()

    # Training -----------------------------------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        *,
        epochs: float | None = None,
        steps: int | None = None,
        validation: Any = None,
        until_converged: bool | None = None,
        eval_every: int | None = None,
        progress: bool | None = None,
        callback: Callback | None = None,
        data_dir: str | Path | None = None,
        offline: bool = False,
    ) -> VAE:
        """Train on a data set by name, a Dataset, or rows (N, D) inside the decoder's support; returns the model.

        Rows are whatever becomes an array of numbers: a data frame, lists, images (N, H, W).

        A second call goes on from the present parameters and optimizer state. What is not given here is as the model
        was made; the length else 50 epochs and at least 2,000 steps, or with ``until_converged`` at most 1000 epochs.

        ``validation``: a fraction in [0, 1) of the training rows (the last ones where neighbouring rows are alike), or
        rows (M, D) as the model sees them. Their bounds go to ``evaluations`` every ``eval_every`` steps (an epoch, at
        least ten times a fit) and at the end. The model then holds the best state, parameters, optimizer and step, of
        all fits judged by these rows; ``best_step`` is its step, and the next fit goes on from there (``history`` and
        ``evaluations`` show what came after it until then). ``until_converged``: ends when the smoothed held-out bound
        has not improved by 1e-4 of itself in ten evaluations; 10 % are held out where ``validation`` is not given.

        ``progress``: True or False; None shows it on a terminal's stderr and in a notebook. ``callback(row)`` is called
        with a dict of ``part`` ("train" for a row of history, "validation" for an evaluation), ``step``, ``bound``,
        ``reconstruction``, ``kl``; where it returns True the fit ends after the steps under way.

        Ctrl-C in the main thread ends the fit after the steps under way, and then raises KeyboardInterrupt: nothing is
        lost, the model holds the state of the last step, and another fit goes on from it. A second Ctrl-C leaves at
        once, with a state of some hundred steps before. A fit that diverges (TrainingError) holds the state before it.
        """
        config = self.config
        check_length(epochs, steps)
        check_callback(callback)
        held = asked(config, self._objective, validation, until_converged, eval_every)
        screen = display.choose(progress)
        offline = flag("offline", offline) or config.offline
        dataset = self._dataset(data, data_dir if data_dir is not None else config.data_dir, offline)
        check(dataset, self._likelihood)
        given = self._accepts(dataset)
        dataset, judged_by, scale = self._hold_out(dataset, held, given)
        config = replace(
            config,
            batch_size=min(config.batch_size, len(dataset.train)),
            until_converged=held.until_converged,
        )
        interrupt = Interrupt()
        with screen, self._working():
            model = self._build(dataset, given)
            per_epoch = self._objective.updates * len(dataset.train) / config.batch_size
            count = length(config, epochs, steps, per_epoch, until_converged=held.until_converged)
            trainer = self._train_on(dataset, config, count)
            many = crowded(config.threads) if model.backend.name == "cpu" else []
            for line in (*self._facts.warnings, *trainer.warnings, *many):
                warn(line)
            evaluator = None
            if judged_by is None or held.judge is None:
                self._best = None
            else:
                rows, threads = resident(model, judged_by, scale), trainer.settings.threads
                evaluator = Evaluator(model, rows, objective_name=held.judge, seed=config.seed, threads=threads)
                key = digest(judged_by, scale)
                if self._best is None or self._best.rows != key:
                    self._best = Best(key)
            best = self._best
            self._windows.rows = self.history  # which is the user's to empty or replace
            course = Course(
                trainer, self._windows, self.evaluations, columns=held.columns, criterion=held.criterion, best=best,
                callback=callback, display=screen, interrupt=interrupt,
            )  # fmt: skip
            total = trainer.step + count
            trained = "bound" if "bound" in self._objective.columns else "reconstruction"
            screen.begin(trainer.step, total, held.criterion, trained)
            with interrupt:
                try:
                    fit(
                        trainer,
                        Progress(),
                        total=total,
                        eval_every=interval(held, count, per_epoch) if evaluator is not None else total + 1,
                        evaluate=None if evaluator is None else lambda: summary(evaluator.run()),
                        until_converged=held.until_converged,
                        criterion=held.criterion,
                        listener=course,
                    )
                    course.finish()
                finally:
                    course.close()
                if best is not None and best.step is not None:
                    trainer.restore(best.step, best.arrays)
        self.remarks = [in_python(line) for line in remarks_of(self._objective, config.batch_size, trainer.count)]
        if count >= LEAST_STEPS:
            self.remarks += self._remarks(trainer, dataset, judged_by, scale)
        for line in self.remarks:
            warn(line, ResultWarning)
        return self

    def _remarks(self, trainer: Trainer, dataset: Dataset, held: Array | None, scale: float) -> list[str]:
        """What is amiss, judged by the rows held out, or else by the training rows."""
        judge = judge_of(self._objective)
        if judge is None or "bound" not in judge.columns or not self.history or dataset.dynamic:
            return []
        rows, scale = (held, scale) if held is not None else (dataset.train, dataset.scale)
        rows = rows[:: -(-len(rows) // MOST_ROWS)]
        bounds = Evaluator(self.model, resident(self.model, rows, scale), seed=self.config.seed).run()[:, 0]
        course = self.evaluations if held is not None else self.history
        near = [row for row in self.history if row["step"] <= trainer.step] or self.history  # up to the best step
        last = near[-max(1, window(trainer.step) // HISTORY_EVERY) :]
        judged = Judged(
            model=self.model,
            rows=rows,
            bounds=bounds,
            name="held-out" if held is not None else "training",
            train=dataset.train,
            train_bound=float(np.mean([row["bound"] for row in last])),
            steps=trainer.step,
            course=np.array([[row["step"], row["bound"]] for row in course]),
            scale=scale,
            train_scale=dataset.scale,
            steady=trainer.settings.schedule.steady,
            paper_start=self.config.initial == "normal",
            best_step=self.best_step,
        )
        return [in_python(line) for line in remarks(judged).lines]

    @property
    def units(self) -> Units | None:
        """Shift and spread (D,) by which the model reads its data where their columns were standardized, else None.

        Rows go in and come out in the data's own units, and so do densities.
        """
        return self.model.likelihood.units

    @property
    def best_step(self) -> int | None:
        """The step with the best held-out bound, which the model holds after a fit that held rows out; else None."""
        return self._best.step if self._best is not None else None

    def _accepts(self, dataset: Dataset) -> Given:
        """How rows are given from now on; DataError for data that the model as it was first fit cannot reach."""
        found = Given.of(dataset)
        if dataset.scale != 1 and dataset.train.dtype.kind == "f":
            warn(f"scale={dataset.scale:.6g} of float rows: floats that come later are read as they are: multiply them")
        if self._model is None or found.low is None or found.high is None:
            return found
        if self._model.architecture.dim != dataset.dim:
            raise DataError(f"data of {dataset.dim} columns; the model has {self._model.architecture.dim}")
        known = self._facts.given
        known.check(found.low, found.high, "the training data")
        settled = self._open and not self._likelihood.any_unit
        if settled and not (found.low >= -ROUNDING and found.high <= 1 + ROUNDING):
            raise DataError(
                f"the training data: values between {found.low:g} and {found.high:g}; the data of the first fit lie in "
                "[0, 1] and the decoder's means with them: make a model for these data, or one with "
                'decoder_options={"mean": "linear"} for both'
            )
        if self._likelihood.support.kind == "real":
            check_squares(dataset.train, dataset.scale, self.units, self.config.dtype)
        if self._likelihood.support.kind == "real" and not self._facts.warnings:
            columns = columns_read(self._likelihood, dataset.train, dataset.train_scale)
            reach = max(float(np.abs(columns.mean).max()), float(columns.spread.max()))
            if reach > FAR:  # few rows that are alike have small spreads, which do no harm
                what = f"a column has a mean or a spread of {reach:.3g}"
                warn(f"in the unit of the first fit, by which the model reads, {what}: make a model for these data")
        return known.after(found)

    def _hold_out(self, dataset: Dataset, held: HeldOut, given: Given) -> tuple[Dataset, Array | None, float]:
        """The data without the rows that are held out, these rows, and their scale."""
        if held.rows is not None:
            rows = self._as_rows(held.rows, "the validation data", given)
            if rows.shape[1] != dataset.dim:
                raise DataError(f"validation rows have {rows.shape[1]} columns and training rows {dataset.dim}")
            return dataset, rows, 1.0
        train, part = split_rows(dataset, replace(self.config, validation=held.fraction))
        if part is None:
            return dataset, None, 1.0
        return replace(dataset, train=train, train_labels=None, factors={}), part, dataset.scale

    def _train_on(self, dataset: Dataset, config: RunConfig, steps: int) -> Trainer:
        """A trainer of the model on these data, in the state of the training before, for so many steps more."""
        model, first = self.model, self._steps_done()
        text = config.lr_schedule or default_schedule(config)
        optimizer: Optimizer = registry.create("optimizer", config.optimizer, config.optimizer_options, Optimizer)
        threads = config.threads or choose_threads(model, config.batch_size * config.samples, model.backend.threads)
        settings = Settings(
            objective=self._objective,
            samples=config.samples,
            batch=config.batch_size,
            lr=learning_rate(config, optimizer),
            schedule=parse_schedule(text, first + steps, first),
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
        self._go_on(trainer)
        self._trainer, self._stored = trainer, None
        return trainer

    def _steps_done(self) -> int:
        if self._trainer is not None:
            return self._trainer.step
        return self._stored[0] if self._stored is not None else 0

    def _state(self) -> tuple[int, dict[str, Any], int | None]:
        """Step, parameters and the state that training goes on with, and the number of training rows."""
        step, arrays, count = self._stored or (0, {}, None)
        if self._trainer is not None:
            step, arrays, count = self._trainer.step, self._trainer.arrays(), self._trainer.count
        return step, {**arrays, "theta": self.model.backend.download(self.model.parameters.theta)}, count

    def _go_on(self, trainer: Trainer) -> None:
        """With the optimizer's and the objective's state of the training before, or of the file."""
        if self._trainer is None and self._stored is None:
            return
        step, kept, count = self._state()
        same = count in (None, trainer.count)  # data points; chains on others are of no use
        state = trainer.arrays()
        for name, fresh in state.items():
            of_data = name.startswith("objective/")
            if name != "theta" and name in kept and not (of_data and not (same and kept[name].shape == fresh.shape)):
                state[name] = kept[name]
        trainer.restore(step, state)

    def _dataset(self, data: Any, data_dir: str | Path | None, offline: bool) -> Dataset:
        if self._asked and not isinstance(data, str):
            name = self._asked[0]
            mend = (
                'aevb.binarize(x, "threshold") makes grey ones binary' if name == "binarize" else "scale them yourself"
            )
            raise UsageError(f"{name}: rows are taken as they are; {mend}, or give a data set's name")
        if isinstance(data, Dataset):
            train = as_rows(data.train, "the training data")
            test = as_rows(data.test, "the test data") if data.test is not None else None
            return sound(replace(data, train=train, test=test))
        config = self.config
        if isinstance(data, str):
            request = DataRequest(
                seed=config.seed,
                data_dir=path_of("data_dir", data_dir) if data_dir is not None else None,
                asked="data_dir",
                offline=offline,
                binarize=config.binarize,
                scale=config.scale,
                binary_support=self._likelihood.support.kind == "binary",
            )
            return load_data(registry.create("dataset", data, config.dataset_options), request)
        found = as_array(data, "the data")
        rows, shape, scale = as_rows(data if found.ndim == 0 else found), found.shape, 1.0
        if self._model is not None:
            scale = self._facts.given.of_rows(rows)
            rows = self._cast(rows, "the data") if scale == 1 else rows
        picture = (shape[1], shape[2]) if len(shape) == 3 else None
        return Dataset(name="array", train=rows, scale=scale, image_shape=picture)

    def _as_rows(self, x: Any, what: str = "the data", given: Given | None = None) -> Array:
        """Rows (N, D) of data in their own unit, checked; ``given``: how the rows of a fit under way are."""
        rows = as_rows(x, what)
        if self._model is not None and rows.shape[1] != self._model.architecture.dim:
            raise DataError(f"data of {rows.shape[1]} columns; the model has {self._model.architecture.dim}")
        given = given or self._facts.given
        scale = given.of_rows(rows)
        if line := given.remark(rows):
            warn(line)
        if scale != 1:
            kind = np.dtype(self.config.dtype if self._likelihood.units is None else np.float64)
            rows = rows.astype(kind) * kind.type(scale)
        elif self._model is not None:
            rows = self._cast(rows, what)
        self._likelihood.support.check(rows, what)
        given.check(float(rows.min()), float(rows.max()), what)
        return rows

    def _cast(self, rows: Array, what: str) -> Array:
        """In the model's precision, where that does not lose what the model reads."""
        if self._likelihood.units is not None:
            return rows  # the model reads them in units of its own, where float32 may be too coarse for the data's
        if rows.dtype == np.uint8:
            return rows
        with np.errstate(over="ignore"):
            cast = rows.astype(self.config.dtype)
        if np.isinf(cast).any() and np.isfinite(rows).all():
            most, kind = float(np.abs(rows).max()), self.config.dtype
            raise DataError(
                f"{what}: values reach {most:.3g}, beyond {kind}; rescale them, or make the model with standardize=True"
            )
        return cast

    def _build(self, dataset: Dataset, given: Given) -> Model:
        if self._model is None:
            self._facts = facts_of(dataset, dataset.train, self._likelihood, self.config)
            likelihood = self._facts.adapt(copy.deepcopy(self._likelihood))  # as it was, should the model not be made
            self._model, self._reason = _model(self.config, likelihood, dataset.dim)
            self._likelihood = likelihood
            initialize(self._model, dataset.train, dataset, self.config)
        self._facts = replace(self._facts, given=given)
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
        judge = judge_of(self._objective)
        if judge is None or "bound" not in judge.columns:
            raise UsageError(f"{what} needs q(z | x); the objective {self.config.objective} trains none{mend}")

    def bound(self, x: Any, *, objective: str = "elbo", samples: int = 1) -> float:
        """Mean bound of rows x (N, D) in nats a data point: L^B by default, with fixed noise."""
        return summary(self._evaluated("bound", x, objective, samples))["bound"]

    def bounds(self, x: Any, *, objective: str = "elbo", samples: int = 1) -> Array:
        """The bound (N,) of each of the rows x (N, D) in nats; ``bound`` is their mean."""
        return np.array(self._evaluated("bounds", x, objective, samples)[:, 0])

    def _evaluated(self, what: str, x: Any, objective: str, samples: int) -> npt.NDArray[np.float64]:
        """Bound, reconstruction and kl (N, 3) of each row."""
        self._needs_posterior(what)
        samples = whole("samples", samples, 1)
        if not isinstance(objective, str) or not chosen_objective(objective).is_bound:
            raise UsageError(f"the objective {objective} is not a bound; ask for elbo, elbo-mc or iwae")
        model, rows = self.model, self._as_rows(x)
        data = resident(model, rows)
        evaluator = Evaluator(
            model,
            data,
            objective_name=objective,
            samples=samples,
            seed=self.config.seed,
            batch=max(1, 500 // samples),
        )
        return evaluator.run()

    def log_likelihood(
        self, x: Any, *, method: str = "is", samples: int | None = None, temperatures: int | None = None
    ) -> Array:
        """log p(x) of each row (N,) in nats: low on average by ``is`` and ``ais``, high by ``hmc``.

        ``method``: "is", importance sampling with K = ``samples`` (5000); "ais", annealing by ``samples`` chains (16)
        through ``temperatures`` (100); "hmc", KW appendix D with ``samples`` draws a chain (500), NaN for rows that it
        refuses.
        """
        if not isinstance(method, str):
            raise UsageError(f"method={method!r}: {suggest('', METHODS)}")
        check_method(method)
        if METHODS[method].needs_encoder:
            self._needs_posterior("log_likelihood", mend='; use method="ais"')
        samples = whole("samples", samples, 1) if samples is not None else None
        temperatures = whole("temperatures", temperatures, 1) if temperatures is not None else None
        model, rows = self.model, self._as_rows(x)
        threads = self.config.threads or model.backend.threads
        data = resident(model, rows)
        with self._working():
            return estimate(
                method, model, data, samples=samples, temperatures=temperatures, seed=self.config.seed, threads=threads
            ).values

    def encode(self, x: Any) -> tuple[Array, Array]:
        """Mean and standard deviation (N, Z) of q(z | x) for rows x (N, D)."""
        self._needs_encoder("encode")
        model = self.model
        return apply.encode(model, self._as_rows(x))

    def decode(self, z: Any) -> Array:
        """Mean (N, D) of p(x | z) for z (N, Z)."""
        return apply.decode(self.model, self._as_latent(z))

    def spread(self, z: Any) -> Array:
        """Standard deviation (N, D) of each column under p(x | z) for z (N, Z), where the decoder offers it."""
        latent = self._as_latent(z)
        try:
            return apply.deviation(self.model, latent)
        except NotImplementedError as error:
            name = self.config.decoder if self._named else type(self._likelihood).__name__
            raise UsageError(f"spread: the decoder {name} offers none; take it of draw(z), many times") from error

    def draw(self, z: Any, *, seed: int | None = None) -> Array:
        """A draw x (N, D) ~ p(x | z) for each z (N, Z); seeds as in ``sample``."""
        latent = self._as_latent(z)
        number, first = self._numbers("draw", len(latent), seed)
        return apply.draw(self.model, latent, number, first)

    def reconstruct(self, x: Any) -> Array:
        """Mean (N, D) of p(x | z) at the mean of q(z | x)."""
        self._needs_encoder("reconstruct")
        model = self.model
        return apply.reconstruct(model, self._as_rows(x))

    def sample(self, n: int, *, seed: int | None = None) -> Array:
        """n draws (n, D): z ~ N(0, I), x ~ p(x | z).

        Calls without a seed go on in one stream of draws, that of the model's seed: ten and then ten are the twenty of
        one call. With ``seed`` a call gives the first n draws of that seed's stream.
        """
        count = whole("n", n, 1)
        number, first = self._numbers("sample", count, seed)
        return apply.sample(self.model, count, number, first)

    def _numbers(self, stream: str, count: int, seed: int | None) -> tuple[int, int]:
        """The seed, and the number of the first of ``count`` draws."""
        _ = self.model  # nothing is drawn without one
        if seed is not None:
            return seed_of(seed), 0
        with self._lock:
            first = self._drawn[stream]
            self._drawn[stream] += count
        return self.config.seed, first

    def _as_latent(self, z: Any) -> Array:
        latent, wanted = as_array(z, "z"), self.model.architecture.latent
        if latent.ndim != 2 or latent.shape[1] != wanted or not len(latent):
            raise DataError(f"z of shape {latent.shape}; (N, {wanted}) is needed")
        with np.errstate(over="ignore"):
            numbers = latent.astype(self.config.dtype)
        if not np.isfinite(numbers).all():
            raise DataError("z holds NaN, infinite or too large values")
        return numbers

    # Parameters ---------------------------------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, Array]:
        """A copy of every parameter by name, such as ``encoder.1.weight`` (inputs, outputs)."""
        model = self.model
        return {name: model.backend.download(p.theta.array) for name, p in model.parameters.named.items()}

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Put all parameters in place: the names and shapes of ``weights``, finite numbers; or DataError, and nothing.

        The optimizer's state stays as it is; ``best_step`` is None until rows are held out again.
        """
        model = self.model
        if not isinstance(weights, Mapping):
            raise DataError(f"weights of type {type(weights).__name__}; a dict from name to array is needed")
        flat = model.backend.download(model.parameters.theta)
        if unknown := [n for n in weights if n not in model.parameters.named]:
            raise DataError(f"unknown parameter '{unknown[0]}': {suggest(str(unknown[0]), model.parameters.named)}")
        for name, parameter in model.parameters.named.items():
            if name not in weights:
                raise DataError(f"'{name}' is missing: give all parameters, such as {{**model.weights, ...}}")
            try:
                with np.errstate(over="ignore"):
                    values = as_array(weights[name], "it").astype(model.dtype, casting="same_kind")
            except (DataError, TypeError, ValueError) as error:
                raise DataError(f"'{name}' is no array of floats: {error}") from error
            if values.shape != parameter.shape:
                raise DataError(f"'{name}' has shape {values.shape}; {parameter.shape} is needed")
            if not np.isfinite(values).all():
                raise DataError(f"'{name}' holds NaN, infinite or too large values")
            flat[parameter.lo : parameter.hi] = values.reshape(-1)
        model.parameters.theta[...] = model.backend.upload(flat)
        self._best = None

    # Storage ------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the model, atomically, as one HDF5 file; ``load`` reads it back, training state included."""
        if not self._named:
            raise UsageError("a decoder given as an object cannot be saved by name; register it as a plugin")
        model = self.model
        step, arrays, _ = self._state()
        meta = {
            "config": self.config.as_dict(),
            "dim": model.architecture.dim,
            **self._facts.meta(),
        }
        write(path_of("path", path), Checkpoint(step, {**arrays, **self._facts.arrays()}, meta), hash_file=False)

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to this process; the state of the last step in place of the trainer."""
        state = {name: value for name, value in self.__dict__.items() if name not in LIVE}
        if self._model is not None:
            state["_stored"] = self._state()
            state["_dim"] = self._model.architecture.dim
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """BackendError where the backend asked for does not run here."""
        dim = state.pop("_dim", None)
        self.__dict__.update(state)
        self._begin()
        self._model = self._trainer = None
        if dim is not None and self._stored is not None:
            self._place(dim, self._stored[1]["theta"])

    def __copy__(self) -> VAE:
        """A model of its own: two that share their parameters would train each other."""
        return copy.deepcopy(self)

    def _place(self, dim: int, theta: Array) -> None:
        """Parameters of a trained model onto a backend of this process; FileFormatError where they do not fit."""
        config = self.config
        model, self._reason = _model(config, self._likelihood, dim)
        if model.backend.name == "cpu":  # trained on a GPU, perhaps; it goes on as the CPU does
            self.config = replace(config, trainer="auto", graph=False, precision=config.dtype)  # type: ignore[arg-type]
        if theta.shape != (model.parameters.size,):
            raise FileFormatError(f"{theta.size} parameters; the configuration needs {model.parameters.size}")
        model.parameters.theta[...] = model.backend.upload(theta.astype(model.dtype))
        self._model = model


@spoken
def load(path: str | Path, which: Which | None = None) -> VAE:
    """A model from a file of ``save``, from a checkpoint, or from a run folder.

    Of a run it has the state of the best checkpoint where the run had validation rows, which chose it, else of the
    last; ``which="best"`` or ``"last"`` asks for one of them.
    """
    place = path_of("path", path)
    if which not in (None, "best", "last"):
        raise UsageError(f"which={which!r}: 'best', 'last' or None is needed")
    if place.is_dir():
        folder = place / "checkpoints"
        found = chosen(folder if folder.is_dir() else place, which, where=place)
        checkpoint = found.checkpoint
        for line in found.warnings:
            warn(line)
    elif which is not None:
        raise UsageError(f"which={which!r}: {place} is one state; leave it out, or name a run folder")
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
    check_state(checkpoint.arrays, str(place))
    try:
        vae._place(dim, theta)
    except FileFormatError as error:
        raise FileFormatError(f"{place} holds {error}") from error
    state = {n: a for n, a in checkpoint.arrays.items() if n.startswith(("optimizer/", "objective/"))}
    vae._stored = checkpoint.step, state, None
    return vae


ROUNDING = 1e-6  # by which data may leave [0, 1]
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
    blame.remember(decoder, blame.Origin("decoder", type(decoder).__name__))
    registry.declared(decoder, Likelihood)
    return copy.deepcopy(decoder)


def _widths(hidden: Any) -> tuple[int, ...]:
    """Widths of hidden layers from one number, several, or a text."""
    if isinstance(hidden, (np.ndarray, np.generic)):
        hidden = hidden.tolist()
    try:
        if isinstance(hidden, (str, int)):
            return parse_hidden(hidden)
        if isinstance(hidden, Sequence):
            return parse_hidden(list(hidden))
    except UsageError:
        pass
    raise UsageError(f"hidden={hidden!r}: a width such as 200, or several such as (200, 100), are needed; () for none")


def _model(config: RunConfig, likelihood: Likelihood, dim: int) -> tuple[Model, str | None]:
    """The model, and why it is on the CPU."""
    architecture = Architecture(dim, config.latent_dim, config.hidden, config.activation, config.dtype)
    backend, reason = choose(config.backend, config.threads)
    return Model(architecture, likelihood, backend), reason
