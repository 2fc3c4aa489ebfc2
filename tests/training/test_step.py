"""The training step: reproducible bits, threads, precision, weight decay, dynamic binarization, and no allocation."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest

from aevb_engine.kernels.noise import Noise
from aevb_engine.operation import Rows
from aevb_engine.training.step import parts, shares
from aevb_plugins.optimizers.adagrad import Adagrad
from aevb_plugins.optimizers.momentum import Momentum
from aevb_plugins.optimizers.sgd import Sgd

BOUNDS = ["elbo", "elbo-mc", "iwae"]


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_again(name: str, threads: int, make_step: Any, make_likelihood: Any) -> None:
    runs = [make_step(name, make_likelihood("bernoulli"), samples=2, threads=threads) for _ in range(2)]
    first, second = (r.run(120) for r in runs)
    assert first.tobytes() == second.tobytes()
    assert runs[0].theta.tobytes() == runs[1].theta.tobytes()


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian linear affine -1", "scalar"])
@pytest.mark.parametrize("name", BOUNDS)
def test_threads_agree(name: str, likelihood: str, make_step: Any, make_likelihood: Any) -> None:
    runs = [
        make_step(name, make_likelihood(likelihood), samples=2, threads=t, precision="float64", hidden=(5, 4))
        for t in (1, 2, 3)
    ]
    metrics = [r.run(60) for r in runs]
    for run, values in zip(runs[1:], metrics[1:], strict=True):
        np.testing.assert_allclose(values, metrics[0], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(run.theta, runs[0].theta, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", BOUNDS)
def test_precisions_agree(name: str, make_step: Any, make_likelihood: Any) -> None:
    narrow, wide = (
        make_step(name, make_likelihood("bernoulli"), samples=2, precision=p, optimizer=Sgd())
        for p in ("float32", "float64")
    )
    np.testing.assert_allclose(narrow.run(100), wide.run(100), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(narrow.theta, wide.theta, rtol=1e-4, atol=1e-5)
    assert narrow.theta.dtype == np.float32


def test_a_block_run_in_pieces_is_the_same(make_step: Any, make_likelihood: Any) -> None:
    whole, pieces = (make_step("elbo", make_likelihood("bernoulli")) for _ in range(2))
    expected = whole.run(50)
    pieces.fill()
    for count in (1, 2, 30, 17):
        pieces.step.run(count)
    assert pieces.step.clock.metrics.array.tobytes() == expected.tobytes()
    assert pieces.theta.tobytes() == whole.theta.tobytes()
    assert pieces.step.clock.step.array[0] == 50


@pytest.mark.parametrize("name", BOUNDS)
def test_training_improves_the_bound(name: str, make_step: Any, make_likelihood: Any) -> None:
    run = make_step(name, make_likelihood("bernoulli"), samples=2, initial_sd=0.01, hidden=(8,), lr=0.03)
    bound = run.run(600)[:, 0]
    assert bound[0] == pytest.approx(-6 * np.log(2), abs=0.05)  # starts at fair coins
    assert bound[-100:].mean() > bound[0] + 0.4  # one of six columns is constant: log 2 is to be had


@pytest.mark.parametrize("name", BOUNDS)
def test_one_step_is_the_gradient_of_its_own_batch(
    name: str, make_step: Any, make_bound: Any, make_likelihood: Any
) -> None:
    """theta - lr (gradient of minus the mean bound + decay theta), with the batch and noise the step says it uses."""
    sizes: dict[str, Any] = {"hidden": (5,), "batch": 8, "samples": 2, "precision": "float64"}
    decay, lr = 0.02, 0.1
    for threads in (1, 2):
        run = make_step(
            name, make_likelihood("bernoulli"), optimizer=Sgd(), threads=threads, decay=decay, lr=lr, **sizes
        )
        before, data = run.theta.copy(), run.step.rows[0].reads[0].array
        metrics = run.run(1)
        bound = make_bound(name, make_likelihood("bernoulli"), dim=6, **sizes)
        bound.theta[...] = before
        bound.x[...] = data[run.order.rows(0, 1)[0]]
        eps = np.empty((1, 16, 2), np.float32)
        Noise(np, 5, "noise").normal(0, 0, eps)  # row b * L + l of step 0
        bound.eps[...] = eps[0]
        expected = before - lr * (bound.gradient() + decay * before)
        np.testing.assert_allclose(run.theta, expected, rtol=1e-12, atol=1e-13)
        assert metrics[0, 0] == pytest.approx(bound.forward().mean(), rel=1e-12)


def test_noise_and_batches_change_from_step_to_step(make_step: Any, make_likelihood: Any) -> None:
    run = make_step("elbo", make_likelihood("bernoulli"), samples=2)
    run.fill()
    eps, index = run.step.ws.buffers["eps"].array, run.step.ws.buffers["index"].array
    seen = []
    for t in range(3):
        run.step.run(1)
        drawn = np.empty((1, 16, 2), np.float32)
        Noise(np, 5, "noise").normal(t, 0, drawn)
        np.testing.assert_array_equal(eps, drawn[0])
        np.testing.assert_array_equal(index, run.order.rows(t, 1)[0])
        seen.append(eps.copy())
    assert (seen[0] != seen[1]).all()


def test_a_rewound_step_counter_draws_the_same_noise_again(make_step: Any, make_likelihood: Any) -> None:
    """Resuming writes the counter: noise drawn ahead must not be taken for another step's."""
    run = make_step("elbo", make_likelihood("bernoulli"))
    run.fill()
    eps, clock = run.step.ws.buffers["eps"].array, run.step.clock
    seen = {}
    for t in (0, 1, 90_000, 1, 0, 89_999):
        clock.step.array[0], clock.cursor.array[0] = t, 0
        run.step.run(1)
        drawn = np.empty((1, 8, 2), np.float32)
        Noise(np, 5, "noise").normal(t, 0, drawn)
        np.testing.assert_array_equal(eps, drawn[0])
        seen[t] = eps.copy()
    assert len({e.tobytes() for e in seen.values()}) == 4


