"""Texts of products y = a b with what follows them as epilogue, a tile a block (``product.cuh``).

``Product`` collects the arrays of one launch and the statements on one element; ``text`` gives the launch. An epilogue
is made from texts that exist already: declared kernels (``elementwise``), a decoder plugin's (``log_prob``), an
optimizer plugin's (``update``). Nothing is known by name.

The three products of a dense layer differ in strides alone; which axis of a and of b lies densely in memory is read
from the arrays. The bias gradient is one more row of a^T: ``last`` (K,) below the rows of a.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from string import Template
from typing import Any

import numpy as np

from aevb_engine.cuda.launch import Dim, Shape, Sizes, Source
from aevb_engine.cuda.likelihood import Likelihood
from aevb_engine.cuda.optimizer import Optimizer
from aevb_engine.cuda.source import PREFIX, fill, parameter
from aevb_engine.cuda.source import at as element_at
from aevb_engine.kernel import Kernel
from aevb_engine.memory import view

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


def fits(tile: Tile, heads: int = 1, item: int = 4) -> bool:
    """Whether the registers hold a thread's elements of the tile: ``heads`` sums each, of ``item`` bytes.

    With several sums in double the likelihood's own numbers need as much again.
    """
    width = heads * item if heads == 1 or item == 4 else 2 * heads * item
    return tile.rows * tile.columns // 256 * width <= 128


def choose(m: int, k: int, n: int, tensor_cores: bool = False, heads: int = 1, item: int = 4) -> Tile:
    """The tile for y (m, n) = a (m, k) b (k, n), ``heads`` times: few waves over the device, then large tiles."""

    def cycles(tile: Tile) -> float:
        blocks = -(-m // tile.rows) * -(-n // tile.columns)
        waves = -(-blocks // MULTIPROCESSORS)
        return waves * (WAIT + tile.rows * tile.columns * k * heads / 128 * tile.cost)

    allowed = [t for t in TILES if fits(t, heads, item) and (t.rows >= 32 or not tensor_cores)]
    return min(allowed or TILES[3:4], key=cycles)


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
WITHIN = " % (tiles_c * ((size_r + $rows - 1) / $rows))"
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


@dataclass(frozen=True)
class Picked:
    """Rows of a that lie in the data set: scale * data[orders[cursor]], data (N, K), orders (S, M)."""

    data: Any  # of y's type or of bytes
    cursor: Any  # (1,)
    orders: Any
    scale: float

    @property
    def stored(self) -> str:
        return "unsigned char" if np.dtype(self.data.dtype) == np.uint8 else "T"

    @property
    def parameters(self) -> str:
        stored = parameter("data", "vk").replace("const T*", f"const {self.stored}*")
        orders = parameter("orders", "om").replace("const T*", "const long long*")
        return f"{stored}, const long long* cursor_, {orders}, T scale"

    @property
    def given(self) -> tuple[Any, ...]:
        return self.data, self.cursor, self.orders, self.scale

    @property
    def text(self) -> str:
        return PICKED.replace("$stored", self.stored)


PICKED = """\
const long long o = cursor_[0] < 0 ? 0 : cursor_[0] < size_o ? cursor_[0] : size_o - 1;
const Picked<$stored> picked = {data_, data_v, data_k, orders_ + o * orders_o, orders_m, size_v, scale};
"""


@dataclass(frozen=True)
class _Given:
    """A parameter of the epilogue: an array with its axes, or a constant (``letters`` is "const")."""

    name: str
    letters: str
    value: Any
    written: bool


@dataclass
class Product:
    """One launch in the making: y (m, n) = a (m, k) b (k, n), for several b as several sums side by side.

    The epilogue is text: ``before`` and ``after`` for the block, ``element`` for one element, where ``sum0[i]``,
    ``sum1[i]``, ... are the products and ``index_r``, ``index_c`` the place.
    """

    a: Any
    factors: Sequence[Any]  # each b (k, n)
    last: Any = None  # (k,): one more row of a
    tensor_cores: bool = False
    label: str = ""  # words of the name
    forced: Tile | None = None  # instead of the one chosen by shape
    splits: int = 1  # parts of k by blocks of their own, that whoever reads y adds up
    picked: Picked | None = None  # what the rows of a are copies of, and read in their place
    before: list[str] = field(default_factory=list)
    element: list[str] = field(default_factory=list)
    after: str = ""
    device: str = ""
    given: list[_Given] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.a.shape[0]) + (self.last is not None), int(self.factors[0].shape[1])

    @property
    def tile(self) -> Tile:
        if self.forced is not None:
            return self.forced
        (m, n), k = self.shape, int(self.a.shape[1])
        return choose(m, k, n, self.tensor_cores, len(self.factors), np.dtype(self.a.dtype).itemsize)

    @property
    def share(self) -> int:
        """k of one of the parts: whole chunks."""
        k, depth = int(self.a.shape[1]), self.tile.depth
        return -(-k // (self.splits * depth)) * depth if self.splits > 1 else k

    def array(self, value: Any, letters: str, written: bool = False) -> str:
        """A parameter for the array with these axes; its element at (index_r, index_c, ...) in the text."""
        same = (i for i, g in enumerate(self.given) if g.letters == letters and view(g.value) == view(value))
        at = next(same, len(self.given))
        if at == len(self.given):
            self.given.append(_Given(f"e{at}", letters, value, written))
        elif written:
            self.given[at] = replace(self.given[at], written=True)
        return element_at(f"e{at}", letters)

    def number(self, value: float) -> str:
        """A parameter for a constant of the run."""
        name = f"k{len(self.given)}"
        self.given.append(_Given(name, "const", value, False))
        return name

    def text(self) -> tuple[Source, tuple[Any, ...]]:
        """The source and what it is launched with."""
        parameters, given = [parameter("a", "mk")], [self.a]
        if self.picked is not None:
            parameters, given = [self.picked.parameters], [*self.picked.given]
        parameters.append(parameter("b0", "kc"))
        given.append(self.factors[0])
        for i, b in enumerate(self.factors[1:], 1):
            parameters.append(parameter(f"b{i}", "kc"))
            given.append(b)
        if self.last is not None:
            parameters.append(parameter("last", "k"))
            given.append(self.last)
        for g in self.given:
            parameters.append(f"T {g.name}" if g.letters == "const" else parameter(g.name, g.letters, g.written))
            given.append(g.value)
        letters = {letter for g in self.given if g.letters != "const" for letter in g.letters}
        sizes = ["m", "k", "c", "r", *sorted(letters - set("rc")), *("vo" if self.picked else "")]
        parameters.append(", ".join(f"int size_{x}" for x in sizes))
        values = self._numbers | {
            "parameters": ", ".join(parameters),
            "within": "",
            "range": "",
            "products": "\n".join(self._products()),
            "before": "\n".join(self.before),
            "element": "\n".join(self.element),
            "after": self.after,
        }
        if self._is_cut:
            values["within"] = Template(WITHIN).substitute(self._numbers)
            values["range"] = Template(RANGE).substitute(self._numbers)
        digest = hashlib.sha256((self.device + fill(KERNEL, values | {"name": ""})).encode()).hexdigest()[:6]
        words = (f"{self.tile.rows}x{self.tile.columns}", self.label, digest)
        name = f"{PREFIX}{'tf32_' if self.tensor_cores else ''}product_{'_'.join(w for w in words if w)}"
        code = fill(KERNEL, values | {"name": name})
        return Source(name, code, grid(self.tile), ("product.cuh",), device=self.device), tuple(given)

    @property
    def _numbers(self) -> dict[str, str]:
        tile = self.tile
        numbers = {"rows": tile.rows, "columns": tile.columns, "share": self.share}
        return {name: str(n) for name, n in (numbers | {"count": tile.rows * tile.columns // 256}).items()}

    @property
    def _is_cut(self) -> bool:
        return self.share < int(self.a.shape[1])

    def _products(self) -> list[str]:
        """A call for each b."""
        extra, cut, tile = self.last is not None, self._is_cut, self.tile
        last = ("last_", "last_k") if extra else ("b0_", "0")
        lines = [self.picked.text] if self.picked else []
        for i, b in enumerate(self.factors):
            flags = (_along(self.a, 1), _along(b, 0), extra, self.tensor_cores)
            fixed = ", ".join([*map(str, (tile.rows, tile.columns, tile.depth)), *(str(f).lower() for f in flags)])
            at = [f"{p}_ + (long long)first * {p}_k" if cut else f"{p}_" for p in ("a", f"b{i}")]
            a = "picked" if self.picked else f"Dense<T>{{{at[0]}, a_m, a_k}}"
            lines += [
                f"T sum{i}[{self._numbers['count']}];",
                f"product<{fixed}>((int)threadIdx.x, base_r, base_c, {a}, {last[0]}, {last[1]},",
                f"    Dense<T>{{{at[1]}, b{i}_c, b{i}_k}}, size_m, size_c, {'inner' if cut else 'size_k'}, sum{i});",
            ]
        return lines

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
        before += [
            f"const int {what}_{letter} = {what}_{axis};"
            for letter, axis in zip(space, "rc", strict=True)
            for what in ("index", "size")
            if letter != axis and re.search(rf"\b{what}_{letter}\b", kernel.cuda)
        ]
        body = re.split(r"(?<=;) ", kernel.cuda.strip())
        self.element += ["{", *("    " + line for line in (*before, *body, *after)), "}"]

    def update(self, plugin: Optimizer, grad: Any, coef: Any, decay: float, theta: Any, state: Sequence[Any]) -> None:
        """grad = the product, stored; then the plugin's statements, weight decay in the gradient they see."""
        assert plugin.cuda is not None
        self.store(grad, "sum0[i]")
        names = ["theta", *plugin.state]
        arrays = [self.array(value, "rc", written=True) for value in (theta, *state)]
        table = self.array(coef, "").removesuffix("[0]")
        used = [int(i) for i in re.findall(r"\bcoef\[(\d+)\]", plugin.cuda)]
        if used and len(used) == len(re.findall(r"\bcoef\b", plugin.cuda)):  # read once, not for every element
            entries = ", ".join(f"{table}[{i}]" for i in range(max(used) + 1))
            self.before.append(f"const T coef[{max(used) + 1}] = {{{entries}}};")
        else:
            self.before.append(f"const T* const coef = {table};")
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
        code = plugin.cuda.strip()
        label += "_" + hashlib.sha256(code.encode()).hexdigest()[:6]  # other options, another text
        self.device = f"namespace {label} {{\n{code}\n}}\n"
        self.before += [
            "const int samples = size_r / size_n;",
            f"T value[{self._numbers['count']}] = {{}};",
        ]
        self.element += ["const int index_n = index_r / samples;", f"const T x = {self.array(x, 'nc')};"]
        names = []
        for i, (head, given) in enumerate(zip(plugin.heads, heads, strict=True)):
            names.append(f"head{i}")
            if head.source == "affine":
                number, bias = given
                scale = f"(T){head.scale!r} * " if head.scale != 1 else ""
                value = f"{scale}(sum{number}[i] + {self.array(bias, 'c')})"
            else:
                value = self.array(given[0], "c" if head.source == "per_dim" else "")
            self.element.append(f"const T head{i} = {value};")
        self.element.append(f"value[i] = {label}::log_prob<T>({', '.join(['x', *names])});")
        if dheads:
            slopes = [f"d{name}" for name in names]
            self.element.append(f"T {', '.join(slopes)};")
            self.element.append(f"{label}::log_prob_backward<T>({', '.join(['x', *names, *slopes])});")
            for slope, array in zip(slopes, dheads, strict=True):
                self.store(array, slope)
        target = self.array(parts, "pr", written=True).replace("index_p", "tile_c")
        target = target.replace("index_r", "(base_r + (int)threadIdx.x)")
        self.after = fill(ROW_SUMS, self._numbers | {"target": target})


def grid(tile: Tile) -> Shape:
    """A block a tile, columns of tiles first."""

    def shape(sizes: Sizes) -> tuple[Dim, Dim]:
        return (-(-sizes["r"] // tile.rows) * -(-sizes["c"] // tile.columns) * sizes.get("s", 1), 1, 1), (256, 1, 1)

    return shape


def _along(array: Any, axis: int) -> bool:
    """Whether neighbours along this axis of two are neighbours in memory, rather than those along the other."""
    (n, s), (m, t) = ((array.shape[i], array.strides[i]) for i in (axis, 1 - axis))
    return bool(n > 1 and (m == 1 or s <= t))
