"""Texts of products y = a b with what follows them as epilogue, a tile a block (``product.cuh``).

``Product`` collects the arrays of one launch and the statements on one element; ``text`` gives the launch. An epilogue
is made from texts that exist already: declared kernels (``elementwise``), a decoder plugin's (``log_prob``), an
optimizer plugin's (``update``). Nothing is known by name.

The three products of a dense layer differ in strides alone; which axis of a and of b lies densely in memory is read from
the arrays. The bias gradient is one more row of a^T: ``last`` (K,) below the rows of a.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aevb_engine.cuda.launch import Dim, Shape, Sizes, Source
from aevb_engine.cuda.likelihood import Likelihood
from aevb_engine.cuda.optimizer import Optimizer
from aevb_engine.cuda.source import PREFIX, fill
from aevb_engine.kernel import Kernel

MULTIPROCESSORS = 132  # of an H100; the choice of tiles depends on it, no result does beyond rounding


@dataclass(frozen=True)
class Tile:
    """A block's part of y, how much of k it takes at a time in float, and what an element costs beside 64 x 64."""

    rows: int
    columns: int
    depth: int
    cost: float


TILES = (
    Tile(64, 64, 32, 1.0),
    Tile(64, 32, 32, 1.1),
    Tile(32, 32, 64, 1.2),
    Tile(32, 16, 128, 1.35),
    Tile(16, 16, 128, 1.8),
)
MOST_PARTS = 8
WAIT = 1500  # cycles of a tile that no arithmetic hides: first chunk, groups' sums, epilogue


