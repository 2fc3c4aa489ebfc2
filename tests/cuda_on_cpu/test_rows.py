"""The narrow layers around z by blocks of a few data points: against array code in double, and planted errors."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from aevb_engine.cuda import lower, module
from aevb_engine.cuda.fused import captured
from aevb_engine.cuda.handwritten import sources
from aevb_engine.cuda.launch import Launch, Source
from aevb_engine.cuda.module import read
from aevb_engine.cuda.own import own
from aevb_engine.cuda.rows import SCRATCH, Backward, Forward, choose, joined, separate
from aevb_engine.cuda.source import generate
from aevb_engine.cuda.stages import Member, stages
from aevb_engine.kernels.kl import kl
from aevb_engine.kernels.latent import latent_backward, latent_backward_mc
from aevb_engine.kernels.noise import Noise
from aevb_engine.kernels.philox import key, stream_id
from aevb_engine.operation import Operation
from tests.cuda_on_cpu.catalog import declared
from tests.cuda_on_cpu.guard import Guarded, close
from tests.cuda_on_cpu.nvrtc import compile_for, library
from tests.cuda_on_cpu.runner import SCHEDULES, Deadlock, compile_text
from tests.cuda_on_cpu.steps import members_of, operations, session
from tests.gpu.test_parity import BASE, CASES, LEARNERS

compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
NUMBERS = [np.float32, np.float64]
SEED, STEP, ROW = 7, 6, 40
# Data points, samples, the encoder's layer, z, the decoder's layer, data points of a block: ones and primes, a last
# block that is not full, heads wider than a block's share, more samples than sums, layers wider than a block.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (5, 1, 33, 3, 17, 2),
    (13, 1, 40, 20, 300, 8),
    (3, 5, 65, 50, 31, 2),
    (4, 1, 300, 2, 5, 1),
    (2, 11, 7, 5, 9, 1),
    (3, 2, 6, 70, 4, 4),
]


@pytest.fixture(autouse=True)
def _defined(capfd: pytest.CaptureFixture[str]) -> Any:
    """No test here may report undefined behaviour: one schedule runs the sanitized build."""
    yield
    assert "runtime error" not in capfd.readouterr().err


@dataclass
class Case:
    """A launch with its arrays between guard bands, and what they should hold."""

    source: Source
    given: tuple[Any, ...]
    outputs: dict[str, Guarded]
    expected: dict[str, tuple[Any, int]]  # in double, and how many numbers it is a sum of

    def launch(self) -> Launch:
        return self.source.launch(*self.given)

    def check(self, dtype: Any) -> bytes:
        for name, held in self.outputs.items():
            held.check(name)
            expected, terms = self.expected[name]
            close(held.array, expected, dtype, name, terms)
        return b"".join(held.array.tobytes() for held in self.outputs.values())


def _given(rng: Any, dtype: Any, *shape: int) -> Any:
    return Guarded((rng.standard_normal(shape) / math.sqrt(shape[0])).astype(dtype)).array


def _empty(dtype: Any, **shapes: tuple[int, ...]) -> dict[str, Guarded]:
    return {name: Guarded(np.full(shape, np.nan, dtype)) for name, shape in shapes.items()}


def forward(shape: tuple[int, ...], dtype: Any, monte_carlo: bool, activation: str) -> Case:
    b, samples, k, z, n, rows = shape
    rng = np.random.default_rng(3)
    hidden, weight, bias, to, shift = (_given(rng, dtype, *s) for s in ((b, k), (k, 2 * z), (2 * z,), (z, n), (n,)))
    name = "latent_mc" if monte_carlo else "latent"
    last = {"prior": (b, samples), "posterior": (b, samples)} if monte_carlo else {"kl": (b,)}
    out = _empty(
        dtype, head=(b, 2 * z), sigma=(b, z), eps=(b, samples, z), z=(b, samples, z), **last, y=(b * samples, n)
    )
    arrays = {n: held.array for n, held in out.items()}
    values = {
        **arrays, "product": arrays["head"], "bias": bias, "step": np.array([STEP], np.int64),
        "row": np.array([ROW], np.int64), "stream": stream_id("noise"), "key0": key(SEED)[0], "key1": key(SEED)[1],
    }  # fmt: skip
    source = sources()[name]
    latent = lower.Text(source, tuple(values[n] for n in source.accepts))
    sizes = {"b": b, "l": samples, "k": k, "h": 2 * z, "z": z, "n": n}
    z2, y = arrays["z"].reshape(b * samples, z), arrays["y"]
    text = Forward(z2, [to], label="test", rows=rows, hidden=hidden, weight=weight, latent=latent, sizes=sizes)
    kernel = declared()[activation]
    text.element.append(f"T v0 = sum0 + {text.array(shift, 'c')};")
    text.elementwise(kernel, (y, y), {(y.ctypes.data, y.shape, _strides(y)): "v0"})
    text.store(y, "v0")
    wide = [a.astype(np.float64) for a in (hidden, weight, bias, to, shift)]
    head = wide[0] @ wide[1] + wide[2]
    mu, logvar, eps = head[:, :z], head[:, z:], np.empty((1, b * samples, z), np.float32)
    Noise(np, SEED, "noise").normal(STEP, ROW * samples, eps)
    eps = eps.reshape(b, samples, z).astype(np.float64)
    sigma = np.exp(logvar / 2)
    draw = mu[:, None] + sigma[:, None] * eps
    h = np.empty((b * samples, n))
    kernel(np, draw.reshape(-1, z) @ wide[3] + wide[4], h)
    expected = {"head": (head, k), "sigma": (sigma, k), "eps": (eps, 1), "z": (draw, k), "y": (h, k + z)}
    if monte_carlo:
        expected["prior"] = -0.5 * (draw**2 + math.log(2 * math.pi)).sum(2), k * z
        expected["posterior"] = -0.5 * (eps**2 + logvar[:, None] + math.log(2 * math.pi)).sum(2), k * z
    else:
        divergence = np.empty(b)
        kl(np, mu, logvar, np.empty((b, z)), divergence)
        expected["kl"] = divergence, k * z
    return Case(*text.text(), out, expected)


def _strides(array: Any) -> tuple[int, ...]:
    return tuple(s if n > 1 else 0 for n, s in zip(array.shape, array.strides, strict=True))


def backward(shape: tuple[int, ...], dtype: Any, monte_carlo: bool, activation: str) -> Case:
    b, samples, k, z, n, rows = shape
    rng = np.random.default_rng(4)
    dy, weight, head, h, mu, sigma = (
        _given(rng, dtype, *s) for s in ((b * samples, n), (z, n), (k, 2 * z), (b, k), (b, z), (b, z))
    )
    h[...] = np.abs(h)  # of every activation here
    eps, draw, factor = (_given(rng, dtype, *s) for s in ((b, samples, z), (b, samples, z), (b, samples)))
    out = _empty(dtype, dz=(b * samples, z), dhead=(b, 2 * z), dh=(b, k))
    dz, dhead, dh = (held.array for held in out.values())
    cube, dmu, dlogvar = dz.reshape(b, samples, z), dhead[:, :z], dhead[:, z:]
    values = {
        "dz": cube, "mu": mu, "sigma": sigma, "eps": eps, "z": draw, "dmu": dmu, "dlogvar": dlogvar, "entropy": -0.01,
        "weight": factor if monte_carlo else 0.01,
    }  # fmt: skip
    kernel = latent_backward_mc if monte_carlo else latent_backward
    source = generate(kernel)
    middle = [lower.Text(source, tuple(values.get(n) for n in source.accepts))]
    sizes = {"b": b, "l": samples, "k": k, "h": 2 * z, "z": z, "n": n}
    text = Backward(dhead, [head.T], label="test", rows=rows, dy=dy, weight=weight, dz=dz, middle=middle, sizes=sizes)
    assert text.fits()
    slope = declared()[f"{activation}_backward"]
    text.element.append("T v0 = sum0;")
    text.elementwise(slope, (h, dh, dh), {(dh.ctypes.data, dh.shape, _strides(dh)): "v0"})
    text.store(dh, "v0")
    wide = {n: v.astype(np.float64) for n, v in values.items() if isinstance(v, np.ndarray)}
    exact = (dy.astype(np.float64) @ weight.astype(np.float64).T).reshape(b, samples, z)
    summed = np.empty((b, 2 * z))
    scratch = [np.empty((b, samples, z)) for _ in range(2)]
    ends = (summed[:, :z], summed[:, z:])
    if monte_carlo:
        kernel(np, exact, wide["z"], wide["weight"], wide["sigma"], wide["eps"], -0.01, *scratch, *ends)
    else:
        kernel(np, exact, wide["mu"], wide["sigma"], wide["eps"], 0.01, scratch[0], np.empty((b, z)), *ends)
    last = summed @ head.astype(np.float64).T
    slope(np, h.astype(np.float64), np.empty((b, k)), last)
    expected = {"dz": (exact.reshape(-1, z), n), "dhead": (summed, n * samples), "dh": (last, n * samples * z)}
    return Case(*text.text(), out, expected)


MAKE = {"forward": forward, "backward": backward}


@compiler
@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("monte_carlo", [False, True], ids=["elbo", "mc"])
@pytest.mark.parametrize("way", MAKE)
def test_rows(way: str, monte_carlo: bool, dtype: Any) -> None:
    """Between guard bands, in three schedules, to rounding, and to the bit from one schedule to another."""
    activations = ("tanh", "relu", "softplus")
    cases = [MAKE[way](s, dtype, monte_carlo, activations[i % 3]) for i, s in enumerate(SHAPES)]
    text = module([c.source for c in cases], dtype)
    sanitize = dtype == np.float32 and monte_carlo == (way == "backward")
    programs = {s: compile_text(text, sanitize and s == "reverse") for s in SCHEDULES}
    for case in cases:
        results = set()
        for schedule in SCHEDULES:
            for held in case.outputs.values():
                held.array[...] = np.nan
            programs[schedule].run(case.launch(), schedule)
            results.add(case.check(dtype))
        assert len(results) == 1, "the order of a sum depends on the schedule"


def test_the_noise_is_that_of_the_launch_alone() -> None:
    """Bit for bit: which block draws a number does not show."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    case = forward(SHAPES[3], np.float32, True, "tanh")
    compile_text(module([case.source], np.float32)).run(case.launch())
    np.testing.assert_array_equal(case.outputs["eps"].array, case.expected["eps"][0])


