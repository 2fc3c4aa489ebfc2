"""The noise: published answers, one fixed set of bits, independence of how it is asked for, and its statistics."""

from __future__ import annotations

import hashlib
import math
import zlib
from statistics import NormalDist

import numpy as np
import pytest

from aevb_engine.kernels.noise import Noise, box_muller
from aevb_engine.kernels.philox import CHUNK, Philox, key, stream_id

METHODS = ("words", "uniform", "normal")


def _draw(
    method: str, shape: tuple[int, int, int], seed: int = 1, stream: str = "noise", step: int = 0, row: int = 0
) -> np.ndarray:
    out = np.empty(shape, np.uint32 if method == "words" else np.float32)
    getattr(Noise(np, seed, stream), method)(step, row, out)
    return out


# Bits -------------------------------------------------------------------------------------------------------

ONES = 0xFFFFFFFF
PUBLISHED = [  # the known answers of Random123 for philox4x32-10: counter, key, words
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "keys", "words"), PUBLISHED)
def test_published_answers(counter: tuple[int, ...], keys: tuple[int, int], words: tuple[int, ...]) -> None:
    philox = Philox(np, keys[0] | keys[1] << 32, size=5)
    arrays = [np.full(5, c, np.uint64) for c in counter]
    for array, word in zip(philox(*arrays), words, strict=True):
        assert array.tolist() == [word] * 5
    assert _scalar_philox(counter, keys) == list(words)


def _scalar_philox(counter: tuple[int, ...], keys: tuple[int, int]) -> list[int]:
    """The definition in Python integers (Salmon et al. 2011, section 5.3)."""
    (a, b, c, d), (k0, k1) = counter, keys
    for _ in range(10):
        (high0, low0), (high1, low1) = divmod(0xD2511F53 * a, 2**32), divmod(0xCD9E8D57 * c, 2**32)
        a, b, c, d = high1 ^ b ^ k0, low1, high0 ^ d ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [a, b, c, d]


def test_counter_is_column_group_row_step_stream() -> None:
    seed = 0x123456789ABCDEF0
    words = _draw("words", (2, 3, 8), seed, "eval", step=5, row=9)
    for t, r, g in np.ndindex(2, 3, 2):
        expected = _scalar_philox((g, r + 9, t + 5, zlib.crc32(b"eval")), (0x9ABCDEF0, 0x12345678))
        assert words[t, r, 4 * g : 4 * g + 4].tolist() == expected


def test_uniform_is_the_upper_bits_of_the_words() -> None:
    words, uniform = _draw("words", (2, 5, 12)), _draw("uniform", (2, 5, 12))
    np.testing.assert_array_equal(uniform, (words >> 8).astype(np.float64) / 2**24)


def test_seeds_and_streams() -> None:
    assert key(2**64 - 1) == (ONES, ONES)
    assert stream_id("noise") == zlib.crc32(b"noise")
    assert len({stream_id(s) for s in ("noise", "binarize", "order", "eval", "hmc", "init", "validation")}) == 7
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="outside"):
            key(seed)


GOLDEN = [  # sha256 of the little-endian bytes: the same numbers on every machine, for ever
    (("words", 0, "noise", 0, 0, (1, 64, 8)), "2d331d727c634a74f76ced70b87978fc495954d2b1d825f65c9a659a7c0c55c4"),
    (
        ("words", 2**64 - 1, "eval", 2**31, 12345, (3, 100, 20)),
        "058637ad80f3ca254f220581df1a436cbdb0087cd8e27e93ab8a84de1ff5dce9",
    ),
    (("uniform", 0, "noise", 0, 0, (1, 64, 8)), "2fac7b51d6e17e9707c683532cb2e1799a12c8a56681c56094e063217b8af8df"),
    (
        ("uniform", 2**64 - 1, "eval", 2**31, 12345, (3, 100, 20)),
        "2671bf18c82394e05ebb85674f4c3cd5c2d6c6370310565fbf35a655d1ae951c",
    ),
    (("normal", 0, "noise", 0, 0, (1, 64, 8)), "8ec53ea0fe367def3828c402f8bf4d1e1cf847d6f69ea6004f92ab32da81844e"),
    (
        ("normal", 2**64 - 1, "eval", 2**31, 12345, (3, 100, 20)),
        "ddfd837ed9f7b81ac378166daa06380ef8945bad180f8e80e758b013dcfea9f1",
    ),
    (("normal", 7, "binarize", 5, 0, (2, 40, 392)), "59eabb0451a6a60ca40893231e54d2060a4243c6bbee9a0d1c877cf94459160e"),
]