def choose(m: int, k: int, n: int, tensor_cores: bool = False, width: int = 4) -> Tile:
    """The tile for y (m, n) = a (m, k) b (k, n): few waves over the device, then large tiles.

    ``width``: bytes of all sums of one element, which a thread keeps in registers for its elements of the tile.
    """

    def cycles(tile: Tile) -> float:
        blocks = -(-m // tile.rows) * -(-n // tile.columns)
        waves = -(-blocks // MULTIPROCESSORS)
        return waves * (WAIT + tile.rows * tile.columns * k / 128 * tile.cost)

    fits = [t for t in TILES if t.rows * t.columns // 256 * width <= 128 and (t.rows >= 32 or not tensor_cores)]
    return min(fits or TILES[3:4], key=cycles)


def parts_of(m: int, k: int, n: int, tile: Tile) -> int:
    """Into how many parts of k a product is cut that leaves most of the device idle; one where it does not."""
    blocks = -(-m // tile.rows) * -(-n // tile.columns)
    return max(1, min(MULTIPROCESSORS // blocks, -(-k // tile.depth), MOST_PARTS))


KERNEL = """\
extern "C" __global__ void __launch_bounds__(256, 2) $name($parameters)
{
    const int tiles_c = (size_c + $columns - 1) / $columns, tile = (int)blockIdx.x$within, tile_c = tile % tiles_c;
    const int base_r = tile / tiles_c * $rows, base_c = tile_c * $columns;
    $range
    $products
    $before
#pragma unroll
    for (int i = 0; i < $count; i++) {
        const int index_r = base_r + ((int)threadIdx.x + 256 * i) / $columns;
        const int index_c = base_c + ((int)threadIdx.x + 256 * i) % $columns;
        if (index_r < size_r && index_c < size_c) {
            $element
        }
    }
    $after
}
"""
RANGE = """\
const int index_s = (int)blockIdx.x / (tiles_c * ((size_r + $rows - 1) / $rows)), first = index_s * $share;
const int inner = size_k - first < $share ? size_k - first : $share;
"""
ROW_SUMS = """\
__syncthreads();  // the products' sums have been read
#pragma unroll
for (int i = 0; i < $count; i++) {
    const int e = (int)threadIdx.x + 256 * i;
    product_scratch[e / $columns * ($columns + 1) + e % $columns] = value[i];
}
__syncthreads();  // every column's value is there
if (threadIdx.x < $rows && base_r + (int)threadIdx.x < size_r) {
    T total = 0;
#pragma unroll
    for (int c = 0; c < $columns; c++)
        total += product_scratch[(int)threadIdx.x * ($columns + 1) + c];
    $target = total;
}
"""


def view(array: Any) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """What tells two views apart: address, shape, strides of the axes longer than one."""
    strides = tuple(s if n > 1 else 0 for n, s in zip(array.shape, array.strides, strict=True))
    return address(array), tuple(array.shape), strides


def address(array: Any) -> int:
    """The device pointer of an array, the host's for host arrays."""
    pointer = getattr(array.data, "ptr", None)
    return int(array.ctypes.data if pointer is None else pointer)


@dataclass
class Product:
    """One launch in the making: y (m, n) = a (m, k) b (k, n), for several b as several sums side by side."""

    a: Any
    factors: Sequence[Any]  # each b (k, n)
    last: Any = None  # (k,): one more row of a
    tensor_cores: bool = False
    label: str = ""  # words of the name
    forced: Tile | None = None  # instead of the one chosen by shape
    splits: int = 1  # parts of k by blocks of their own, that whoever reads y adds up
    before: list[str] = field(default_factory=list)
    element: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    parts: set[str] = field(default_factory=lambda: {"product.cuh"})
    device: str = ""
    _given: list[tuple[str, str, Any]] = field(default_factory=list)  # name, parameters, array or number
    _known: dict[tuple[Any, ...], int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.a.shape[0]) + (self.last is not None), int(self.factors[0].shape[1])

    @property
    def share(self) -> int:
        """k of one of the parts: whole chunks."""
        k, depth = int(self.a.shape[1]), self.tile.depth
        return -(-k // (self.splits * depth)) * depth if self.splits > 1 else k

    @property
    def tile(self) -> Tile:
        if self.forced is not None:
            return self.forced
        (m, n), k = self.shape, int(self.a.shape[1])
        width = len(self.factors) * np.dtype(self.a.dtype).itemsize
        return choose(m, k * len(self.factors), n, self.tensor_cores, width)

    def array(self, value: Any, letters: str, written: bool = False) -> str:
        """A parameter for the array with these axes; its element at (index_r, index_c) in the text."""
        key = (*view(value), letters, np.dtype(value.dtype))
        at = self._known.get(key)
        if at is None:
            at = self._known[key] = len(self._given)
            self._given.append((f"e{at}", letters, value))
            self._written.append(written)
        elif written:
            self._written[at] = True
        terms = [f"(long long)index_{letter} * e{at}_{letter}" for letter in letters]
        return f"e{at}_[{' + '.join(terms) or '0'}]"

    _written: list[bool] = field(default_factory=list)

    def number(self, value: float) -> str:
        """A parameter for a constant of the run."""
        name = f"k{len(self._given)}"
        self._given.append((name, "const", value))
        self._written.append(False)
        return name

    def text(self) -> tuple[Source, tuple[Any, ...]]:
        """The source and what it is launched with."""
        tile, (m, n) = self.tile, self.shape
        extra = self.last is not None
        parameters = [_array("a", "mk", False)]
        given: list[Any] = [self.a]
        if extra:
            parameters.append(_array("last", "k", False))
            given.append(self.last)
        products = []
        count = tile.rows * tile.columns // 256
        last = ("last_", "last_k") if extra else ("a_", "0")
        along_a = _along(self.a, 1)
        split = self.share < int(self.a.shape[1])
        inner = "inner" if split else "size_k"

        def at(name: str) -> str:
            return f" + (long long)first * {name}_k" if split else ""

        for i, b in enumerate(self.factors):
            parameters.append(_array(f"b{i}", "kc", False))
            given.append(b)
            flags = (along_a, _along(b, 0), extra, self.tensor_cores)
            numbers = ", ".join([*map(str, (tile.rows, tile.columns, tile.depth)), *(str(f).lower() for f in flags)])
            products += [
                f"T sum{i}[{count}];",
                f"product<{numbers}>((int)threadIdx.x, base_r, base_c, a_{at('a')}, a_m, a_k, {last[0]}, {last[1]},",
                f"    b{i}_{at(f'b{i}')}, b{i}_k, b{i}_c, size_m, size_c, {inner}, sum{i});",
            ]
        for (name, letters, value), written in zip(self._given, self._written, strict=True):
            parameters.append(f"T {name}" if letters == "const" else _array(name, letters, written))
            given.append(value)
        parameters.append("int size_m, int size_k, int size_c, int size_r")
        if any("n" in letters for _, letters, _ in self._given if letters != "const"):
            parameters.append("int size_n")
        if split:
            parameters.append("int size_s")
        if any("p" in letters for _, letters, _ in self._given if letters != "const"):
            parameters.append("int size_p")
        values = {
            "rows": str(tile.rows),
            "columns": str(tile.columns),
            "count": str(count),
            "within": f" % (tiles_c * ((size_r + {tile.rows - 1}) / {tile.rows}))" if split else "",
            "range": RANGE.replace("$share", str(self.share)).replace("$rows", str(tile.rows)) if split else "",
            "products": "\n".join(products),
            "before": "\n".join(self.before),
            "element": "\n".join(self.element),
            "after": fill("\n".join(self.after), {
                "rows": str(tile.rows), "columns": str(tile.columns), "count": str(count),
            } | {"target": self._target}) if self.after else "",
        }  # fmt: skip
        values["parameters"] = ", ".join(parameters)
        body = fill(KERNEL, values | {"name": ""})
        digest = hashlib.sha256((self.device + body).encode()).hexdigest()[:6]
        words = "_".join(w for w in ("product", f"{tile.rows}x{tile.columns}", self.label, digest) if w)
        name = f"{PREFIX}{'tf32_' if self.tensor_cores else ''}{words}"
        source = Source(
            name, fill(KERNEL, values | {"name": name}), grid(tile), tuple(sorted(self.parts)), device=self.device
        )
        return source, tuple(given)

    _target: str = ""

    # Epilogues ----------------------------------------------------------------------------------------------

    def store(self, y: Any, value: str) -> None:
        """y = value, an element."""
        self.element.append(f"{self.array(y, 'rc', written=True)} = {value};")

    def elementwise(self, kernel: Kernel, arguments: Sequence[Any], known: dict[tuple[Any, ...], str]) -> None:
        """The body of a declared kernel of two axes; ``known``: variables that hold an element of a view, and will."""
        assert kernel.cuda is not None
        space = kernel.space
        before, after = [], []
        for declared, value in zip(kernel.arguments, arguments, strict=True):
            name = declared.name
            if declared.shape == "const":
                before.append(f"const T {name} = {self.number(value)};")
                continue
            if declared.scratch:
                before.append(f"T {name};")
                continue
            held = known.get(view(value)) if declared.letters == space else None
            letters = "".join("rc"[space.index(letter)] for letter in declared.letters)
            load = held or self.array(value, letters)
            if declared.output:
                if held is None:
                    held = known[view(value)] = f"v{len(known)}"
                    self.element.append(f"T {held};")
                before.append(f"T {name} = {load};" if declared.inplace else f"T {name};")
                after.append(f"{held} = {name};")
            else:
                before.append(f"const T {name} = {load};")
        for letter, axis in zip(space, "rc", strict=True):
            for what in ("index", "size"):
                if letter != axis and re.search(rf"\b{what}_{letter}\b", kernel.cuda):
                    before.append(f"const int {what}_{letter} = {what}_{axis};")
        body = re.split(r"(?<=;) ", kernel.cuda.strip())
        self.element += ["{", *("    " + line for line in (*before, *body, *after)), "}"]

    def update(self, plugin: Optimizer, grad: Any, coef: Any, decay: float, theta: Any, state: Sequence[Any]) -> None:
        """grad = the product, stored; then the plugin's statements, weight decay in the gradient they see."""
        assert plugin.cuda is not None
        self.store(grad, "sum0[i]")
        names = ["theta", *plugin.state]
        arrays = [self.array(value, "rc", written=True) for value in (theta, *state)]
        place = self.array(coef, "").removesuffix("[0]")
        used = [int(i) for i in re.findall(r"\bcoef\[(\d+)\]", plugin.cuda)]
        if used and len(used) == len(re.findall(r"\bcoef\b", plugin.cuda)):  # read once, not for every element
            self.before.append(
                f"const T coef[{max(used) + 1}] = {{{', '.join(f'{place}[{i}]' for i in range(max(used) + 1))}}};"
            )
        else:
            self.before.append(f"const T* const coef = {place};")
        self.element += [f"T {name} = {at};" for name, at in zip(names, arrays, strict=True)]
        self.element.append(f"T grad = sum0[i] + {self.number(decay)} * theta;")
        self.element += [plugin.cuda.strip()]
        self.element += [f"{at} = {name};" for name, at in zip(names, arrays, strict=True)]

    def log_prob(
        self,
        plugin: Likelihood,
        label: str,
        x: Any,
        heads: Sequence[tuple[Any, ...]],
        parts: Any,
        dheads: Sequence[Any],
    ) -> None:
        """The plugin's log p(x | heads) into parts (tiles of columns, rows), its gradient by each head into dheads.

        x (B, D); a head is (number of its product, bias) or (array of D or 1 element,).
        """
        assert plugin.cuda is not None
        self.parts.add("reduce.cuh")
        code = plugin.cuda.strip()
        label += "_" + hashlib.sha256(code.encode()).hexdigest()[:6]  # other options, another text
        self.device = f"namespace {label} {{\n{code}\n}}\n"
        place = self.array(x, "nc")
        self.before.append(
            f"const int samples = size_r / size_n;\nT value[$count];".replace("$count", str(self._count))
        )
        self.before += ["#pragma unroll", f"for (int i = 0; i < {self._count}; i++)", "    value[i] = 0;"]
        self.element += ["const int index_n = index_r / samples;", f"const T x = {place};"]
        names = []
        for i, (head, given) in enumerate(zip(plugin.heads, heads, strict=True)):
            names.append(f"head{i}")
            if head.source == "affine":
                number, bias = given
                scale = f"(T){head.scale!r} * " if head.scale != 1 else ""
                self.element.append(f"const T head{i} = {scale}(sum{number}[i] + {self.array(bias, 'c')});")
            else:
                self.element.append(
                    f"const T head{i} = {self.array(given[0], 'c' if head.source == 'per_dim' else '')};"
                )
        self.element.append(f"value[i] = {label}::log_prob<T>({', '.join(['x', *names])});")
        if dheads:
            slopes = [f"d{name}" for name in names]
            self.element.append(f"T {', '.join(slopes)};")
            self.element.append(f"{label}::log_prob_backward<T>({', '.join(['x', *names, *slopes])});")
            for slope, array in zip(slopes, dheads, strict=True):
                self.store(array, slope)
        at = self.array(parts, "pr", written=True).split("_[")[0]
        self._target = f"{at}_[(long long)tile_c * {at}_p + (long long)(base_r + (int)threadIdx.x) * {at}_r]"
        self.after = ROW_SUMS.splitlines()

    @property
    def _count(self) -> int:
        return self.tile.rows * self.tile.columns // 256


def grid(tile: Tile) -> Shape:
    """A block a tile, columns of tiles first."""

    def shape(sizes: Sizes) -> tuple[Dim, Dim]:
        return (-(-sizes["r"] // tile.rows) * -(-sizes["c"] // tile.columns) * sizes.get("s", 1), 1, 1), (256, 1, 1)

    return shape


def _along(array: Any, axis: int) -> bool:
    """Whether neighbours along this axis of two are neighbours in memory, rather than those along the other."""
    (n, s), (m, t) = ((array.shape[i], array.strides[i]) for i in (axis, 1 - axis))
    return bool(n > 1 and (m == 1 or s <= t))


def _array(name: str, letters: str, written: bool) -> str:
    return ", ".join([f"{'' if written else 'const '}T* {name}_", *(f"int {name}_{letter}" for letter in letters)])
