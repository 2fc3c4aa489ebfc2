"""Every kernel text compiles for every generation of devices, without spills, within a limit of registers."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import pytest

from aevb_engine.cuda import module
from aevb_engine.cuda.launch import Source
from tests.cuda_on_cpu.catalog import engine, plugins
from tests.cuda_on_cpu.nvrtc import compile_for, library
from tests.cuda_on_cpu.products import texts, with_epilogues

REQUIRED = os.environ.get("AEVB_REQUIRE_NVRTC") == "1"
pytestmark = pytest.mark.skipif(not REQUIRED and library() is None, reason="needs `pip install nvidia-cuda-nvrtc`")

# Double precision is compiled for one architecture on every change, for the others with `-m slow`.
ARCHITECTURES = [
    *(("sm_80", np.float32), ("sm_90", np.float32), ("sm_100", np.float32), ("sm_90", np.float64)),
    *(pytest.param(a, np.float64, marks=pytest.mark.slow) for a in ("sm_80", "sm_100")),
    *(pytest.param("sm_75", dtype, marks=pytest.mark.slow) for dtype in (np.float32, np.float64)),
]
FILE = 65536  # registers of a multiprocessor: two blocks of 256 threads must fit


def test_the_compiler_is_there() -> None:
    assert library() is not None, "AEVB_REQUIRE_NVRTC=1, and nvidia-cuda-nvrtc is not installed"


@pytest.mark.parametrize(("arch", "dtype"), ARCHITECTURES)
@pytest.mark.parametrize("part", [engine, plugins])
def test_every_kernel_compiles(part: Any, arch: str, dtype: Any) -> None:
    check(part(), arch, dtype)


# The epilogues that need most of a device on every change, all the others with `-m slow`.
PRODUCTS = [
    pytest.param(
        *(part, arch, dtype, cores),
        marks=[] if (part, arch, dtype) == (with_epilogues, "sm_90", np.float32) else pytest.mark.slow,
    )
    for part in (texts, with_epilogues)
    for arch in ("sm_80", "sm_90", "sm_100")
    for dtype, cores in ((np.float32, False), (np.float32, True), (np.float64, False))
] + [pytest.param(part, "sm_75", np.float32, False, marks=pytest.mark.slow) for part in (texts, with_epilogues)]


@pytest.mark.parametrize(("part", "arch", "dtype", "tensor_cores"), PRODUCTS)
def test_every_product_compiles(part: Any, arch: str, dtype: Any, tensor_cores: bool) -> None:
    check(list(part(dtype, tensor_cores)), arch, dtype)


def check(sources: list[Source], arch: str, dtype: Any) -> None:
    used = compile_for(arch, module(sources, dtype))
    assert set(used) == {s.name for s in sources}
    for source in sources:
        name, u = source.name, used[source.name]
        assert re.search(r"__launch_bounds__\(256\b", source.text), name
        assert u.spills == 0, f"{name}: {u.spills} bytes of spills"
        assert u.stack == 0, f"{name}: {u.stack} bytes of local memory"
        assert u.registers * 512 <= FILE, f"{name}: {u.registers} registers"


def test_a_mistake_is_reported() -> None:
    with pytest.raises(AssertionError, match="undefined"):
        compile_for("sm_90", 'extern "C" __global__ void f(float* y) { y[0] = undefined_name; }')


def test_spills_are_seen() -> None:
    """The report is read rightly: a text made to spill does."""
    text = """extern "C" __global__ void __launch_bounds__(1024, 2) f(const float* x, float* y) {
    float v[96];
    for (int i = 0; i < 96; i++) v[i] = x[i * 1024 + threadIdx.x];
    for (int k = 0; k < 9; k++) for (int i = 0; i < 96; i++) v[i] = v[i] * v[(i * 7 + 5) % 96] + x[i];
    for (int i = 0; i < 96; i++) y[i * 1024 + threadIdx.x] = v[i];
}"""
    used = compile_for("sm_90", text)["f"]
    assert used.spills > 0
    assert used.stack > 0
