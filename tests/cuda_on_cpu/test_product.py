"""Products of our own against NumPy in double, what their epilogues compute, and that planted errors are seen."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from aevb_engine.cuda import module
from aevb_engine.cuda.lower import Text
from aevb_engine.cuda.own import own
from aevb_engine.cuda.product import TILES, Picked, Product, Tile, choose
from aevb_engine.kernel import Kernel
from aevb_engine.kernels.affine import affine, affine_backward_data
from aevb_engine.operation import Buffer, Operation, Rows, operation
from tests.cuda_on_cpu.catalog import declared
from tests.cuda_on_cpu.guard import Guarded, close
from tests.cuda_on_cpu.products import LAYOUTS, operands, plain, texts, tiles, whole
from tests.cuda_on_cpu.runner import SCHEDULES, compile_text

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

NUMBERS = [np.float32, np.float64]
# One of everything, primes, one beside the edges of chunks and tiles; rows, inner, columns.
SHAPES = [(1, 1, 1), (2, 130, 3), (33, 7, 17), (31, 65, 16), (65, 128, 66), (64, 257, 13)]


@pytest.fixture(autouse=True)
def _defined(capfd: pytest.CaptureFixture[str]) -> Any:
    """No test here may report undefined behaviour: one schedule runs the sanitized build."""
    yield
    assert "runtime error" not in capfd.readouterr().err


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tile", TILES, ids=lambda t: f"{t.rows}x{t.columns}")
def test_product(tile: Tile, layout: str, dtype: Any) -> None:
    """Between guard bands, with rows apart, in three schedules, to rounding, and to the bit from one to another."""
    for shape in SHAPES:
        m, k, n = shape
        if m < 3 and layout == "weight and bias":
            continue  # no weights, or one row of them, which lies along k
        a, b, last = operands(layout, m, k, n, dtype)
        expected = whole(a, last) @ b.astype(np.float64)
        results = set()
        for schedule in SCHEDULES:
            y = Guarded(np.full((m, n), np.nan, dtype), strided=schedule == "shuffled")
            source, given = plain(tile, a, b, last, y.array)
            sanitize = schedule == "reverse" and dtype == np.float32 and tile.columns == 16
            chosen = [t for t in texts(dtype) if not sanitize or "x16" in t.name]
            program = compile_text(module(chosen, dtype), sanitize)
            program.run(source.launch(*given), schedule)
            y.check(layout)
            close(y.array, expected, dtype, f"{layout} {shape}", k)
            results.add(y.array.tobytes())
        assert len(results) == 1, "the order of a sum depends on the schedule"


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("stored", ["bytes", "numbers"])
@pytest.mark.parametrize("tile", TILES, ids=lambda t: f"{t.rows}x{t.columns}")
def test_rows_straight_from_the_data(tile: Tile, stored: str, dtype: Any) -> None:
    """The bits of a copy of the rows and its product; what is outside is moved to an edge, as the copy does."""
    rng = np.random.default_rng(5)
    items, found = [], []
    for m, k, n in SHAPES:
        data = rng.integers(0, 256, (9, k)).astype(np.uint8) if stored == "bytes" else rng.random((9, k)).astype(dtype)
        orders = rng.integers(0, 9, (4, m))
        orders[:, : m // 3] += rng.integers(-20, 20, m // 3)
        b = rng.standard_normal((k, n)).astype(dtype)
        for cursor, cores in ((2, False), (7, False), (-3, tile.rows >= 32 and dtype == np.float32)):
            row = orders[np.clip(cursor, 0, 3)]
            copy = dtype(0.37) * data[np.clip(row, 0, 8)].astype(dtype)
            for picked in (Picked(data, np.array([cursor]), orders, 0.37), None):
                y = Guarded(np.full((m, n), np.nan, dtype))
                product = Product(copy, [b], None, cores, "plain", tile, picked=picked)
                product.store(y.array, "sum0[i]")
                items.append(Text(*product.text()))
                found.append(y)
    run(items, dtype, "shuffled")
    for straight, copied in zip(found[::2], found[1::2], strict=True):
        straight.check("straight")
        assert np.isfinite(copied.array).all()
        np.testing.assert_array_equal(straight.array, copied.array)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tile", tiles(tensor_cores=True), ids=lambda t: f"{t.rows}x{t.columns}")
def test_product_by_tensor_cores(tile: Tile, layout: str) -> None:
    """Factors have 10 bits of mantissa: each is off by 2^-11 of itself at most, a product by 2^-10 and a little."""
    for shape in ((1, 1, 1), (33, 9, 17), (65, 130, 66)):
        m, k, n = shape
        if m < 3 and layout == "weight and bias":
            continue
        a, b, last = operands(layout, m, k, n, np.float32)
        y = Guarded(np.full((m, n), np.nan, np.float32))
        source, given = plain(tile, a, b, last, y.array, tensor_cores=True)
        compile_text(module(texts(np.float32, True), np.float32)).run(source.launch(*given), "shuffled")
        y.check(layout)
        left, right = whole(a, last), b.astype(np.float64)
        error = np.abs(y.array - left @ right)
        assert (error <= 1.01 * 2.0**-10 * (np.abs(left) @ np.abs(right)) + 1e-30).all()
        rounded = [_rounded(v).astype(np.float64) for v in (left, right)]
        close(y.array, rounded[0] @ rounded[1], np.float32, "products of rounded factors", k)


def _rounded(x: Any) -> Any:
    """To 10 bits of mantissa, to nearest, ties away from zero."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.sign(mantissa) * np.floor(np.abs(mantissa) * 2**11 + 0.5), exponent - 11)