def test_dynamic_binarization(make_step: Any, make_likelihood: Any) -> None:
    """Each step draws x ~ Bernoulli(intensity / 255) afresh, the same for any number of threads."""
    seen = []
    for threads in (1, 2):
        run = make_step("elbo", make_likelihood("bernoulli"), dynamic=True, threads=threads, dim=13, rows=8)
        intensity = next(op for op in run.step.rows if op.name == "gather_bernoulli").reads[0].array
        total, xs = np.zeros((8, 13)), []
        for _ in range(12):
            run.fill()
            for _ in range(50):
                run.step.run(1)
                x = run.step.ws.buffers["x"].array
                assert ((x == 0) | (x == 1)).all()
                total[run.step.ws.buffers["index"].array] += x
                xs.append(x.copy())
        run.step.backend.close()
        p = intensity / 255
        z = (total / 600 - p) / np.sqrt(p * (1 - p) / 600 + 1e-12)
        assert np.abs(z[(p > 0) & (p < 1)]).max() < 4.8  # 104 comparisons
        seen.append(np.array(xs))
    np.testing.assert_array_equal(*seen)


def test_weight_decay_enters_the_gradient_of_every_optimizer(make_step: Any, make_likelihood: Any) -> None:
    """A data gradient of zero cannot be had, but the difference of two runs' first gradients is decay * theta."""
    plain, decayed = (
        make_step("elbo", make_likelihood("bernoulli"), optimizer=Momentum(), decay=d, precision="float64")
        for d in (0.0, 0.5)
    )
    before = plain.theta.copy()
    plain.run(1)
    decayed.run(1)
    np.testing.assert_allclose(decayed.step.state[0] - plain.step.state[0], 0.5 * before, rtol=1e-10, atol=1e-14)


