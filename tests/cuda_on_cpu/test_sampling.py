"""A transition of Hamiltonian Monte Carlo as it is launched on a GPU, its texts executed on the CPU."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.cuda import module
from aevb_engine.cuda.lower import Product, Text, lower
from aevb_engine.model.model import Architecture, Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.operation import Operation, Rows
from aevb_engine.sampling.hmc import Hmc
from aevb_plugins.decoders.bernoulli import Bernoulli
from aevb_plugins.decoders.gaussian import Gaussian
from tests.cuda_on_cpu.runner import compile_text

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

BATCH, CHAINS, DIM = 3, 4, 6


def launched(operations: list[Operation]) -> int:
    """Run as the GPU backend would; how many operations have no text and ran as array code."""
    items = lower(operations)
    program = compile_text(module([i.source for i in items if isinstance(i, Text)], np.float64))
    rest = 0
    for item in items:
        if isinstance(item, Text):
            program.run(item.source.launch(*item.arrays(Rows(0, BATCH))), "forward")
        elif isinstance(item, Product):
            np.matmul(*(b.array for b in (item.x, item.weight)), out=item.y.array)
        else:
            item.bind(np, Rows(0, BATCH))()
            rest += item.name not in ("affine_backward_data",)
    return rest


def plain(operations: list[Operation]) -> int:
    """Run as array code."""
    for op in operations:
        op.bind(np, Rows(0, BATCH))()
    return 0


@pytest.mark.parametrize("decoder", [Bernoulli(), Gaussian(mean="linear", variance="per_dim")], ids=lambda d: d.summary)
def test_transitions(decoder: Any) -> None:
    """The same chains to rounding, accepted and rejected alike, and nothing but products outside texts."""
    states = []
    for run in (plain, launched):
        rng = np.random.default_rng(1)
        model = Model(Architecture(DIM, 2, (7,), precision="float64"), decoder, NumpyBackend(1))
        model.parameters.theta[...] = 0.7 * rng.standard_normal(model.parameters.size)
        ws = Workspace(model.backend, BATCH, CHAINS, model.dtype)
        x, step, row = ws.one("x", DIM), ws.table("step", 1, dtype=np.int64), ws.table("row", 1, dtype=np.int64)
        x.array[...] = rng.integers(0, 2, x.array.shape)
        row.array[...] = 5
        hmc = Hmc(model, ws, x, leapfrog_steps=3, seed=9, step=step, row=row)
        hmc.step_size.array[...] = 0.5
        hmc.beta.array[...] = rng.uniform(0, 1, hmc.beta.array.shape)
        assert run([*hmc.prepare(), *hmc.from_prior(), *hmc.start()]) == 0
        accepted = []
        for i in range(6):
            step.array[...] = i
            assert run(hmc.transition(i % 2)) == 0
            accepted.append(np.array(hmc.accepted.array))
        states.append([np.array(b.array) for b in (hmc.z, hmc.logp, hmc.dlogp, hmc.probability)])
        assert 0.2 < np.mean(accepted) < 1
    for one, other in zip(*states, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