def test_tiles_follow_the_shape() -> None:
    """Small products are cut finely enough to fill a device, large ones into the largest tiles."""
    for m, k, n in ((100, 784, 500), (100, 500, 784), (784, 100, 500)):
        tile = choose(m, k, n)
        assert -(-m // tile.rows) * -(-n // tile.columns) >= 64
    assert choose(100, 500, 40).rows == 16
    assert choose(4096, 4096, 4096) == TILES[0]
    assert choose(100, 500, 40, tensor_cores=True).rows == 32
    assert choose(4096, 512, 4096, heads=4) != TILES[0]  # its sums would not fit the registers


# Planted errors ---------------------------------------------------------------------------------------------


def _results(change: tuple[str, str] | None, layout: str = "forward") -> tuple[set[bytes], Any]:
    """The products of two sums side by side in every schedule, with a planted error."""
    a, b, last = operands(layout, 40, 230, 20, np.float64)
    a, b, last = a[:, :201], b[:201], None if last is None else last[:201]  # what lies beyond is not zero
    tile = TILES[3]
    y = np.zeros((40, 20))
    source, given = plain(tile, a, b, last, y)
    text = module([source], np.float64)
    if change is not None:
        assert text.count(change[0]) == 1, "the place of the planted fault is gone"
        text = text.replace(*change)
    out = set()
    for schedule in SCHEDULES:
        y[...] = 0
        compile_text(text).run(source.launch(*given), schedule)
        out.add(y.tobytes())
    return out, whole(a, last) @ b


@pytest.mark.parametrize(
    "comment",
    [
        "what lay in the scratch has been read",
        "the chunk is complete",
        "the last chunk has been read",
        "groups' sums are there",
    ],
)
def test_a_removed_barrier_changes_the_result(comment: str) -> None:
    from aevb_engine.cuda.module import read

    line = next(line for line in read("product.cuh").splitlines() if comment in line)
    good, _ = _results(None)
    assert len(good) == 1
    bad, _ = _results((line, ""))
    assert bad != good


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("const int next = base_k + DEPTH;", "const int next = base_k + DEPTH - 1;"),
        ("for (int g = 1; g < GROUPS; g++)", "for (int g = 2; g < GROUPS; g++)"),
        ("some < SHARE; some += 4", "some < SHARE - 4; some += 4"),
        ("S::ws(i) == left_w", "S::ws(i) == left_w + 1"),
    ],
)
def test_an_off_by_one_is_seen(good: str, bad: str) -> None:
    results, expected = _results((good, bad), "weight and bias")
    assert all(not np.allclose(np.frombuffer(r).reshape(expected.shape), expected) for r in results)


def test_a_write_beyond_the_edge_is_seen() -> None:
    a, b, last = operands("forward", 33, 5, 17, np.float64)
    y = Guarded(np.zeros((33, 17)))
    source, given = plain(TILES[3], a, b, last, y.array)
    text = module([source], np.float64)
    assert text.count("index_r < size_r") == 1
    compile_text(text.replace("index_r < size_r", "index_r <= size_r")).run(source.launch(*given))
    with pytest.raises(AssertionError, match="outside the array"):
        y.check("product")


# Epilogues --------------------------------------------------------------------------------------------------


def run(items: list[Any], dtype: Any, schedule: str = "forward") -> None:
    """Every launch, in order."""
    assert all(isinstance(item, Text) for item in items)
    program = compile_text(module([item.source for item in items], dtype))
    for item in items:
        program.run(item.source.launch(*item.arrays(Rows(0, 1))), schedule)


