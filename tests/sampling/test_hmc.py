"""Hamiltonian Monte Carlo: the exact Gaussian posterior stays, leapfrog goes back, the energy error falls as the square
of the step, and planted errors are seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.kernels.hamiltonian import metropolis, select
from aevb_engine.model.model import Architecture, Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.operation import Buffer, Operation, Rows, custom, operation
from aevb_engine.sampling.hmc import JITTER, Hmc, StepSize
from aevb_engine.training.step import shares
from tests.evaluation.oracle import posterior

LINEAR = "gaussian linear per_dim none"
DIM = 6


class Chains:
    """L chains on each of B data points, outside a training step."""

    def __init__(
        self,
        likelihood: Any,
        *,
        hidden: tuple[int, ...] = (),
        latent: int = 2,
        batch: int = 3,
        samples: int = 4,
        leapfrog: int = 5,
        precision: str = "float64",
        threads: int = 1,
        weights: float = 0.5,
        jitter: float = JITTER,
    ) -> None:
        rng = np.random.default_rng(1)
        self.model = Model(Architecture(DIM, latent, hidden, precision=precision), likelihood, NumpyBackend(threads))
        self.model.parameters.theta[...] = weights * rng.standard_normal(self.model.parameters.size)
        self.ws = ws = Workspace(self.model.backend, batch, samples, self.model.dtype)
        self.batch, self.samples, self.threads = batch, samples, threads
        self.x = ws.one("x", DIM)
        top = {"binary": 2, "codes": likelihood.support.levels}.get(likelihood.support.kind)
        shape = (batch, DIM)
        self.x.array[...] = rng.standard_normal(shape) if top is None else rng.integers(0, top, shape)
        self.step, self.row = (ws.table(n, 1, dtype=np.int64) for n in ("step", "row"))
        clock = {"step": self.step, "row": self.row}
        self.hmc = Hmc(self.model, ws, self.x, leapfrog_steps=leapfrog, seed=3, jitter_width=jitter, **clock)
        self.run([*self.hmc.prepare(), *self.hmc.from_prior(), *self.hmc.start()])
        self.operations = self.hmc.transition()
        self.phases: Any = None

    def run(self, operations: list[Operation]) -> None:
        backend = self.model.backend
        backend.run([[backend.bind(operations, Rows(0, self.batch))]], 1)

    def move(self, times: int = 1) -> None:
        backend = self.model.backend
        if self.phases is None:
            self.phases = [[backend.bind(self.operations, part) for part in shares(self.batch, self.threads)]]
        for _ in range(times):
            backend.run(self.phases, 1)
            self.step.array[...] += 1

    def __getitem__(self, name: str) -> Any:
        return self.ws.buffers[name].array


@pytest.fixture
def linear(make_likelihood: Any) -> Callable[..., Chains]:
    return lambda **sizes: Chains(make_likelihood(LINEAR), **sizes)


# Invariance -------------------------------------------------------------------------------------------------

POINTS, CHAINS, MOVES = 2, 4000, 12


def moments_z(chains: Chains) -> np.ndarray:
    """Standardized errors of mean and covariance of the chains against the exact posterior, after some moves.

    The chains start at exact posterior samples and are independent, so each figure is normal with deviation 1 where the
    transition keeps the posterior.
    """
    chains.hmc.step_size.array[...] = 0.7  # acceptance near 0.8: the correction matters
    mean, covariance = posterior(chains.model, chains.x.array)
    root = np.linalg.cholesky(covariance)
    start = np.random.default_rng(4).standard_normal((POINTS, CHAINS, 2)) @ root.T + mean[:, None]
    chains.hmc.z.array[...] = start.reshape(-1, 2)
    chains.run(chains.hmc.start())
    chains.move(MOVES)
    z = chains.hmc.z.array.reshape(POINTS, CHAINS, 2)
    white = np.linalg.solve(root, (z - mean[:, None]).reshape(-1, 2).T).T.reshape(z.shape)
    first = white.mean(1) * np.sqrt(CHAINS)
    squares = ((white**2).mean(1) - 1) * np.sqrt(CHAINS / 2)
    cross = white.prod(2).mean(1) * np.sqrt(CHAINS)
    return np.abs(np.concatenate([first.ravel(), squares.ravel(), cross]))


LIMIT = 4.1  # of 10 standard normal figures: exceeded once in 2,400 draws


def invariance_chains(make: Callable[..., Chains], **more: Any) -> Chains:
    return make(batch=POINTS, samples=CHAINS, leapfrog=3, weights=0.7, **more)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_exact_posterior_stays(linear: Any, precision: str) -> None:
    chains = invariance_chains(linear, precision=precision)
    assert moments_z(chains).max() < LIMIT
    acceptance = chains["hmc accepted"].mean()
    assert 0.5 < acceptance < 0.97
    assert chains["hmc probability"].mean() == pytest.approx(acceptance, abs=0.03)  # 8,000 chains: 5 standard errors


def rows_of(chains: Chains, name: str) -> list[int]:
    return [i for i, op in enumerate(chains.operations) if op.name == name]


def without_gradient_sign(chains: Chains) -> None:
    """dz and p(x | z) disagree."""
    for i in reversed(rows_of(chains, "leapfrog_momentum")):
        dz = chains.operations[i].arguments[1]
        assert isinstance(dz, Buffer)
        chains.operations.insert(i + 1, _after(lambda a=dz.array: np.negative(a, out=a), dz))
        chains.operations.insert(i, _after(lambda a=dz.array: np.negative(a, out=a), dz))


def without_correction(chains: Chains) -> None:
    (i,) = rows_of(chains, "metropolis")
    accepted = chains.hmc.accepted
    chains.operations.insert(i + 1, _after(lambda: accepted.array.fill(1), accepted))


def without_prior(chains: Chains) -> None:
    """Energies without 1/2 |z|^2."""
    places = rows_of(chains, "square_energy")[1:]
    zero = Buffer("zero", np.zeros_like(chains.hmc.z.array), chains.samples)
    for i in places:
        op = chains.operations[i]
        assert op.kernel is not None
        chains.operations[i] = operation(op.kernel, zero, *op.arguments[1:])


def without_momentum(chains: Chains) -> None:
    """Energies without 1/2 |p|^2."""
    zero = Buffer("zero", np.zeros_like(chains.hmc.z.array), chains.samples)
    for i in rows_of(chains, "square_energy")[1:]:
        op = chains.operations[i]
        assert op.kernel is not None
        chains.operations[i] = operation(op.kernel, op.arguments[0], zero, *op.arguments[2:])


def _after(change: Callable[[], Any], buffer: Buffer) -> Operation:
    return custom("planted", lambda xp, rows: change, (buffer,), (buffer,))


PLANTED = {
    "sign of the gradient with no correction": (without_gradient_sign, without_correction),
    "no Metropolis correction": (without_correction,),
    "no prior term": (without_prior,),
    "no kinetic term": (without_momentum,),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_error_is_caught(planted: str, linear: Any) -> None:
    chains = invariance_chains(linear)
    for change in PLANTED[planted]:
        change(chains)
    assert moments_z(chains).max() > 2 * LIMIT


def test_a_wrong_sign_of_the_gradient_shows_in_the_energy(linear: Any) -> None:
    """The correction hides it from the moments: the trajectory no longer keeps the energy, whatever the step."""
    assert energy_error(linear(jitter=0), 0.01, 1.0) < 0.01
    wrong = linear(jitter=0)
    without_gradient_sign(wrong)
    assert energy_error(wrong, 0.01, 1.0) > 1


# The trajectory ---------------------------------------------------------------------------------------------


def energy_error(chains: Chains, step_size: float, time: float) -> float:
    """Largest change of H along one transition of about this length, before acceptance."""
    chains.hmc.leapfrog_steps = round(time / step_size)
    planted = any(op.name == "planted" for op in chains.operations)
    chains.operations = chains.hmc.transition()
    if planted:
        without_gradient_sign(chains)
    chains.phases = None
    chains.step.array[...] = 0
    chains.hmc.step_size.array[...] = step_size
    old = np.array(chains.hmc.logp.array)
    chains.move()
    before, after = chains["hmc energy"] - old, chains["hmc new energy"] - chains["logp"]
    return float(np.abs(after - before).max())


@pytest.mark.parametrize("likelihood", ["bernoulli", LINEAR, "codes"])
def test_energy_error_falls_as_the_square_of_the_step(likelihood: str, make_likelihood: Any) -> None:
    """Halving the step divides the error of a trajectory of fixed length by four, to its next order."""
    errors = [
        energy_error(Chains(make_likelihood(likelihood), hidden=(7,), weights=0.4, jitter=0), step, 0.8)
        for step in (0.04, 0.02, 0.01)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("likelihood", ["bernoulli", LINEAR])
def test_leapfrog_forward_flip_and_back(likelihood: str, make_likelihood: Any) -> None:
    chains = Chains(make_likelihood(likelihood), hidden=(7,), leapfrog=20)
    hmc, noise = chains.hmc, chains["hmc noise"]
    chains["hmc jittered step size"][...] = 0.13
    noise[...] = np.random.default_rng(5).standard_normal(noise.shape)
    z0, p0 = np.array(hmc.z.array), np.array(noise[:, :2])
    proposal, dproposal = (chains.ws.many(f"hmc {n}", 2) for n in ("proposal", "dproposal"))
    go = hmc.trajectory(proposal, dproposal)
    proposal.array[...] = z0
    chains.run(go)
    assert np.abs(proposal.array - z0).min(1).max() > 0.1
    noise[:, :2] *= -1
    hmc.dlogp.array[...] = dproposal.array
    chains.run(go)
    np.testing.assert_allclose(proposal.array, z0, atol=1e-11)  # rounding of 40 steps
    np.testing.assert_allclose(-noise[:, :2], p0, atol=1e-11)


def test_the_gradient_of_the_state_is_that_of_its_log_likelihood(make_likelihood: Any) -> None:
    """By central differences, after some transitions."""
    chains = Chains(make_likelihood("bernoulli"), hidden=(7,))
    chains.hmc.step_size.array[...] = 0.4
    chains.move(5)
    assert set(chains["hmc accepted"]) <= {0.0, 1.0}
    z, logp, dlogp = (np.array(chains[f"hmc {n}"]) for n in ("z", "logp", "dlogp"))
    for j in range(2):
        values = []
        for step in (1e-5, -1e-5):
            chains.hmc.z.array[...] = z
            chains.hmc.z.array[:, j] += step
            chains.run(chains.hmc.start())
            values.append(np.array(chains.hmc.logp.array))
        np.testing.assert_allclose(sum(values) / 2, logp, atol=1e-8)
        np.testing.assert_allclose((values[0] - values[1]) / 2e-5, dlogp[:, j], atol=1e-7)


# Acceptance -------------------------------------------------------------------------------------------------


def accept(gain: list[float], exponential: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Probability and acceptance where H(old) - H(new) is ``gain``: the old H is 0."""
    new = np.array(gain)
    zero, probability, accepted = (np.zeros_like(new) for _ in range(3))
    with np.errstate(all="ignore"):
        metropolis(
            *(np, zero, zero, new, zero, np.ones_like(new), np.full_like(new, exponential), zero.copy()),
            *(probability, accepted),
        )
    return probability, accepted


