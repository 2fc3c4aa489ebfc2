"""The kernels of whole steps of the paper's models compile without spills, and read memory as they must."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from aevb_engine.cuda.fused import captured
from aevb_engine.cuda.persistent import NAME, joined, persistent
from aevb_engine.cuda.stages import check, stages
from tests.cuda_on_cpu.nvrtc import assembly, compile_for
from tests.cuda_on_cpu.steps import members_of, session
from tests.cuda_on_cpu.test_nvrtc import pytestmark  # noqa: F401

SMALL = {"dataset_options": {"train": 200, "test": 50}, "batch_size": 100, "steps": 10, "seed": 1}
MODELS: dict[str, dict[str, Any]] = {
    "784-100-2": {"dataset": "glyphs", "hidden": (100,), "latent_dim": 2, "optimizer": "adagrad"},
    "784-500-20": {"dataset": "glyphs", "hidden": (500,), "latent_dim": 20, "optimizer": "adam"},
    "560-200-5": {"dataset": "faces", "hidden": (200,), "latent_dim": 5, "optimizer": "adam"},
    "784-500-20-iwae": {
        "dataset": "glyphs",
        "hidden": (500,),
        "latent_dim": 20,
        "optimizer": "adam",
        "objective": "iwae",
        "samples": 5,
    },
}
MOST_STAGES = {"784-100-2": 6, "784-500-20": 6, "560-200-5": 7, "784-500-20-iwae": 8}
ALL = [(model, arch) for model in MODELS for arch in ("sm_80", "sm_90", "sm_100")]
OLDEST = "sm_75"
ALWAYS = ("784-500-20", "sm_90")  # on every change; other models and devices with `-m slow`


def _layers(model: str) -> tuple[Any, Any]:
    s = session({**SMALL, **MODELS[model]})
    step = members_of(s)
    layers = stages(step)
    check(layers, step)
    return layers, s.model.dtype


@pytest.mark.parametrize("model", MODELS)
def test_as_few_stages_as_dependences_allow(model: str) -> None:
    """A stage is a kernel, or a barrier of all blocks: one more would cost about a microsecond a step."""
    assert len(_layers(model)[0]) <= MOST_STAGES[model]


@pytest.mark.parametrize(
    ("model", "arch"),
    [
        *(c if c == ALWAYS else pytest.param(*c, marks=pytest.mark.slow) for c in ALL),
        *(pytest.param(model, OLDEST, marks=pytest.mark.slow) for model in MODELS),
    ],
)
def test_no_spills(model: str, arch: str) -> None:
    layers, dtype = _layers(model)
    fused, one = captured(layers, dtype), persistent(layers, dtype)
    used = compile_for(arch, fused.code)
    assert set(used) == {k.name for k in fused.kernels}
    used |= compile_for(arch, one.code)
    for name, u in used.items():
        assert (u.spills, u.stack) == (0, 0), name
        assert u.registers <= (255 if name == NAME else 128), f"{name}: {u.registers} registers"


@pytest.mark.slow
def test_two_programs_in_one_kernel_without_spills() -> None:
    """The registers are about those of the needier one alone (200 and 196), since programs are not inlined."""
    found = []
    for latent in (2, 10):
        s = session({**SMALL, **MODELS["784-500-20"], "latent_dim": latent})
        found.append(persistent(stages(members_of(s)), s.model.dtype))
    alone = compile_for("sm_90", found[1].code)[NAME]
    both = compile_for("sm_90", joined(found).code)[NAME]
    assert (both.spills, both.stack) == (0, 0)
    assert both.registers <= alone.registers + 16


def test_memory_is_read_as_it_must_be() -> None:
    """Nothing that another block wrote comes from the read-only cache, and no address is of unknown kind."""
    layers, dtype = _layers("784-100-2")
    text = assembly("compute_90", persistent(layers, dtype).code)
    kinds = Counter(re.findall(r"^\s*(?:@!?%p\d+ )?((?:ld|st|red|atom|membar|fence)[.\w:]*)", text, re.MULTILINE))
    assert kinds["ld.global.f32"] > 50
    assert not [k for k in kinds if ".nc" in k or "local" in k]
    assert not [k for k in kinds if not re.search(r"\.(global|shared|param)\b", k)]
    assert kinds["red.release.gpu.global.add.u32"] == len(layers)
    assert kinds["ld.acquire.gpu.global.u32"] >= len(layers)