# Planted errors ---------------------------------------------------------------------------------------------

FAULTS = {
    "forward": [
        ("__syncthreads();  // the encoder's layer is there", ""),
        ("__syncthreads();  // the shares of k are there", ""),
        ("__syncthreads();  // the sums of the head are there", ""),
        ("__syncthreads();  // z is there", ""),
        ("for (int p = 1; p < PARTS; p++)", "for (int p = 2; p < PARTS; p++)"),
        ("k = first; k < size_k", "k = first; k < size_k - 1"),
        ("sigma - (long long)base_b * size_z", "sigma"),
        ("(long long)(i / size_z % samples) * z_l", "0 * z_l"),
        ("const int index_r = base_b * samples +", "const int index_r = base_b +"),
    ],
    "backward": [
        ("__syncthreads();  // the decoder's gradient is there", ""),
        ("__syncthreads();  // dz is there", ""),
        ("__syncthreads();  // the gradient of the head is there", ""),
        ("__syncthreads();  // the sums of the elements are there", ""),
        ("step = LANES / 2; step > 0", "step = LANES / 4; step > 0"),
        ("lane == 0 && c + a * STEP < size_c", "lane == 0 && c + a * STEP < size_c - 1"),
        ("k = lane; k < size_k", "k = lane; k < size_k - 1"),
        ("if (base_b * samples + i / size_n < size_s)", "if (base_b + i / size_n < size_b)"),
    ],
}