def test_shares_cover_the_batch() -> None:
    for batch, threads in ((8, 2), (7, 3), (3, 8), (1, 1)):
        covered = [r for s in shares(batch, threads) for r in range(s.lo, s.hi)]
        assert covered == list(range(batch))
        assert len(shares(batch, threads)) == min(batch, threads)
    assert shares(8, 2) == [Rows(0, 4), Rows(4, 8)]


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 50])
def test_parts_cover_every_parameter_row_in_order(threads: int, make_bound: Any, make_likelihood: Any) -> None:
    pieces = make_bound("elbo", make_likelihood("codes"), hidden=(6, 5)).program.pieces
    cut = parts(pieces, threads)
    assert len(cut) <= threads
    covered = [(p.parameter.name, r) for part in cut for p, lo, hi in part for r in range(lo, hi)]
    ordered = sorted(pieces, key=lambda p: p.parameter.lo)
    assert covered == [(p.parameter.name, r) for p in ordered for r in range(p.rows)]


# Allocation -------------------------------------------------------------------------------------------------


def _largest_rise(backend: Any, calls: list[Any]) -> int:
    """Bytes: the most that one call, run by the backend, holds above what was there before it."""
    rises, before = [0], [0]

    def start() -> None:
        tracemalloc.reset_peak()
        before[0] = tracemalloc.get_traced_memory()[0]

    def stop() -> None:
        rises[0] = max(rises[0], tracemalloc.get_traced_memory()[1] - before[0])

    backend.run([[[start, call, stop]] for call in calls], 1)
    return rises[0]


# NumPy copies broadcast, strided and converted operands through buffers of a fixed number of elements: each is one
# block, and a call may hold a few of them at once. Nothing else is allocated, whatever the batch.
BLOCK_BYTES = 4096
BLOCKS_AT_ONCE = 4


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "likelihood", "dynamic"),
    [
        ("elbo", "bernoulli", False),
        ("elbo", "bernoulli", True),
        ("elbo-mc", "gaussian sigmoid affine -1", False),
        ("iwae", "gaussian linear per_dim none", False),
        ("iwae", "laplace", False),
        ("beta", "bernoulli", False),
        ("wake-sleep", "bernoulli", False),
        ("wake-sleep", "gaussian sigmoid affine -1", False),
        ("wake-sleep", "gaussian linear per_dim none", False),
        ("mcem", "bernoulli", True),
    ],
)
def test_a_step_allocates_nothing_of_size(
    name: str, likelihood: str, dynamic: bool, precision: str, make_step: Any, make_likelihood: Any
) -> None:
    """No call holds more than a few blocks of 4 KiB, although every array of the batch is larger than all of them."""
    run = make_step(
        name,
        make_likelihood(likelihood),
        dim=100,
        hidden=(80,),
        latent=20,
        batch=100,
        samples=3,
        rows=150,
        dynamic=dynamic,
        precision=precision,
        optimizer=Adagrad(),
    )
    run.fill()
    run.step.run(3)
    calls = [call for phase in run.step.visit_phases for share in phase for call in share]
    tracemalloc.start()
    try:
        _largest_rise(run.step.backend, calls)
        assert _largest_rise(run.step.backend, calls) < BLOCKS_AT_ONCE * BLOCK_BYTES
        assert _largest_rise(run.step.backend, [lambda: np.ones(2048)]) >= BLOCKS_AT_ONCE * BLOCK_BYTES  # is seen
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow(make_step: Any, make_likelihood: Any) -> None:
    """1,000 steps leave nothing behind: less than a byte a step."""
    run = make_step("elbo", make_likelihood("bernoulli"), threads=2)
    run.fill()
    clock = run.step.clock
    phases = [*run.step.phases, [[lambda: clock.cursor.array.fill(0)]]]  # the same row of the tables again and again

    def level_after(steps: int) -> int:
        run.step.backend.run(phases, steps)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        for _ in range(3):
            warm = level_after(100)
        assert level_after(1000) - warm < 1000
    finally:
        tracemalloc.stop()
        run.step.backend.close()