def _eligible() -> list[str]:
    """Declared kernels of two axes that sum nothing."""
    return [n for n, k in declared().items() if len(k.space) == 2 and not any(a.row_sum for a in k.outputs)]


def _behind_a_product(kernel: Kernel, dtype: Any, argument: str) -> tuple[list[Operation], dict[str, Any]]:
    rng = np.random.default_rng([ord(c) for c in kernel.name])
    sizes = dict(zip(kernel.space, (33, 19), strict=True))
    arrays = {}
    for a in kernel.arguments:
        shape = tuple(sizes[x] for x in a.letters) or (1,)
        arrays[a.name] = np.abs(rng.standard_normal(shape)).astype(dtype)
    dy, weight = rng.standard_normal((33, 6)).astype(dtype), rng.standard_normal((19, 6)).astype(dtype)
    buffers = {name: Buffer(name, array) for name, array in arrays.items()}
    given = [0.37 if a.shape == "const" else buffers[a.name] for a in kernel.arguments]
    first = operation(affine_backward_data, Buffer("dy", dy), Buffer("weight", weight), buffers[argument])
    return [first, operation(kernel, *given)], arrays  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", NUMBERS)
def test_every_elementwise_kernel_may_follow(dtype: Any) -> None:
    """A product into any argument that spans both axes: one launch, and the numbers of the array code."""
    items, found = [], []
    for name in _eligible():
        kernel = declared()[name]
        for a in kernel.arguments:
            # h is what an activation gave: no product does
            if a.letters == kernel.space and not a.scratch and (a.inplace or not a.output) and a.name != "h":
                operations, expected = _behind_a_product(kernel, np.float64, a.name)
                for op in operations:
                    op.bind(np, Rows(0, 1))()
                operations, arrays = _behind_a_product(kernel, dtype, a.name)
                launches = own(operations)
                assert len(launches) == 1, name
                items += launches
                found.append((kernel, arrays, expected))
    assert len(found) > 20
    run(items, dtype, "shuffled")
    for kernel, arrays, expected in found:
        for a in kernel.arguments:
            if not a.scratch and a.shape != "const":
                close(arrays[a.name], expected[a.name], dtype, f"{kernel.name}: {a.name}", 6)


def test_a_chain_of_kernels_follows() -> None:
    """Both gradients of a layer below two heads, the row weights and tanh's derivative: two launches."""

    def chain() -> tuple[list[Operation], Any]:
        draw = np.random.default_rng(4).standard_normal
        b = {n: Buffer(n, draw(s)) for n, s in {"p": (21, 9), "q": (21, 9), "u": (11, 9), "v": (11, 9)}.items()}
        dh, partial, h, slope = (Buffer(n, draw((21, 11))) for n in ("dh", "partial", "h", "slope"))
        weight = Buffer("weight", draw(21))
        k = declared()
        return [
            operation(affine_backward_data, b["p"], b["u"], dh),
            operation(affine_backward_data, b["q"], b["v"], partial),
            operation(k["add"], partial, dh),
            operation(k["weigh"], weight, dh, dh),
            operation(k["tanh_backward"], h, slope, dh),
        ], dh.array

    operations, expected = chain()
    for op in operations:
        op.bind(np, Rows(0, 1))()
    operations, dh = chain()
    items = own(operations)
    assert len(items) == 2
    run(items, np.float64)
    np.testing.assert_allclose(dh, expected, rtol=1e-12)


def test_what_other_elements_need_is_not_fused() -> None:
    """A kernel that writes a factor of the product, or reads the product's rows as one, waits for all of it."""
    k = declared()
    x, weight, bias, y = (np.ones(s) for s in ((4, 4), (4, 4), (4,), (4, 4)))
    first = operation(affine, *(Buffer(n, a) for n, a in zip("xwby", (x, weight, bias, y), strict=True)))
    into = operation(k["scale"], Buffer("y", y), 2.0, Buffer("x", x))
    assert len(own([first, into])) == 2
    column = operation(k["weigh"], Buffer("y", y[:, 0]), Buffer("y", y), Buffer("z", np.ones((4, 4))))
    assert len(own([first, column])) == 2
    shifted = operation(k["scale"], Buffer("y", y.T), 2.0, Buffer("y", y))
    assert len(own([first, shifted])) == 2
    fine = operation(k["scale"], Buffer("y", y), 2.0, Buffer("z", np.ones((4, 4))))
    assert len(own([first, fine])) == 1
