"""The GPU backend against the CPU backend: the same noise bits, gradients, bounds and trained parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.session import Session, prepare

BASE: dict[str, Any] = {
    "hidden": (16,),
    "latent_dim": 3,
    "batch_size": 20,
    "steps": 50,
    "seed": 3,
    "dataset_options": {"train": 200, "test": 50},
}
CASES: dict[str, dict[str, Any]] = {
    "elbo-bernoulli-adam": {"dataset": "simulated-binary"},
    "elbo-glyphs-sgd": {"dataset": "glyphs", "optimizer": "sgd", "latent_dim": 2},
    "elbo-linear-rmsprop": {"dataset": "simulated-binary", "hidden": (), "optimizer": "rmsprop"},
    "elbo-decay-momentum": {"dataset": "simulated-normal", "weight_decay": 1.0, "optimizer": "momentum"},
    "elbo-nesterov": {
        "dataset": "simulated-normal",
        "optimizer": "momentum",
        "optimizer_options": {"nesterov": True},
        "activation": "softplus",
    },
    "elbo-faces-sigmoid": {"dataset": "faces", "samples": 2},
    "elbo-per-dim": {"dataset": "simulated-normal", "decoder_options": {"variance": "per_dim", "min_logvar": None}},
    "elbo-mc-relu-adagrad": {
        "dataset": "simulated-normal",
        "objective": "elbo-mc",
        "samples": 2,
        "hidden": (12, 8),
        "activation": "relu",
        "optimizer": "adagrad",
    },
    "iwae-bernoulli": {"dataset": "simulated-binary", "objective": "iwae", "samples": 5},
    "iwae-gaussian": {"dataset": "simulated-normal", "objective": "iwae", "samples": 3},
    "elbo-standardized": {"dataset": "simulated-normal", "standardize": "always"},
    "elbo-double": {"dataset": "simulated-normal", "precision": "float64"},
}
LEARNERS: dict[str, dict[str, Any]] = {
    "beta": {
        "dataset": "simulated-binary", "objective": "beta", "objective_options": {"beta": 2.0, "warmup": 20},
    },
    "autoencoder": {"dataset": "simulated-normal", "objective": "autoencoder"},
    "autoencoder-squared": {
        "dataset": "faces", "objective": "autoencoder", "objective_options": {"loss": "squared"},
    },
    "wake-sleep-bernoulli": {"dataset": "simulated-binary", "objective": "wake-sleep", "samples": 2},
    "wake-sleep-gaussian": {"dataset": "simulated-normal", "objective": "wake-sleep"},
    "mcem": {"dataset": "simulated-binary", "objective": "mcem", "objective_options": {"leapfrogs": 3}},
}  # fmt: skip
# What runs as array code on the device: without a text so far.
ARRAY_CODE = {"mean", "mean_backward", "sample", "count_visits", "adapt_step_size", "keep_chains"}


def session(backend: str, case: str, **more: Any) -> Session:
    return prepare(RunConfig(backend=backend, **{**BASE, **{**CASES, **LEARNERS}[case], **more}))  # type: ignore[arg-type]


def first_gradient(s: Session) -> Any:
    s.trainer.advance(1)
    return s.backend.download(s.model.parameters.grad)


@pytest.mark.parametrize("case", [*CASES, *LEARNERS])
def test_noise_gradient_bound(case: str, gpu: str) -> None:
    """Bits of the noise; the gradient to 1e-5 relative; the bound of every step and of the test set to 1e-3 nats."""
    cpu, device = session("cpu", case), session("gpu", case)
    theta = cpu.backend.download(cpu.model.parameters.theta)
    np.testing.assert_array_equal(theta, device.backend.download(device.model.parameters.theta))
    a, b = first_gradient(cpu), first_gradient(device)
    if not cpu.config.weight_decay:  # the CPU adds the decay to the gradient itself
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)
    for s in (cpu, device):
        assert s.trainer.step == 1
    eps = [s.backend.download(s.trainer.inner.ws.buffers["eps"].array) for s in (cpu, device)]
    np.testing.assert_array_equal(*eps)
    rows = [s.trainer.advance(40) for s in (cpu, device)]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-3, rtol=0)
    if cpu.test is not None:
        assert device.test is not None
        np.testing.assert_allclose(cpu.test.run(), device.test.run(), atol=1e-3, rtol=0)
    if device.test_k is not None:
        assert cpu.test_k is not None
        np.testing.assert_allclose(cpu.test_k.run(), device.test_k.run(), atol=1e-3, rtol=0)


def test_dynamic_binarization_draws_the_same_bits(gpu: str) -> None:
    """Each step draws its binary images in the gather; both backends draw the same."""
    from aevb_engine.data.dataset import Dataset
    from aevb_engine.operation import Buffer
    from aevb_engine.training.step import ResidentRows
    from aevb_engine.training.trainer import Settings, Trainer

    grey = np.random.default_rng(0).integers(0, 256, (40, 30)).astype(np.uint8)
    drawn = []
    for name in ("cpu", "gpu"):
        s = session(name, "elbo-bernoulli-adam")
        dataset = Dataset("grey", grey, (grey > 127).astype(np.uint8), dynamic=True)
        model = type(s.model)(s.model.architecture.__class__(30, 2, (8,)), s.model.likelihood, s.backend)
        model.parameters.initialize(0)
        data = ResidentRows(Buffer("data", s.backend.upload(dataset.train)), dynamic=True)
        trainer = Trainer(model, s.trainer.optimizer, data, Settings(batch=16, seed=5))
        trainer.advance(3)
        drawn.append(s.backend.download(trainer.inner.ws.buffers["x"].array))
    np.testing.assert_array_equal(*drawn)
    assert set(np.unique(drawn[0])) == {0.0, 1.0}


@pytest.mark.parametrize("case", ["elbo-bernoulli-adam", "iwae-gaussian", "beta", "wake-sleep-gaussian", "mcem"])
def test_two_runs_and_a_resumed_one_are_bit_identical(case: str, gpu: str) -> None:
    whole, again, resumed = (session("gpu", case) for _ in range(3))
    for s in (whole, again):
        s.trainer.advance(30)
    again.trainer.advance(0 + 1)
    whole.trainer.advance(1)
    first = session("gpu", case)
    first.trainer.advance(17)
    resumed.trainer.restore(17, first.trainer.arrays())
    resumed.trainer.advance(14)
    for s in (again, resumed):
        for name, array in whole.trainer.arrays().items():
            np.testing.assert_array_equal(array, s.trainer.arrays()[name])


def test_a_plugin_without_device_text_runs_as_array_code(gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bound, from array code on device arrays."""
    from aevb_plugins.decoders.bernoulli import Bernoulli
    from aevb_plugins.optimizers.adam import Adam

    with_text = session("gpu", "elbo-bernoulli-adam").trainer.advance(10)
    monkeypatch.setattr(Bernoulli, "cuda", None)
    monkeypatch.setattr(Adam, "cuda", None)
    without = session("gpu", "elbo-bernoulli-adam").trainer.advance(10)
    np.testing.assert_allclose(with_text, without, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_a_thousand_steps_of_the_large_model(gpu: str) -> None:
    """784-500-20: the bound after 1,000 steps within 1e-3 nats of the CPU run; on a device only."""
    if gpu == "double":
        pytest.skip("hours through the double")
    more = {"hidden": (500,), "latent_dim": 20, "batch_size": 100, "dataset_options": {"train": 5000, "test": 1000}}
    bounds = []
    for name in ("cpu", "gpu"):
        s = session(name, "elbo-glyphs-sgd", optimizer="adam", **more)
        for _ in range(20):
            s.trainer.advance(50)
        bounds.append(s.test.run()[:, 0].mean())
    assert abs(bounds[0] - bounds[1]) < 1e-3


def test_encode_decode_sample(gpu: str) -> None:
    """What is done with a trained model agrees on both backends."""
    from aevb_engine.evaluation import apply

    cpu, device = session("cpu", "elbo-glyphs-sgd"), session("gpu", "elbo-glyphs-sgd")
    x = cpu.dataset.test
    for a, b in zip(apply.encode(cpu.model, x), apply.encode(device.model, x), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    z = apply.prior(cpu.model, 7, 1)
    np.testing.assert_allclose(apply.decode(cpu.model, z), apply.decode(device.model, z), atol=1e-5)
    np.testing.assert_allclose(apply.deviation(cpu.model, z), apply.deviation(device.model, z), atol=1e-5)
    assert (apply.sample(cpu.model, 5) != apply.sample(device.model, 5)).mean() < 0.01
    assert (apply.draw(cpu.model, z, first=98) != apply.draw(device.model, z, first=98)).mean() < 0.01


@pytest.mark.parametrize("decoder", ["bernoulli", "gaussian"])
def test_the_public_model(gpu: str, decoder: str) -> None:
    """Fit with rows held out, draws, spreads and parameters, on both backends."""
    import aevb_engine as aevb

    x = (np.random.default_rng(0).random((60, 20)) < 0.3).astype(np.float32)
    found = []
    for backend in ("cpu", "gpu"):
        model = aevb.VAE(decoder, hidden=5, batch_size=20, backend=backend, seed=1, threads=1)
        model.fit(x, steps=60, validation=0.25, eval_every=20)
        model.set_weights(model.weights)
        model.fit(x, steps=10)
        z = np.zeros((3, 2))
        found.append([model.bounds(x), model.spread(z), model.decode(z), [r["bound"] for r in model.history]])
        assert model.draw(z).shape == (3, 20)
        assert model.sample(3).shape == (3, 20)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-2)


def test_importance_sampling(gpu: str) -> None:
    """The same samples, the same estimate, on both backends."""
    from aevb_engine.evaluation.importance import ImportanceSampler
    from aevb_engine.operation import Buffer
    from aevb_engine.training.step import ResidentRows

    found = []
    for name in ("cpu", "gpu"):
        s = session(name, "elbo-bernoulli-adam")
        rows = ResidentRows(Buffer("data", s.backend.upload(s.dataset.test[:9])))
        found.append(ImportanceSampler(s.model, rows, 30, seed=1).run().log_likelihood)
    np.testing.assert_allclose(*found, atol=1e-3)


# The step itself --------------------------------------------------------------------------------------------


def test_the_step_allocates_nothing_and_never_waits(double: Any) -> None:
    """Between two looks of the host a step launches, multiplies, and does nothing else."""
    s = session("gpu", "iwae-bernoulli")
    s.trainer.advance(2)
    before = dict(double.counts)
    s.trainer.inner.clock.cursor.array[...] = 0
    s.trainer.inner.run(20)
    changed = {k: double.counts[k] - before[k] for k in before}
    assert changed["reads"] == 0
    assert changed["allocations"] == 0
    assert changed["launches"] % 20 == 0
    assert changed["products"] == 20 * 11  # 4 forward, 3 for the data gradients, 4 for the weights
    int(s.trainer.inner.clock.cursor.array[0])  # the check can fail: a read is counted
    assert double.counts["reads"] == before["reads"] + 1


@pytest.mark.parametrize("case", LEARNERS)
def test_no_learner_waits_for_the_device(case: str, double: Any) -> None:
    """Also where a step runs array code: the host reads nothing between two blocks."""
    s = session("gpu", case)
    s.trainer.advance(2)
    before = double.counts["reads"]
    s.trainer.inner.clock.cursor.array[...] = 0
    s.trainer.inner.run(6, 2)
    assert double.counts["reads"] == before


@pytest.mark.parametrize("case", [*CASES, *LEARNERS])
def test_everything_is_lowered(case: str, double: Any) -> None:
    """No operation of the first-party plugins is left to array code."""
    from aevb_engine.cuda.lower import Product, Text, lower

    step = session("gpu", case).trainer.inner
    expected = PRODUCTS | (ARRAY_CODE if case in LEARNERS else set())
    for operations in (step.first, step.visit, *step.parameters, step.leave):
        for item in lower(operations):
            assert isinstance(item, (Text, Product)) or item.name in expected, item


PRODUCTS = {"affine_backward_data", "affine_backward_weight"}


def test_all_backends_of_a_process_share_one_stream(gpu: str) -> None:
    """Two streams would leave a model's copies unordered with another's steps."""
    first, second = session("gpu", "elbo-bernoulli-adam").backend, session("gpu", "elbo-bernoulli-adam").backend
    assert first.stream is second.stream  # type: ignore[attr-defined]
