"""What many tests need: small likelihoods of every kind of head, and a bound that runs outside a training step."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.model.likelihood import Head, Likelihood, Support
from aevb_engine.model.model import Architecture, Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.objectives import objective
from aevb_engine.objectives.program import Pass
from aevb_engine.operation import Buffer, Operation, Rows
from aevb_engine.training.optimizer import Optimizer
from aevb_engine.training.order import Order
from aevb_engine.training.step import BLOCK, ResidentRows, TrainingStep
from aevb_plugins.decoders.bernoulli import Bernoulli
from aevb_plugins.decoders.gaussian import Gaussian
from aevb_plugins.optimizers.adam import Adam
from tests.patience import PAUSE, patience


def pytest_configure(config: pytest.Config) -> None:
    """A shell lets what it starts in its background ignore Ctrl-C; the tests, and the processes they start, do not."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a command says is wrapped unless a test asks for it; workers are told the width of the terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their argument: a compressed file holds the time, so its bytes differ between the workers."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def gone() -> Callable[..., bool]:
    """Whether a process ends in good time; one of this process's own has to be waited for, too."""

    def look(number: int) -> bool:
        end = time.monotonic() + patience()
        while True:
            try:
                state, parent = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                return True
            if state == "Z" and int(parent) != os.getpid():
                return True
            if time.monotonic() > end:
                return False
            time.sleep(PAUSE)

    return look


class Categorical(Likelihood):
    """Codes 0 .. K - 1 from K logits a column, (B, L, D, K), which arrive halved: a grouped head with a scale."""

    def __init__(self, codes: int = 4) -> None:
        self.heads = (Head("logits", group=codes, scale=0.5),)
        self.support = Support("codes", "mass", codes)
        self.scratch = 0

    def _log_softmax(self, xp: Any, logits: Any) -> Any:
        shifted = 2 * (logits - logits.max(-1, keepdims=True))
        return shifted - xp.log(xp.exp(shifted).sum(-1, keepdims=True))

    def _one_hot(self, xp: Any, x: Any) -> Any:
        return x[..., None] == xp.arange(self.support.levels)

    def log_prob(self, xp: Any, x: Any, *heads: Any, logp: Any, scratch: Sequence[Any]) -> None:
        logp[...] = (self._log_softmax(xp, heads[0]) * self._one_hot(xp, x)).sum((-1, -2))

    def log_prob_backward(self, xp: Any, x: Any, *heads: Any, dheads: Sequence[Any], scratch: Sequence[Any]) -> None:
        dheads[0][...] = 2 * (self._one_hot(xp, x) - xp.exp(self._log_softmax(xp, heads[0])))

    def mean(self, xp: Any, *heads: Any, mean: Any) -> None:
        mean[...] = xp.exp(self._log_softmax(xp, heads[0])) @ xp.arange(float(self.support.levels))

    def sample(self, xp: Any, *heads: Any, draw: Any, x: Any) -> None:
        below = xp.exp(self._log_softmax(xp, heads[0])).cumsum(-1)[..., :-1]
        x[...] = (draw.uniform(0)[..., None] >= below).sum(-1)


class ScalarGaussian(Likelihood):
    """N(x; mean, e^logvar) with one log-variance for all columns: a scalar head."""

    heads = (Head("mean"), Head("logvar", source="scalar"))
    support = Support("real", "density")
    scratch = 0

    def log_prob(self, xp: Any, x: Any, *heads: Any, logp: Any, scratch: Sequence[Any]) -> None:
        mean, logvar = heads
        logp[...] = -0.5 * ((x - mean) ** 2 * xp.exp(-logvar) + logvar + np.log(2 * np.pi)).sum(-1)

    def log_prob_backward(self, xp: Any, x: Any, *heads: Any, dheads: Sequence[Any], scratch: Sequence[Any]) -> None:
        mean, logvar = heads
        dheads[0][...] = (x - mean) * xp.exp(-logvar)
        dheads[1][...] = 0.5 * ((x - mean) ** 2 * xp.exp(-logvar) - 1)

    def mean(self, xp: Any, *heads: Any, mean: Any) -> None:
        mean[...] = heads[0]

    def sample(self, xp: Any, *heads: Any, draw: Any, x: Any) -> None:
        x[...] = heads[0] + xp.exp(0.5 * heads[1]) * draw.normal(0)