def test_metropolis() -> None:
    probability, accepted = accept([1.0, 0.0, -0.4, -0.6, -1000.0])
    np.testing.assert_allclose(probability, [1, 1, np.exp(-0.4), np.exp(-0.6), 0])
    assert accepted.tolist() == [1, 1, 1, 0, 0]


def test_what_is_not_finite_is_rejected() -> None:
    probability, accepted = accept([np.nan, np.inf, -np.inf])
    assert probability.tolist() == accepted.tolist() == [0, 0, 0]


def test_a_rejected_nan_leaves_no_trace() -> None:
    state = np.array([[1.0, 2.0], [3.0, 4.0]])
    select(np, np.array([0.0, 1.0]), np.array([[np.nan, np.inf], [5.0, 6.0]]), state)
    assert state.tolist() == [[1, 2], [5, 6]]


def test_steps_that_overflow_leave_the_state(linear: Any) -> None:
    chains = linear(hidden=(4,))
    start = np.array(chains.hmc.z.array)
    chains.hmc.step_size.array[:4] = 1e200
    chains.hmc.step_size.array[4:] = 0.05
    chains.move(3)
    assert not np.isfinite(chains["hmc proposal"][:4]).all()
    np.testing.assert_array_equal(chains.hmc.z.array[:4], start[:4])
    assert (chains.hmc.z.array[4:] != start[4:]).any(1).all()
    assert np.isfinite(chains.hmc.logp.array).all()
    assert np.isfinite(chains.hmc.dlogp.array).all()
    assert chains["hmc probability"][:4].max() == 0


