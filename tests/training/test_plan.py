"""Which path the steps take, by option and by measured size, and how long a block may be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aevb_engine import VAE
from aevb_engine.cuda.measured import Figure, fastest
from aevb_engine.errors import DataError, UsageError
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.session import prepare
from aevb_engine.training import loop
from aevb_engine.training.loop import RESPONSE, Progress, fit
from aevb_engine.training.plan import PRODUCTS, choose_plan
from aevb_engine.training.step import block_length

GPU: Any = SimpleNamespace(name="gpu", tf32=True)
TABLE = tuple(
    Figure(path, macs, us)
    for path, macs, us in (
        ("eager", 10**6, 400.0), ("eager", 10**9, 4000.0),
        ("graph", 10**6, 20.0), ("graph", 10**9, 8000.0),
        ("persistent", 10**6, 10.0), ("persistent", 10**7, 100.0),
    )
)  # fmt: skip


def test_without_measurements_every_step_is_eager() -> None:
    assert fastest(10**6) == fastest(1) == fastest(10**12) == "eager"
    assert choose_plan("auto", False, "float32", GPU).path == "eager"


def test_the_fastest_measured_path_is_taken() -> None:
    """At 10^7.5 the graph is interpolated to 20 x 400^(1/2) = 400 us, the eager path to 400 x 10^(1/2) = 1265 us."""
    assert fastest(10**6, table=TABLE) == "persistent"
    assert fastest(100, table=TABLE) == "persistent"  # no slower than the smallest measured
    assert fastest(int(10**7.5), table=TABLE) == "graph"  # the persistent path was not measured there
    assert fastest(10**9, table=TABLE) == "eager"
    assert fastest(10**10, table=TABLE) == "eager"  # beyond what was measured
    assert fastest(10**6, "tf32", TABLE) == "eager"  # nothing was measured with these products
    near = (Figure("eager", 10**6, 100.0), Figure("graph", 10**6, 99.0))
    assert fastest(10**6, table=near) == "eager"  # within the noise


def test_a_choice_of_the_user_is_kept() -> None:
    assert choose_plan("persistent", False, "tf32", GPU).path == "persistent"
    assert choose_plan("persistent", False, "tf32", GPU).products == "tf32"
    assert choose_plan("graph", False, "float64", GPU).strict == ""
    assert "--graph" in choose_plan("auto", True, "float32", GPU).strict
    assert "trainer graph" in choose_plan("graph", False, "float32", GPU, resumed=True).strict
    assert set(PRODUCTS.values()) == {"fp32", "tf32"}


@pytest.mark.parametrize(
    ("options", "message", "python"),
    [
        ({"trainer": "graph"}, "--trainer graph: the CPU has one way", '^trainer="graph": the CPU has one way'),
        ({"trainer": "eager"}, "--trainer eager: the CPU has one way", '^trainer="eager": the CPU has one way'),
        ({"graph": True}, "--graph: the CPU has one way", "^graph=True: the CPU has one way"),
        ({"precision": "tf32"}, "--precision tf32: only a GPU has TF32", '^precision="tf32": only a GPU has TF32'),
    ],
)
def test_the_cpu_refuses_what_only_a_gpu_has(options: dict[str, Any], message: str, python: str) -> None:
    with pytest.raises(UsageError, match=message):
        prepare(RunConfig(backend="cpu", **options))
    with pytest.raises(UsageError, match=python):
        VAE(backend="cpu", **options)


def test_graph_excludes_the_other_trainers() -> None:
    assert RunConfig(graph=True, trainer="graph").graph
    with pytest.raises(UsageError, match="--graph and --trainer persistent exclude each other"):
        RunConfig(graph=True, trainer="persistent")
    with pytest.raises(DataError, match="trainer"):
        RunConfig.from_mapping({"trainer": "fast"}, "file.toml")


def test_lengths_of_blocks() -> None:
    assert [block_length(path, 600) for path in ("eager", "graph", "persistent")] == [50, 500, 600]
    assert [block_length("persistent", epoch) for epoch in (3, 5000, 10**6)] == [500, 5000, 5000]


def test_long_blocks_end_within_the_response_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 1 ms in blocks of at most 5000: the first has 50 steps, the others as many as 0.2 s hold."""
    taken: list[int] = []
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(loop, "time", clock)

    class Fake:
        step, block = 0, 5000
        objective = SimpleNamespace(warmup=0)

        def advance(self, steps: int) -> Any:
            taken.append(steps)
            clock.now += 1e-3 * steps
            self.step += steps
            return np.zeros((steps, 6))

    listener: Any = SimpleNamespace(steps=lambda rows: None, evaluated=lambda *a: None, stop=lambda: False)
    trainer: Any = Fake()
    fit(trainer, Progress(), total=400, eval_every=1000, evaluate=None, until_converged=False, listener=listener)
    assert sum(taken) == 400
    assert taken[0] == 50
    assert 0.99 * RESPONSE / 1e-3 <= max(taken[1:]) <= RESPONSE / 1e-3
