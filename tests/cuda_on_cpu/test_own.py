"""A whole step of texts alone, launch by launch, against the step of the CPU."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from aevb_engine.backend.numpy import NumpyBackend
from aevb_engine.cuda import module
from aevb_engine.cuda.lower import Text
from aevb_engine.cuda.own import own
from aevb_engine.model.model import Architecture, Model
from aevb_engine.model.workspace import Workspace
from aevb_engine.operation import Operation, Rows, operation
from tests.cuda_on_cpu.catalog import declared, likelihoods
from tests.cuda_on_cpu.guard import close
from tests.cuda_on_cpu.runner import SCHEDULES, Program, compile_text
from tests.gpu.conftest import load_double
from tests.gpu.test_parity import ARRAY_CODE, CASES, LEARNERS, session

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


@pytest.fixture(autouse=True, scope="module")
def _double() -> Iterator[None]:
    """The double in place of cupy while this file runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", load_double())
        yield


def whole(step: Any) -> list[Operation]:
    """A step's operations in order, the first on its batch."""
    return [*step.first, *step.visit, *(op for part in step.parameters for op in part), *step.leave]


@cache
def device(case: str, precision: str = "fp32") -> tuple[Any, list[Any]]:
    """A session and its step as texts."""
    s = session("gpu", case)
    return s, own(whole(s.trainer.inner), precision)


# 560 and 784 columns, which others of the same kind do without.
LONG = {"elbo-glyphs-sgd", "elbo-faces-sigmoid", "autoencoder-squared"}
EVERY = [pytest.param(c, marks=pytest.mark.slow) if c in LONG else c for c in (*CASES, *LEARNERS)]


@cache
def program(number: str, precision: str = "fp32", alone: str = "") -> Program:
    """The texts of all short cases in one module, since most are shared, or those of a long one."""
    cases = [alone] if alone else [*CASES, *LEARNERS] if precision == "fp32" else TENSOR_CASES
    chosen = [c for c in cases if _number(c) == number and (alone or c not in LONG)]
    sources = [item.source for c in chosen for item in device(c, precision)[1] if isinstance(item, Text)]
    texts = {s.name: s.text for s in sources}
    assert all(texts[s.name] == s.text for s in sources), "one name for two texts"
    return compile_text(module(sources, np.dtype(number)))


def _number(case: str) -> str:
    return str({**CASES, **LEARNERS}[case].get("precision", "float32"))


def take_over(s: Any, items: list[Any], compiled: Program, schedule: str = "forward") -> None:
    """The trainer runs the texts in place of its own step."""
    inner = s.trainer.inner
    everything = Rows(0, inner.ws.batch)
    calls = []
    for item in items:
        if isinstance(item, Text):
            launch = item.source.launch(*item.arrays(everything))
            calls.append(lambda launch=launch: compiled.run(launch, schedule))
        else:
            calls.append(item.bind(s.backend.xp, everything))
    inner.backend.run = lambda phases, times: [call() for _ in range(times) for call in calls]


def gradient(s: Any) -> Any:
    return np.asarray(s.backend.download(s.model.parameters.grad), np.float64)


@pytest.mark.parametrize("case", EVERY)
def test_step(case: str) -> None:
    """The gradient to 1e-5 relative, the bound of this step and of those after to 1e-3 nats."""
    cpu = session("cpu", case)
    s, items = device(case)
    left = {item.name for item in items if isinstance(item, Operation)}
    assert left <= (ARRAY_CODE if case in LEARNERS else set())
    alone = case if case in LONG else ""
    take_over(s, items, program(_number(case), alone=alone), SCHEDULES[len(case) % 3])
    first = [t.trainer.advance(1) for t in (cpu, s)]
    np.testing.assert_allclose(*first, atol=1e-3, rtol=0)
    a, b = gradient(cpu), gradient(s)
    if not cpu.config.weight_decay:  # the CPU adds the decay to the gradient itself
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)
    more = 1 if case == "mcem" else 4  # a batch of mcem stays for several updates: another list of operations
    if more > 1:
        np.testing.assert_allclose(cpu.trainer.advance(more), s.trainer.advance(more), atol=1e-3, rtol=0)