def _laplace() -> Likelihood:
    """The example plugin's likelihood, from its source."""
    source = Path(__file__).parents[1] / "plugins/examples/aevb-laplace/aevb_laplace/__init__.py"
    spec = importlib.util.spec_from_file_location("example_aevb_laplace", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    likelihood: Likelihood = module.Laplace()
    return likelihood


@pytest.fixture(scope="session")
def make_likelihood() -> Callable[[str], Likelihood]:
    """A likelihood by name: "gaussian MEAN VARIANCE FLOOR", bernoulli, laplace, scalar, codes."""

    def make(name: str) -> Likelihood:
        if name.startswith("gaussian"):
            _, mean, variance, floor = name.split()
            return Gaussian(mean=mean, variance=variance, min_logvar=None if floor == "none" else float(floor))
        return {"bernoulli": Bernoulli, "laplace": _laplace, "scalar": ScalarGaussian, "codes": Categorical}[name]()

    return make


class Bound:
    """One bound on one batch, run by hand: set ``theta``, ``x`` (B, D) and ``eps`` (B * L, Z), then ask."""

    def __init__(
        self,
        name: str,
        likelihood: Likelihood,
        *,
        dim: int = 5,
        latent: int = 2,
        hidden: tuple[int, ...] = (),
        batch: int = 3,
        samples: int = 1,
        activation: str = "tanh",
        precision: str = "float64",
        gradient: bool = True,
        seed: int = 0,
        options: Mapping[str, object] | None = None,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.model = Model(Architecture(dim, latent, hidden, activation, precision), likelihood, NumpyBackend(1))
        self.ws = Workspace(self.model.backend, batch, samples, self.model.dtype)
        self.batch_pass = Pass(self.model, self.ws, gradient)
        self.program = objective(name, options).build(self.batch_pass)
        self.batch, self.samples = batch, samples
        self._operations: list[Operation] = []
        self._calls: list[Callable[[], None]] = []
        self.theta = self.model.parameters.theta
        self.theta[...] = 0.3 * rng.standard_normal(self.theta.size)
        self.x = self.batch_pass.x.array
        self.eps = self.batch_pass.eps.array
        self.eps[...] = rng.standard_normal(self.eps.shape)
        top = {"binary": 2, "codes": likelihood.support.levels}.get(likelihood.support.kind)
        self.x[...] = rng.standard_normal(self.x.shape) if top is None else rng.integers(0, top, self.x.shape)

    def forward(self) -> np.ndarray:
        """The bound of each data point (B,), in nats."""
        operations = [*self.program.prepare, *self.program.rows]
        if self._operations != operations:  # bound again where a test changed the list
            self._operations = operations
            self._calls = [op.bind(np, Rows(0, self.batch)) for op in operations]
        with np.errstate(all="ignore"):
            for call in self._calls:
                call()
        return np.array(self["bound"])

    def loss(self) -> float:
        """Minus the mean bound."""
        return -float(self.forward().mean())

    def gradient(self) -> np.ndarray:
        """The derivative of the loss by the flat theta (P,)."""
        self.model.parameters.grad[...] = np.nan
        self.forward()
        for piece in self.program.pieces:
            piece.make(0, piece.rows).bind(np, Rows(0, self.batch))()
        return np.array(self.model.parameters.grad)

    def __getitem__(self, name: str) -> Any:
        return self.ws.buffers[name].array

    def parameter(self, name: str) -> Any:
        return self.model.parameters[name].theta.array


@pytest.fixture(scope="session")
def make_bound() -> type[Bound]:
    return Bound


class Stepper:
    """A training step on small random data, and the filling of its tables block by block."""

    def __init__(
        self,
        name: str,
        likelihood: Likelihood,
        *,
        optimizer: Optimizer | None = None,
        dim: int = 6,
        latent: int = 2,
        hidden: tuple[int, ...] = (5,),
        rows: int = 40,
        batch: int = 8,
        samples: int = 1,
        precision: str = "float32",
        threads: int = 1,
        decay: float = 0.0,
        dynamic: bool = False,
        lr: float = 0.01,
        initial_sd: float = 0.3,
        options: Mapping[str, object] | None = None,
        values: np.ndarray | None = None,
    ) -> None:
        rng = np.random.default_rng(7)
        self.optimizer = optimizer or Adam()
        self.lr = lr
        self.done = 0
        model = Model(Architecture(dim, latent, hidden, "tanh", precision), likelihood, NumpyBackend(threads))
        model.parameters.theta[...] = initial_sd * rng.standard_normal(model.parameters.size)
        top = {"binary": 2, "codes": likelihood.support.levels}.get(likelihood.support.kind)
        data = rng.standard_normal((rows, dim)) if top is None else rng.integers(0, top, (rows, dim))
        if top is not None:
            data[:, 0] = 1  # something to learn
        if dynamic:
            data = rng.integers(0, 256, (rows, dim))
        if values is not None:
            data = values
        resident = data.astype(model.dtype if top is None else np.uint8)
        self.theta = model.parameters.theta
        self.step = TrainingStep(
            model,
            self.optimizer,
            ResidentRows(Buffer("data", resident), dynamic=dynamic),
            objective_name=objective(name, options),
            batch=batch,
            samples=samples,
            seed=5,
            decay=decay,
            threads=threads,
        )
        self.order = Order(1, rows, batch, self.step.objective.updates)

    def fill(self, count: int = BLOCK) -> None:
        """The tables of the next block of steps."""
        clock = self.step.clock
        clock.orders.array[:count] = self.order.rows(self.done, count)
        clock.cursor.array[:] = 0
        for i in range(count):
            clock.rates.array[i] = self.step.coefficients(self.done + i + 1, self.lr)
        self.done += count

    def run(self, steps: int) -> np.ndarray:
        """Train; the metrics (steps, 3): bound, reconstruction, kl."""
        out = []
        while steps:
            count = min(steps, BLOCK)
            self.fill(count)
            self.step.run(count, self.done - count)
            out.append(np.array(self.step.clock.metrics.array[:count]))
            steps -= count
        self.step.backend.close()
        return np.concatenate(out)


@pytest.fixture(scope="session")
def make_step() -> type[Stepper]:
    return Stepper