def test_exponential_numbers(linear: Any) -> None:
    """-log u of 20,000 rows: mean and median of Exp(1), to 5 standard errors; the momentum is standard normal."""
    chains = linear(batch=2, samples=10_000, leapfrog=1)
    drawn = chains.operations[:3]
    chains.run(drawn)
    found = chains["hmc exponential"]
    assert found.mean() == pytest.approx(1, abs=5 / np.sqrt(20_000))
    assert (found < np.log(2)).mean() == pytest.approx(0.5, abs=2.5 / np.sqrt(20_000))
    momentum = chains["hmc noise"][:, :2]
    assert np.abs(momentum.mean(0)).max() < 5 / np.sqrt(20_000)
    assert np.abs(np.corrcoef(momentum.T, found)[2, :2]).max() < 5 / np.sqrt(20_000)


# Temperature, rows, streams, step sizes ---------------------------------------------------------------------


def test_temperature_zero_is_the_prior(linear: Any) -> None:
    """beta = 0 keeps N(0, I) whatever the data, and needs no gradient: 8,000 chains, 12 figures within 4.1."""
    chains = invariance_chains(linear)
    chains.hmc.beta.array[...] = 0
    chains.hmc.step_size.array[...] = 0.7
    chains.move(MOVES)
    z = chains.hmc.z.array.reshape(POINTS, CHAINS, 2)
    assert (np.abs(z.mean(1)) * np.sqrt(CHAINS)).max() < LIMIT
    assert (np.abs((z**2).mean(1) - 1) * np.sqrt(CHAINS / 2)).max() < LIMIT