def heads(name: str, gradient: bool, dtype: str) -> tuple[list[Operation], dict[str, Any], list[str]]:
    """A decoder's way from z to log p(x | z) in arrays of the host, and what it leaves."""
    plugin = likelihoods()[name]
    backend = NumpyBackend(1)
    model = Model(Architecture(19, 3, (5,), precision=dtype), plugin, backend)
    model.parameters.initialize(1)
    model.parameters.theta[...] *= 50  # or every head is next to nothing
    ws = Workspace(backend, 7, 3, dtype)
    x, z = ws.one("x", 19), ws.many("z", 3)
    rng = np.random.default_rng(2)
    kind = plugin.support.kind
    x.array[...] = rng.integers(0, plugin.support.levels or 2, x.array.shape) if kind != "real" else rng.random((7, 19))
    z.array[...] = rng.standard_normal(z.array.shape)
    decoder, theta = model.decoder, model.parameters
    step = [*decoder.prepare(ws, theta), *decoder.forward(ws, theta, z), decoder.log_prob(ws, theta, x, gradient)]
    found = ["logp", *(f"dhead {h.name}" for h in plugin.heads if gradient)]
    return step, {n: ws.buffers[n].array for n in found}, found


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_likelihood_behind_its_heads(dtype: str, gradient: bool) -> None:
    """Heads of any number and source; where one has a group the plugin's own pass follows bare products."""
    items, results = [], []
    for name in likelihoods():
        step, expected, _ = heads(name, gradient, "float64")
        for op in step:
            op.bind(np, Rows(0, 7))()
        step, arrays, found = heads(name, gradient, dtype)
        texts = own(step)
        grouped = any(h.group > 1 for h in likelihoods()[name].heads)
        assert sum("log_prob" in t.source.name and "product_" in t.source.name for t in texts) == (not grouped)
        assert not any("scale" in t.source.name for t in texts), "biases are scaled for nobody"
        items += [t for t in texts if "log_prob" not in t.source.name or not grouped]
        results.append((name, found, arrays, expected))
        if grouped:
            compiled = compile_text(module([t.source for t in texts], dtype))
            for t in texts:
                compiled.run(t.source.launch(*t.arrays(Rows(0, 7))), "shuffled")
    compiled = compile_text(module([t.source for t in items], dtype))
    for t in items:
        compiled.run(t.source.launch(*t.arrays(Rows(0, 7))), "shuffled")
    for name, found, arrays, expected in results:
        for what in found:
            close(arrays[what], expected[what], dtype, f"{name}: {what}", 19)


@pytest.mark.parametrize("comment", ["the products' sums have been read", "every column's value is there"])
def test_a_removed_barrier_of_the_row_sums_changes_log_p(comment: str) -> None:
    results = []
    for broken in (False, True):
        found = set()
        step, arrays, _ = heads("bernoulli", True, "float64")
        texts = own(step)
        code = module([t.source for t in texts], np.float64)
        line = f"    __syncthreads();  // {comment}\n"
        assert code.count(line) == 1
        compiled = compile_text(code.replace(line, "") if broken else code)
        for schedule in SCHEDULES:
            for t in texts:
                compiled.run(t.source.launch(*t.arrays(Rows(0, 7))), schedule)
            found.add(arrays["logp"].tobytes())
        results.append(found)
    assert len(results[0]) == 1
    assert results[1] != results[0]


WIDE = {"hidden": (300,), "latent_dim": 5, "batch_size": 8, "dataset_options": {"train": 40, "test": 10}}


