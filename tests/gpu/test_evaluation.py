"""Evaluation on the GPU backend: the numbers of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from aevb_engine.evaluation.latent import latent_use
from aevb_engine.evaluation.report import evaluate
from aevb_engine.evaluation.subject import Plan
from aevb_engine.evaluation.variance import ESTIMATORS, EncoderGradient
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.evaluate import subject_of
from aevb_engine.experiment.session import Session, prepare
from aevb_engine.operation import Buffer
from aevb_engine.training.step import ResidentRows

OPTIONS = {"train": 60, "test": 9}


def sessions(gpu: str) -> tuple[Session, Session]:
    made = []
    for backend in ("cpu", "gpu"):
        config: dict[str, Any] = {"dataset": "simulated-binary", "dataset_options": OPTIONS, "initial": "glorot"}
        made.append(prepare(RunConfig(**config, hidden=(8,), latent_dim=3, batch_size=20, backend=backend)))  # type: ignore[arg-type]
        theta = np.random.default_rng(1).standard_normal(made[0].model.parameters.size).astype(np.float32)
        made[-1].model.parameters.theta[...] = made[-1].backend.upload(0.3 * theta)
    return made[0], made[1]


def rows(session: Session) -> ResidentRows:
    return ResidentRows(Buffer("data", session.backend.upload(session.dataset.test)))


def test_latent_dimensions(gpu: str) -> None:
    cpu, device = (latent_use(s.model, rows(s), batch=4) for s in sessions(gpu))
    np.testing.assert_allclose(device.kl, cpu.kl, rtol=1e-4)
    np.testing.assert_allclose(device.variance, cpu.variance, rtol=1e-4)


def test_gradient_estimators(gpu: str) -> None:
    """The same rows, the same noise, the same gradient, by all three."""
    for name in ESTIMATORS:
        cpu, device = (EncoderGradient(s.model, rows(s), name, 6, 2, seed=3).draw(5, 7) for s in sessions(gpu))
        np.testing.assert_allclose(device, cpu, atol=1e-4 * float(np.abs(cpu).max()), err_msg=name)


def test_report(gpu: str) -> None:
    cpu, device = (evaluate(subject_of(s, "test"), Plan(samples={"is": 30})) for s in sessions(gpu))
    for of in ("bound", "truth"):
        np.testing.assert_allclose(device[of]["value"], cpu[of]["value"], atol=1e-3)
    np.testing.assert_allclose(device["estimates"][0]["value"], cpu["estimates"][0]["value"], atol=1e-3)
    assert device["latent"]["active"] == cpu["latent"]["active"]