def test_half_temperature_is_half_the_precision(linear: Any) -> None:
    """p(z) p(x | z)^beta of a linear-Gaussian model is N with the data's precision times beta."""
    chains = invariance_chains(linear)
    chains.hmc.beta.array[...] = np.repeat([0.5, 0.1], CHAINS)
    chains.hmc.step_size.array[...] = 0.5
    chains.move(60)
    z = chains.hmc.z.array.reshape(POINTS, CHAINS, 2)
    for b, beta in enumerate((0.5, 0.1)):
        mean, covariance = posterior(chains.model, chains.x.array, beta)
        white = np.linalg.solve(np.linalg.cholesky(covariance), (z[b] - mean[b]).T)
        assert (np.abs(white.mean(1)) * np.sqrt(CHAINS)).max() < LIMIT
        assert (np.abs((white**2).mean(1) - 1) * np.sqrt(CHAINS / 2)).max() < LIMIT


def test_threads_and_batches_change_nothing(make_likelihood: Any) -> None:
    """Rows are chains of their own: split over threads, or as part of a larger batch that starts at another row."""
    whole = Chains(make_likelihood("bernoulli"), hidden=(7,), batch=5)
    start = np.array(whole.hmc.z.array)
    whole.move(4)
    shared = Chains(make_likelihood("bernoulli"), hidden=(7,), batch=5, threads=3)
    shared.move(4)
    shared.model.backend.close()
    np.testing.assert_allclose(shared.hmc.z.array, whole.hmc.z.array, rtol=1e-12)
    part = Chains(make_likelihood("bernoulli"), hidden=(7,), batch=2)
    part.row.array[...] = 3
    part.x.array[...] = whole.x.array[3:]
    part.step.array[...] = 0
    part.run([*part.hmc.from_prior(), *part.hmc.start()])
    np.testing.assert_array_equal(part.hmc.z.array, start[12:])
    part.move(4)
    np.testing.assert_allclose(part.hmc.z.array, whole.hmc.z.array[12:], rtol=1e-12)


def test_transitions_of_one_step_have_noise_of_their_own(linear: Any) -> None:
    chains = linear()
    seen = []
    for index in (0, 1, 2):
        chains.run(chains.hmc.transition(index)[:1])
        seen.append(np.array(chains["hmc noise"]))
    assert min(np.abs(a - b).min() for a, b in [(seen[0], seen[1]), (seen[1], seen[2]), (seen[0], seen[2])]) > 0