@pytest.mark.parametrize(("what", "digest"), GOLDEN)
def test_golden_bits(what: tuple[str, int, str, int, int, tuple[int, int, int]], digest: str) -> None:
    method, seed, stream, step, row, shape = what
    out = _draw(method, shape, seed, stream, step, row)
    little = out.astype(out.dtype.newbyteorder("<"), copy=False)
    assert hashlib.sha256(little.tobytes()).hexdigest() == digest


# How it is asked for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_number_does_not_depend_on_the_block_it_came_in(method: str) -> None:
    whole = _draw(method, (3, 700, 12), step=4, row=10)  # 6300 counters: more than one chunk
    assert whole.size // 4 > CHUNK
    for t in range(3):
        np.testing.assert_array_equal(_draw(method, (1, 700, 12), step=4 + t, row=10)[0], whole[t])
    np.testing.assert_array_equal(_draw(method, (3, 1, 12), step=4, row=10 + 699), whole[:, 699:])
    np.testing.assert_array_equal(_draw(method, (3, 213, 12), step=4, row=10 + 400), whole[:, 400:613])
    np.testing.assert_array_equal(_draw(method, (3, 700, 8), step=4, row=10), whole[..., :8])


@pytest.mark.parametrize("method", ["uniform", "normal"])
@pytest.mark.parametrize("columns", [1, 2, 3, 5, 7])
def test_any_number_of_columns_and_any_layout(method: str, columns: int) -> None:
    whole = _draw(method, (2, 9, 8))[..., :columns]
    np.testing.assert_array_equal(_draw(method, (2, 9, columns)), whole)
    noise = Noise(np, 1, "noise")
    wide = np.zeros((2, 9, columns))
    getattr(noise, method)(0, 0, wide)
    np.testing.assert_array_equal(wide, whole.astype(np.float64))  # float64 noise is the cast
    strided = np.zeros((2, 9, 16), np.float32)[..., ::2]
    getattr(noise, method)(0, 0, strided[..., :columns])
    np.testing.assert_array_equal(strided[..., :columns], whole)


def test_one_generator_gives_the_same_again() -> None:
    noise, first, second = Noise(np, 3, "noise"), np.empty((1, 9, 4), np.float32), np.empty((1, 9, 4), np.float32)
    noise.normal(7, 0, first)
    noise.uniform(8, 0, second)
    noise.normal(7, 0, second)
    np.testing.assert_array_equal(first, second)


# Statistics -------------------------------------------------------------------------------------------------

COMPARISONS = 64  # an upper bound on the comparisons below, for a chance of one in a thousand that any fails
LIMIT = NormalDist().inv_cdf(1 - 0.001 / (2 * COMPARISONS))
KOLMOGOROV = math.sqrt(-0.5 * math.log(0.001 / COMPARISONS / 2))
SHAPE = (4, 512, 1024)


@pytest.fixture(scope="module")
def normal() -> np.ndarray:
    """2,097,152 numbers (steps, rows, columns)."""
    return _draw("normal", SHAPE).astype(np.float64)


def test_normal_moments(normal: np.ndarray) -> None:
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        z = ((normal**power).mean() - mean) / math.sqrt(variance / normal.size)
        assert abs(z) < LIMIT, f"moment {power}: {z:.1f} standard errors"


def test_normal_tails(normal: np.ndarray) -> None:
    for edge in (0.01, 0.5, 1, 2, 3, 4, 4.5):
        for side in (1, -1):
            p = NormalDist().cdf(-edge)
            z = ((side * normal > edge).sum() - normal.size * p) / math.sqrt(normal.size * p * (1 - p))
            assert abs(z) < LIMIT, f"beyond {side * edge}: {z:.1f} standard errors"


def _kolmogorov(sample: np.ndarray, levels: np.ndarray, edges: np.ndarray) -> float:
    """sqrt(n) times the largest distance between the sample's distribution and ``levels`` at ``edges``."""
    below = np.searchsorted(np.sort(sample.ravel()), edges, side="right") / sample.size
    return float(np.abs(below - levels).max() * math.sqrt(sample.size))


def test_normal_distribution(normal: np.ndarray) -> None:
    levels = np.arange(1, 2000) / 2000
    edges = np.array([NormalDist().inv_cdf(p) for p in levels])
    assert _kolmogorov(normal, levels, edges) < KOLMOGOROV
    assert _kolmogorov(1.01 * normal, levels, edges) > KOLMOGOROV  # one percent too wide is seen