@compiler
@pytest.mark.parametrize(("way", "good", "bad"), [(w, *f) for w, faults in FAULTS.items() for f in faults])
def test_a_planted_error_is_caught(way: str, good: str, bad: str) -> None:
    """In one schedule at least the results are wrong."""
    shape = (9, 3, 33, 9, 40, 8)  # a warp a data point: its sums have no barriers of their own
    case, again = (MAKE[way](shape, np.float64, False, "tanh") for _ in range(2))
    text = module([case.source], np.float64)
    assert text.count(good) >= 1, "the place of the planted fault is gone"
    wrong = 0
    for schedule in SCHEDULES:
        compile_text(text.replace(good, bad)).run(case.launch(), schedule)
        try:
            case.check(np.float64)
        except AssertionError:
            wrong += 1
    assert wrong
    compile_text(text).run(again.launch())
    again.check(np.float64)


@compiler
def test_an_off_by_one_and_a_lone_barrier_are_caught() -> None:
    case = forward((5, 1, 33, 9, 40, 2), np.float64, False, "tanh")
    text = module([case.source], np.float64)
    outside = text.replace("if (index_r < size_r)", "if (index_r <= size_r)")
    assert outside != text
    compile_text(outside).run(case.launch())
    with pytest.raises(AssertionError, match="outside the array"):
        case.check(np.float64)
    barrier = "__syncthreads();  // z is there"
    with pytest.raises(Deadlock, match="not every thread"):
        compile_text(text.replace(barrier, f"if (threadIdx.x < 64) {barrier}")).run(case.launch())


