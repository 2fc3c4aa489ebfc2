"""Layers without hazards, and fused kernels that give the bits of their members one by one."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aevb_engine.cuda import module
from aevb_engine.cuda.fused import SYNC, captured, literal
from aevb_engine.cuda.launch import Parameter, Source, flat
from aevb_engine.cuda.lower import Text
from aevb_engine.cuda.source import generate
from aevb_engine.cuda.stages import Hazard, Member, check, members, stages
from aevb_engine.memory import area, overlap
from aevb_engine.operation import Rows
from tests.cuda_on_cpu.catalog import declared
from tests.cuda_on_cpu.runner import SCHEDULES, compile_text
from tests.cuda_on_cpu.steps import SMALL, Memory, members_of, session
from tests.gpu.test_parity import BASE, CASES, LEARNERS

compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


@pytest.mark.parametrize("case", [*CASES, "beta", "autoencoder"])
def test_no_hazard_within_a_layer(case: str) -> None:
    """Of every step the engine makes; no more layers than the longest chain, none more than launches."""
    step = members_of(session({**BASE, **{**CASES, **LEARNERS}[case]}))
    layers = stages(step)
    check(layers, step)
    assert len(layers) < len(step)


def _member(name: str, *given: Any) -> Member:
    source = generate(declared()[name])
    return Member(source, source.launch(*given))


def test_layers_keep_each_kind_of_hazard() -> None:
    a, b, c, d = np.zeros((4, 3, 5))
    read_after_write = [_member("scale", a, 2.0, b), _member("scale", b, 2.0, c)]
    write_after_read = [_member("scale", a, 2.0, b), _member("scale", c, 2.0, a)]
    write_after_write = [_member("scale", a, 2.0, b), _member("scale", c, 2.0, b)]
    for pair in (read_after_write, write_after_read, write_after_write):
        assert [len(layer) for layer in stages(pair)] == [1, 1]
        check(stages(pair), pair)
        for wrong in ([pair], [[pair[1]], [pair[0]]]):
            with pytest.raises(Hazard):
                check(wrong, pair)
    free = [_member("scale", a, 2.0, b), _member("scale", a, 2.0, c), _member("tanh", d, d)]
    assert [len(layer) for layer in stages(free)] == [3]
    with pytest.raises(Hazard, match="once"):
        check([free[:2]], free)


def test_a_planted_missing_edge_is_caught() -> None:
    """Each member of a real step moved one layer ahead of where its hazards let it be."""
    step = members_of(session({**BASE, **CASES["elbo-bernoulli-adam"]}))
    layers = stages(step)
    caught = 0
    for number in range(1, len(layers)):
        for member in layers[number]:
            moved = [[m for m in layer if m is not member] for layer in layers]
            moved[number - 1].append(member)
            try:
                check(moved, step)
            except Hazard:
                caught += 1
    assert caught >= len(layers) - 1  # one at least of every layer waits for the layer before


def test_the_layers_of_a_member_with_a_choice() -> None:
    """A small launch joins the layer with the least work; the number of layers stays that of the chain."""
    large = np.zeros((3, 800, 800))
    small, out = np.zeros((2, 3, 5))
    long = [_member("scale", large[0], 2.0, large[1]), _member("scale", large[1], 2.0, large[2])]
    tiny = _member("tanh", large[2][:3, :5], small)
    step = [*long, tiny, _member("scale", small, 1.0, small), _member("scale", out, 2.0, out)]
    layers = stages(step)
    check(layers, step)
    assert len(layers) == 4
    assert step[4] in layers[2]


def test_columns_of_one_matrix_do_not_overlap() -> None:
    head = np.zeros((6, 8), np.float32)
    left, right, middle = (area(head[:, s]) for s in (slice(0, 4), slice(4, 8), slice(3, 5)))
    assert not overlap(left, right)
    assert overlap(left, middle)
    assert overlap(middle, right)
    assert overlap(area(head), right)
    assert not overlap(area(head[:3]), area(head[3:]))
    rng = np.random.default_rng(1)
    block = np.zeros((4, 6, 10))
    for _ in range(300):  # never less than NumPy's exact answer
        views = []
        for _ in range(2):
            cuts = [sorted(rng.choice(n + 1, 2, replace=False)) for n in block.shape]
            views.append(block[tuple(slice(lo, hi) for lo, hi in cuts)])
        assert overlap(*(area(v) for v in views)) or not np.shares_memory(*views)


def test_what_has_no_text_is_named() -> None:
    s = session({**BASE, **LEARNERS["autoencoder-squared"]})
    with pytest.raises(TypeError, match="mean has no CUDA text"):
        members_of(s)


def test_other_blocks_are_refused() -> None:
    source = generate(declared()["scale"])
    x, y = np.zeros((2, 4, 5))
    assert members([Text(source, (x, 2.0, y))], Rows(0, 4))
    narrow = replace(source, shape=lambda sizes: ((1, 1, 1), (32, 4, 1)))
    with pytest.raises(TypeError, match="blocks of 32 x 4 x 1 threads, not of 256"):
        members([Text(narrow, (x, 2.0, y))], Rows(0, 4))


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("T", np.float32(0.1), 0.10000000149011612),
        ("T", np.float64(0.1), 0.1),
        ("T", np.float64(-5e-324), -5e-324),
        ("int", np.int32(-(2**31)), -(2**31)),
        ("long long", np.int64(2**40), 2**40),
        ("long long", np.int64(-(2**63)), -(2**63)),
        ("unsigned int", np.uint32(2**32 - 1), 2**32 - 1),
    ],
)
@compiler
def test_literals_are_exact(kind: str, value: Any, expected: float) -> None:
    text = literal(Parameter("const", "c", kind), value)
    bare = re.sub(r"\((T|long long|int)\)|u\b|ll\b", "", text)
    assert (float.fromhex(bare) if "x" in bare else eval(bare)) == expected
    with pytest.raises(ValueError, match="constant c is nan"):
        literal(Parameter("const", "c", "T"), np.float32("nan"))


# Execution --------------------------------------------------------------------------------------------------

RUNS: dict[str, dict[str, Any]] = {
    "elbo": {"dataset": "simulated-binary", "objective": "elbo", "optimizer": "adagrad"},
    "iwae": {"dataset": "simulated-normal", "objective": "iwae", "samples": 3, "precision": "float64"},
}
STEPS = 3


@compiler
@pytest.mark.parametrize("most_blocks", [1 << 16, 3])
@pytest.mark.parametrize("name", RUNS)
def test_fused_kernels_give_the_bits_of_their_members(name: str, most_blocks: int) -> None:
    s = session({**SMALL, **RUNS[name]})
    step = members_of(s)
    dtype = s.model.dtype
    layers = stages(step)
    fused = captured(layers, dtype, most_blocks)
    assert len(fused.kernels) == len(layers)
    assert all(k.grid[0] <= most_blocks for k in fused.kernels)
    one_by_one = compile_text(module([m.source for m in step], dtype))
    program = compile_text(fused.code)
    memory = Memory(s, step)
    for _ in range(STEPS):
        for member in step:
            one_by_one.run(member.launch)
    expected = memory.bytes()
    assert s.trainer.inner.clock.step.array[0] == STEPS
    assert np.isfinite(s.trainer.inner.clock.metrics.array[:STEPS]).all()
    for schedule in SCHEDULES:
        memory.restore()
        for _ in range(STEPS):
            for kernel in fused.kernels:
                program.call(kernel.name, kernel.grid, kernel.block, kernel.args, schedule)
        assert memory.bytes() == expected, schedule


@compiler
def test_a_member_in_the_wrong_layer_changes_the_result() -> None:
    """The comparison above has power: two layers made one give other bits in some schedule."""
    s = session({**SMALL, **RUNS["elbo"]})
    step = members_of(s)
    layers = stages(step)
    merged = [*layers[:-2], [*layers[-2], *layers[-1]]]
    with pytest.raises(Hazard):
        check(merged, step)
    program = compile_text(captured(merged, s.model.dtype).code)
    kernels = captured(merged, s.model.dtype).kernels
    memory = Memory(s, step)
    results = set()
    for schedule in SCHEDULES:
        memory.restore()
        for kernel in kernels:
            program.call(kernel.name, kernel.grid, kernel.block, kernel.args, schedule)
        results.add(memory.bytes())
    assert len(results) > 1


TURN = """\
extern "C" __global__ void __launch_bounds__(256) aevb_turn(const T* x_, int x_e, T* y_, int y_e, int size_e)
{
    __shared__ T part[256];
    const int e = blockIdx.x * blockDim.x + threadIdx.x;
    part[threadIdx.x] = x_[e * x_e];
    __syncthreads();
    y_[e * y_e] = part[255 - threadIdx.x];
}
"""


@compiler
def test_shared_memory_is_read_before_the_next_virtual_block() -> None:
    """Also where a text has no barrier of its own before it writes; without the barrier the comparison fails."""
    x = np.random.default_rng(1).standard_normal((2, 1024)).astype(np.float32)
    source = Source("aevb_turn", TURN, flat("e"))
    y = np.zeros_like(x)
    step = [Member(source, source.launch(a, b)) for a, b in zip(x, y, strict=True)]
    assert len(stages(step)) == 1
    fused = captured(stages(step), np.float32, 1)
    (kernel,) = fused.kernels
    right = []
    for text in (fused.code, fused.code.replace(SYNC, "")):
        for schedule in SCHEDULES:
            y[...] = 0
            compile_text(text).call(kernel.name, kernel.grid, kernel.block, kernel.args, schedule)
            right.append(bool((y.reshape(2, 4, 256) == x.reshape(2, 4, 256)[..., ::-1]).all()))
    assert all(right[:3])
    assert not all(right[3:])


def test_the_text_does_not_depend_on_the_seed() -> None:
    """Another run of the same model compiles nothing."""
    codes = set()
    for seed in (1, 2**40 + 5):
        s = session({**SMALL, **RUNS["elbo"], "seed": seed})
        codes.add(captured(stages(members_of(s)), s.model.dtype).code)
    assert len(codes) == 1


def test_a_pointer_is_passed_once() -> None:
    s = session({**SMALL, **RUNS["elbo"]})
    for kernel in captured(stages(members_of(s)), s.model.dtype).kernels:
        pointers = [(a.ctypes.data, a.dtype) for a in kernel.args if not isinstance(a, np.generic)]
        assert len(pointers) == len(set(pointers))