def test_uniform_distribution() -> None:
    uniform = _draw("uniform", SHAPE).astype(np.float64)
    levels = np.arange(1, 2000) / 2000
    assert _kolmogorov(uniform, levels, levels) < KOLMOGOROV
    assert 0 <= uniform.min() < 1e-5
    assert 1 - 1e-5 < uniform.max() < 1
    for bit in range(0, 24, 4):
        ones = ((uniform * 2**24).astype(np.int64) >> bit & 1).mean()
        assert abs(ones - 0.5) < LIMIT * 0.5 / math.sqrt(uniform.size), f"bit {bit}"


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two arrays in standard errors of independent numbers."""
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    return float(a @ b / math.sqrt((a @ a) * (b @ b)) * math.sqrt(a.size))


def test_independence(normal: np.ndarray) -> None:
    others = {
        "stream": _draw("normal", SHAPE, stream="eval"),
        "seed": _draw("normal", SHAPE, seed=2),
        "high seed": _draw("normal", SHAPE, seed=1 + (1 << 32)),
        "far step": _draw("normal", SHAPE, step=1 << 20),
        "far row": _draw("normal", SHAPE, row=1 << 20),
    }
    pairs = {name: (normal, other.astype(np.float64)) for name, other in others.items()}
    for lag in (1, 2, 3, 4):
        pairs[f"columns {lag} apart"] = (normal[..., lag:], normal[..., :-lag])
    pairs["rows"] = (normal[:, 1:], normal[:, :-1])
    pairs["steps"] = (normal[1:], normal[:-1])
    for name, (a, b) in pairs.items():
        for how, f in (("values", lambda v: v), ("squares", lambda v: v * v)):
            z = _correlation(f(a), f(b))
            assert abs(z) < LIMIT, f"{name}, {how}: {z:.1f} standard errors"
    assert abs(_correlation(normal, normal + 300 * normal[::-1])) > LIMIT  # a correlation of 1/300 is seen


def test_halves_of_a_word_are_independent() -> None:
    """Binarization takes 16-bit halves: the low half must be as good as the high one."""
    halves = _draw("words", (1, 512, 1024)).view(np.uint16).astype(np.float64)
    assert abs(_correlation(halves[..., ::2], halves[..., 1::2])) < LIMIT
    spread = 65535 / math.sqrt(12)
    for half in (halves[..., ::2], halves[..., 1::2]):
        assert abs((half.mean() - 32767.5) / spread * math.sqrt(half.size)) < LIMIT


# The transform ----------------------------------------------------------------------------------------------


def _box_muller(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    out = np.full((first.size, 2), np.nan, np.float32)
    box_muller(np, first.copy(), second.copy(), [np.empty(first.size, np.float32) for _ in range(6)], out)
    return out


def _reference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """In float64 by the math library: u = (k + 1/2) / 2^32 rounded to float32, angle in [-pi, pi)."""
    u = ((first.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)).astype(np.float64)
    r = np.sqrt(-2 * np.log(u))
    angle = second.view(np.int32).astype(np.float64) * (math.pi / 2**31)
    return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1)


def _close(out: np.ndarray, reference: np.ndarray) -> bool:
    """Within 1e-6 of the radius: the float32 angle is doubled twice, which multiplies its rounding by four."""
    radius = np.hypot(reference[:, 0], reference[:, 1])[:, None]
    return bool((np.abs(out - reference) < 1e-6 * radius + 1e-8).all())


def test_transform_against_the_math_library() -> None:
    first, second = np.random.default_rng(19).integers(0, 2**32, (2, 400_000), dtype=np.uint32)
    out, reference = _box_muller(first, second), _reference(first, second)
    assert _close(out, reference)
    assert np.sqrt(((out - reference) ** 2).mean()) < 2e-7
    assert not _close(1.000002 * out, reference)


def test_transform_over_the_whole_range() -> None:
    edges = np.array([0, 1, 2, 3, 2**24 - 1, 2**24, 2**24 + 1, 2**31 - 1, 2**31, ONES - 256, ONES - 1, ONES], np.uint32)
    powers = (np.uint64(1) << np.arange(32, dtype=np.uint64)).astype(np.uint32)
    words = np.concatenate([edges, powers, powers - np.uint32(1)])
    first, second = (a.ravel() for a in np.meshgrid(words, words))
    out = _box_muller(first, second)
    assert np.isfinite(out).all()
    assert _close(out, _reference(first, second))
    radius = np.hypot(out[:, 0], out[:, 1])
    assert radius.max() == pytest.approx(math.sqrt(-2 * math.log(2.0**-33)), rel=1e-6)  # nothing beyond 6.76
    assert radius.min() < 1e-3