# In a step --------------------------------------------------------------------------------------------------

JOINED = [c for c in (*CASES, "beta") if c != "elbo-linear-rmsprop"]


def _rows(step: list[Member]) -> list[Member]:
    return [m for m in step if "rows.cuh" in m.source.parts]


@pytest.mark.parametrize("case", JOINED)
def test_a_step_has_both(case: str) -> None:
    """Whatever the objective, the activation, the number of samples: one launch each way, four stages fewer."""
    s = session({**BASE, **{**CASES, **LEARNERS}[case]})
    step = members_of(s)
    assert len(_rows(step)) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aevb_engine.cuda.own.choose", lambda *_: None)
        apart = members_of(s)
    assert not _rows(apart)
    assert len(stages(step)) <= len(stages(apart)) - 4


@pytest.mark.parametrize("case", ["elbo-linear-rmsprop", "wake-sleep-gaussian", "autoencoder"])
def test_what_does_not_match_stays(case: str) -> None:
    """No hidden layer, a way back that is not that of the latent variables, no latent pass."""
    s = session({**BASE, **{**CASES, **LEARNERS}[case]})
    texts = [t for t in own(operations(s)) if not isinstance(t, Operation)]
    assert not [t for t in texts if t.source.name.startswith("aevb_rows_latent_backward")]


@pytest.mark.parametrize("hidden", [(16,), (3000,)])
def test_wide_layers_stay_apart(hidden: tuple[int, ...]) -> None:
    s = session({**BASE, **CASES["elbo-bernoulli-adam"], "hidden": hidden, "latent_dim": 3 if hidden == (16,) else 40})
    assert len(_rows(members_of(s))) == (2 if hidden == (16,) else 0)


def _sizes(b: int, samples: int, k: int, z: int, n: int) -> dict[str, int]:
    return {"b": b, "l": samples, "k": k, "h": 2 * z, "z": z, "n": n}


def test_when_joining_is_expected_to_be_faster() -> None:
    """784-500-20 both ways, about as many blocks as there are multiprocessors at most; never what does not fit."""
    paper = _sizes(100, 1, 500, 20, 500)
    assert choose(paper, 4, True) in (1, 2)
    assert choose(paper, 4, False) is not None
    for forward in (True, False):
        assert choose(_sizes(10000, 1, 500, 20, 500), 4, forward) is None  # many waves, each reads all weights
        assert choose(_sizes(100, 1, 1000, 100, 1000), 4, forward) is None  # wide ones
        assert choose(_sizes(100, 1, 20, 200, 20), 4, forward) is None  # a head wider than a block
        assert choose(_sizes(2, 200, 5, 50, 5), 4, forward) is None  # samples that do not fit
        assert choose(_sizes(100, 1, 9000, 1, 10), 4, forward) is None
    assert joined(100, [(20000, 1), (10000, 1)], 4, 32) < separate([(100, 500, 40), (100, 20, 500)])
    assert f"? {SCRATCH[4]} : {SCRATCH[8]}]" in read("product.cuh")


# The compiler -----------------------------------------------------------------------------------------------


ARCHITECTURES = [
    *((a, np.float32) for a in ("sm_80", "sm_90", "sm_100")),
    *(pytest.param(a, np.float64, marks=pytest.mark.slow) for a in ("sm_80", "sm_90", "sm_100")),
]


@pytest.mark.skipif(library() is None, reason="needs `pip install nvidia-cuda-nvrtc`")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("arch", "dtype"), ARCHITECTURES)
def test_no_spills(arch: str, dtype: Any) -> None:
    """As members, with their sizes as literals: no local memory, and no more registers than a large tile takes."""
    cases = [
        MAKE[way](shape, dtype, shape[1] > 1, "tanh")
        for shape in ((100, 1, 500, 20, 500, 2), (20, 5, 200, 50, 200, 1), (30, 1, 200, 5, 200, 8))
        for way in MAKE
    ]
    step = [Member(c.source, c.launch()) for c in cases]
    used = compile_for(arch, captured([[m] for m in step], dtype).code)
    assert len(used) == len(cases)
    for name, u in used.items():
        assert (u.spills, u.stack) == (0, 0), name
        assert u.registers <= (128 if dtype == np.float32 else 168), name