@pytest.mark.parametrize("case", ["elbo-bernoulli-adam", "iwae-gaussian"])
def test_narrow_products_are_cut_along_k(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two products that leave a device idle come in parts, which the latent texts add up; the same step to rounding.

    Where they are not joined with what is between them (``rows``).
    """
    monkeypatch.setattr("aevb_engine.cuda.own.choose", lambda *_: None)
    cpu, s = (session(backend, case, **WIDE) for backend in ("cpu", "gpu"))
    items = own(whole(s.trainer.inner))
    names = " ".join(item.source.name for item in items)
    assert names.count("plain_parts_") == 1
    assert names.count("data_parts_") == 1
    assert len(re.findall(r"latent(_mc)?_of_parts", names)) == 1
    assert len(re.findall(r"latent_backward(_mc)?_of_parts", names)) == 1
    take_over(s, items, compile_text(module([item.source for item in items], np.float32)), "reverse")
    np.testing.assert_allclose(*(t.trainer.advance(1) for t in (cpu, s)), atol=1e-3, rtol=0)
    a, b = gradient(cpu), gradient(s)
    assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)


TENSOR_CASES = ("elbo-bernoulli-adam", "iwae-gaussian", "elbo-mc-relu-adagrad")


@pytest.mark.parametrize("case", TENSOR_CASES)
def test_step_by_tensor_cores(case: str) -> None:
    """Every product's factors are off by 2^-11 of themselves at most; a gradient is one of a chain of at most seven.

    Each product adds at most 2^-10 of the sum of absolute values; signs differ, so that a norm grows by less than the
    chain's 7 * 2^-10 = 7e-3, and by more than float's rounding would give.
    """
    cpu = session("cpu", case)
    s, items = device(case, "tf32")
    take_over(s, items, program(_number(case), "tf32"))
    first = [t.trainer.advance(1) for t in (cpu, s)]
    np.testing.assert_allclose(*first, atol=0.02, rtol=7 * 2.0**-10)
    a, b = gradient(cpu), gradient(s)
    assert 1e-5 * np.linalg.norm(a) < np.linalg.norm(a - b) <= 7 * 2.0**-10 * np.linalg.norm(a)


def test_double_has_no_tensor_cores() -> None:
    with pytest.raises(ValueError, match="float32"):
        device("elbo-double", "tf32")
    with pytest.raises(ValueError, match="fp32 or tf32"):
        device("elbo-double", "bf16")


def test_what_a_step_becomes() -> None:
    """The whole training step of L^B: what follows a product is in it, and nothing is made in vain."""
    _, items = device("elbo-bernoulli-adam")
    names = [item.source.name.removeprefix("aevb_").rsplit("_", 1)[0] for item in items]
    names = [n.split("x16_")[-1] if n.startswith("product") else n for n in names]
    assert names == [
        "gather_bytes_at",
        "picked_affine_tanh",
        "rows_latent_1_affine_tanh",
        "bernoulli_log_prob_and_backward",
        "elbo_bound_of",
        "scale",
        "data_weigh_tanh_backward",
        "weigh",
        "rows_latent_backward_8_data_tanh_backward",
        *["weight_adam"] * 4,
        "record",
    ]


def test_the_first_layer_reads_the_data_where_the_rows_are_copies() -> None:
    """Not where they are drawn anew, and not where something else happens to them before."""
    for case in CASES:
        s, items = device(case)
        copies = bool(s.config.hidden) and s.config.binarize != "dynamic"  # a head alone goes with the latent pass
        assert sum("picked" in t.source.name for t in items if isinstance(t, Text)) == copies, case
    s, _ = device("elbo-bernoulli-adam")
    step = whole(s.trainer.inner)
    at = next(i for i, op in enumerate(step) if op.name == "gather")
    x = step[at].writes[-1]
    doubled = operation(declared()["scale"], x, 2.0, x)
    for changed, picked in (([*step[: at + 1], doubled, *step[at + 1 :]], 0), (step, 1)):
        assert sum("picked" in t.source.name for t in own(changed) if isinstance(t, Text)) == picked


def test_the_next_rows_are_fetched_whole_before_they_are_read() -> None:
    """A number in every line of 128 bytes that the row may touch, wherever it begins; of the last step's, its own."""
    _, items = device("elbo-bernoulli-adam")
    text = next(t for t in items if "at_cursor" in t.source.name)
    fetch = r"prefetch_line\(data_ \+ (.*) \* data_n \+ \(long long\)\((.*)\) \* data_c\);"
    call = re.search(fetch, text.source.text)
    copy = re.search(r" +x_\[.*\] = scale \* .*;\n", text.source.text)
    assert call is not None
    assert copy is not None
    mark = f"x_[(long long)r * x_r + ({call[2]}) * x_c] = {call[1]};"
    marked = text.source.text.replace(copy[0], ";").replace(call[0], mark)
    source = replace(text.source, text=marked)
    compiled = compile_text(module([source], np.float32))
    rng = np.random.default_rng(0)
    for width in (784, 127, 1):
        orders = rng.integers(0, 50, (3, 6))
        for cursor in (0, 1, 2):
            x = np.full((6, width), -1, np.float32)
            launch = source.launch(
                np.zeros((50, width), np.uint8), np.array([cursor]), orders, np.zeros((3, 2), np.float32),
                np.zeros(6, np.int64), np.zeros(2, np.float32), 1.0, x,
            )  # fmt: skip
            compiled.run(launch)
            for row, number in zip(x, orders[min(cursor + 1, 2)], strict=True):
                met = np.nonzero(row >= 0)[0]
                assert set(row[met]) == {number}
                for start in range(128):
                    lines = {(start + c) // 128 for c in range(width)}
                    assert {(start + c) // 128 for c in met} == lines


def test_updates_come_after_every_read() -> None:
    """No text reads parameters that one before it has changed."""
    from aevb_engine.cuda.own import extent

    for case in set(CASES) - LONG:
        s, items = device(case)
        lo, hi = extent(s.model.parameters.theta)
        changed: list[tuple[int, int]] = []
        for item in items:
            source = item.source
            arrays = dict(
                zip(source.accepts, (g.array if hasattr(g, "per_point") else g for g in item.given), strict=True)
            )
            for p in source.parameters:
                if p.kind == "array" and lo <= extent(arrays[p.name])[0] < hi:
                    a, b = extent(arrays[p.name])
                    assert not any(a < d and c < b for c, d in changed), f"{case}: {source.name}"
            changed += [
                extent(arrays[p.name]) for p in source.parameters if p.written and lo <= extent(arrays[p.name])[0] < hi
            ]
        assert sum(d - c for c, d in changed) == hi - lo, f"{case}: not every parameter is updated once"