def test_no_parameter_gradient_is_touched(linear: Any) -> None:
    chains = linear(hidden=(7,))
    chains.model.parameters.grad[...] = 7
    chains.move(3)
    assert (chains.model.parameters.grad == 7).all()


def test_a_transition_does_not_depend_on_what_buffers_held(linear: Any) -> None:
    """NaN in every buffer but the state and what the host fills."""
    kept = {"x", "step", "row", *(f"hmc {n}" for n in ("z", "logp", "dlogp", "step size", "beta", "one"))}
    results = []
    for poison in (False, True):
        chains = linear(hidden=(7,))
        if poison:
            for name, buffer in chains.ws.buffers.items():
                if name not in kept:
                    buffer.array[...] = np.nan
        chains.move()
        results.append(np.array(chains.hmc.z.array))
    np.testing.assert_array_equal(*results)


def test_declared_reads_and_writes(linear: Any) -> None:
    """What an operation leaves changed is what it declares to write."""
    chains = linear(hidden=(7,))
    chains.move(2)
    for op in chains.operations:
        before = {n: b.array.copy() for n, b in chains.ws.buffers.items()}
        chains.run([op])
        written = {b.storage for b in op.writes}
        changed = {n for n, b in chains.ws.buffers.items() if not np.array_equal(b.array, before[n], equal_nan=True)}
        assert changed <= written, op.name


def test_step_size_finds_its_acceptance(linear: Any) -> None:
    """Settled by 150 transitions; then the mean acceptance of 100 more is near 0.9 for every data point."""
    chains = linear(samples=40, latent=4, leapfrog=6, weights=0.8)
    sizes = StepSize(3, 0.01, decay=0.6)
    for _ in range(150):
        chains.hmc.step_size.array[...] = np.repeat(sizes.size, 40)
        chains.move()
        sizes.adapt(chains["hmc probability"].reshape(3, 40).mean(1))
    found = []
    for _ in range(100):
        chains.move()
        found.append(chains["hmc probability"].reshape(3, 40).mean(1))
    np.testing.assert_allclose(np.mean(found, 0), 0.9, atol=0.04)


def test_step_size_on_the_device(linear: Any) -> None:
    """``adapt`` is the host's rule with one step size for all rows."""
    chains = linear(samples=40, leapfrog=6)
    rate = chains.ws.table("rate", 1)
    chains.hmc.step_size.array[...] = 0.9
    sizes = StepSize(1, 0.9, rate=0.3)
    rate.array[...] = 0.3
    adapt = [chains.hmc.adapt(rate)]
    for _ in range(4):
        chains.move()
        sizes.adapt(np.array([chains["hmc probability"].mean()]))
        chains.run(adapt)
        np.testing.assert_allclose(chains.hmc.step_size.array, sizes.size[0], rtol=1e-12)
    assert abs(sizes.size[0] - 0.9) > 0.01


def test_a_fixed_trajectory_may_come_back(linear: Any) -> None:
    """Three steps of 0.5 are one period of a direction of this posterior: without jitter the chains stay there."""
    squares = []
    for jitter in (0.0, JITTER):
        chains = invariance_chains(linear, jitter=jitter)
        chains.hmc.beta.array[...] = 0.5
        chains.hmc.step_size.array[...] = 0.5
        chains.move(60)
        mean, covariance = posterior(chains.model, chains.x.array, 0.5)
        z = chains.hmc.z.array.reshape(POINTS, CHAINS, 2)[0]
        white = np.linalg.solve(np.linalg.cholesky(covariance), (z - mean[0]).T)
        squares.append((white**2).mean(1).max())
    assert squares[0] > 1.5
    assert squares[1] == pytest.approx(1, abs=5 * np.sqrt(2 / CHAINS))
    sizes = chains["hmc jittered step size"] / 0.5
    assert 1 - JITTER <= sizes.min() < 0.85 < 1.15 < sizes.max() <= 1 + JITTER


def test_no_leapfrog_step_is_refused(linear: Any) -> None:
    with pytest.raises(ValueError, match="at least one"):
        linear(leapfrog=0)
