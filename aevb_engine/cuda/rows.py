"""The narrow layers around z by blocks that each take a few data points: one launch where there were three.

Row r of each of these layers depends on row r alone, so that from the encoder's last hidden layer to the decoder's
first one a block needs no other, and none on the way back:

``Forward``     head = h W; the latent pass of ``latent.cu`` (bias, sigma, noise, z, kl or log-densities); y = z W
``Backward``    dz = dy W^T; the declared kernels from dz to the head's gradient; dh = dhead W^T

What is done to an element of y or of dh is an epilogue, as of any ``Product``. The texts in the middle are those of
launches of their own, with the block's rows as their grid and shared memory in place of what they hand over.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aevb_engine.cuda import product
from aevb_engine.cuda.launch import HEAD, Dim, Shape, Sizes, Source
from aevb_engine.cuda.product import MULTIPROCESSORS, Product
from aevb_engine.cuda.source import PREFIX, fill, parameter
from aevb_engine.memory import address
from aevb_engine.operation import Buffer

ROWS = (1, 2, 4, 8)  # data points of a block
MOST = 8  # sums of a thread for one number of a weight matrix
SCRATCH = {4: 8192, 8: 4224}  # numbers of product_scratch, by their bytes
WIDEST = 256  # of a head; wider ones are products like others

# What an H100 needs, in cycles of 1.7 GHz. The weights come from the second-level cache, once for each block: how fast
# one multiprocessor and all of them together get them bounds the joined form, beside the waits that nothing hides.
CLEARLY = 0.9  # of an estimate
BARRIER = 1750  # between two stages: 1 us
LIGHT = 1000  # a member that is not a product: loads, arithmetic, stores
PHASE = 600  # first loads, barriers of the block and last sums of a layer
BYTES_OF_ONE = 40  # a cycle
BYTES_OF_ALL = 3200
SUMS = {True: 32, False: 64}  # multiplications a cycle, forward and backward: what shared memory has operands for


def joined(blocks: int, layers: Iterable[tuple[int, int]], width: int, sums: int) -> float:
    """Cycles of blocks that each read all weights of some layers: (numbers of ``width`` bytes, rows that use each)."""
    each = max(1 / BYTES_OF_ONE, min(blocks, MULTIPROCESSORS) / BYTES_OF_ALL) * width
    work = sum(PHASE + n * max(-(-rows // MOST) * each, rows * width / 4 / sums) for n, rows in layers)
    return -(-blocks // MULTIPROCESSORS) * (work + 2 * PHASE)  # and the latent pass, and the elements


def separate(products: Iterable[tuple[int, int, int]]) -> float:
    """Cycles of two products (m, k, n), the light member between them and the two barriers that joining saves."""
    return sum(_product(*shape) for shape in products) + LIGHT + 2 * BARRIER


def _product(m: int, k: int, n: int) -> float:
    """As ``product.choose`` counts; at best what is idle of the device takes parts of k."""
    tile = product.choose(m, k, n)
    blocks = -(-m // tile.rows) * -(-n // tile.columns)
    inner = max(-(-k * blocks // MULTIPROCESSORS), min(k, tile.depth))
    return -(-blocks // MULTIPROCESSORS) * (product.WAIT + tile.rows * tile.columns * min(k, inner) / 128 * tile.cost)


def choose(sizes: Sizes, width: int, forward: bool) -> int | None:
    """Data points of a block, None where separate launches are faster or shared memory is too small.

    ``sizes``: b, l, k (the encoder's last hidden layer), h (of the head), z, n (the decoder's first hidden layer).
    """
    b, samples, k, h, z, n = (sizes[letter] for letter in "blkhzn")
    if h > WIDEST:
        return None
    shapes = [(b, k, h), (b * samples, z, n)] if forward else [(b * samples, n, z), (b, h, k)]
    found = {}
    for rows in ROWS:
        room = _Room(sizes, rows)
        if (room.forward if forward else room.backward) <= SCRATCH[width] and (rows == 1 or rows < 2 * b):
            layers = [(k * h, rows), (z * n, rows * samples)]
            found[rows] = joined(-(-b // rows), layers, width, SUMS[forward])
    if not found or min(found.values()) > CLEARLY * separate(shapes):
        return None
    if forward:
        return min(found, key=lambda rows: found[rows])
    # On the way back tiles of a gradient wait for the same stage: few blocks, so that all run side by side.
    return max(rows for rows in found if found[rows] <= 1.3 * min(found.values()))


@dataclass(frozen=True)
class _Room:
    """Where what a block works on lies in the shared scratch; numbers, not bytes."""

    sizes: Sizes
    rows: int  # data points

    @property
    def groups(self) -> int:
        """Passes over the decoder's weights."""
        return -(-self.rows * self.sizes["l"] // MOST)

    @property
    def group(self) -> int:
        """Samples of a pass."""
        return -(-self.rows * self.sizes["l"] // self.groups)

    @property
    def samples(self) -> int:
        """Rows of samples that are kept, some of them behind the last."""
        return self.groups * self.group

    @property
    def parts(self) -> int:
        """Shares of k in the head's sums: all threads busy, no share shorter than what adding the shares takes."""
        return max(1, min(256 // self.sizes["h"], math.isqrt(self.sizes["k"])))

    @property
    def narrow(self) -> int:
        """The samples of z or dz, then what is kept for each data point."""
        return self.samples * self.sizes["z"] + self.rows * (self.sizes["h"] + self.sizes["z"])

    @property
    def forward(self) -> int:
        s = self.sizes
        start = self.rows * s["k"] + (self.rows * self.parts * s["h"] if self.parts > 1 else 0)
        return self.narrow + max(start, self.samples * s["n"])

    @property
    def backward(self) -> int:
        return self.narrow + max(self.samples * self.sizes["n"], self.rows * self.sizes["k"])


def lanes(k: int) -> int:
    """Threads that share a sum over k: up to eight numbers each."""
    return next((n for n in (4, 8, 16) if k <= 8 * n), 32)


# Texts within a text ----------------------------------------------------------------------------------------

INNER = """\
__device__ __forceinline__ void $name(
    $parameters, const RowsPlace blockIdx, const RowsPlace gridDim, const RowsPlace threadIdx, const RowsPlace blockDim)
{
    $body
}
"""


def inner(source: Source) -> tuple[str, str]:
    """The text of a launch as a device function that is told its place: name and text."""
    match = HEAD.search(source.text)
    assert match is not None
    body = source.text[match.end() :].strip().removeprefix("{").removesuffix("}").strip("\n")
    name = f"{source.name}_of_rows"
    parameters = re.sub(r"\s+", " ", match[2]).strip()
    return name, fill(INNER, {"name": name, "parameters": parameters, "body": re.sub(r"^    ", "", body, flags=re.M)})


BY_ROWS = re.compile(r"index_(\w) = blockIdx\.y \* blockDim\.y \+ threadIdx\.y;")  # how an elementwise text begins


def by_rows(source: Source) -> str | None:
    """The axis that an elementwise text spreads along the grid's y; None where it is another form of text."""
    found = set(BY_ROWS.findall(source.text))
    return found.pop() if len(found) == 1 and "blockIdx.z" not in source.text and not source.parts else None


# The launches -----------------------------------------------------------------------------------------------

KERNEL = """\
extern "C" __global__ void __launch_bounds__(256) $name($parameters)
{
    const int base_b = (int)blockIdx.x * $rows, samples = size_r / size_b;
    $phases
    __syncthreads();  // the sums of the elements are there
    for (int i = threadIdx.x; i < $many * size_c; i += 256) {
        const int index_r = base_b * $each + i / size_c, index_c = i % size_c;
        if (index_r < size_r) {
            const T sum0 = wide[i];
            $element
        }
    }
}
"""
COPY = """\
for (int i = threadIdx.x; i < $rows * $columns; i += 256)
    if ($base + i / $columns < $last)
        $target;
"""


@dataclass
class _Joined(Product):
    """What both have in common."""

    rows: int = 1
    _fixed: list[tuple[str, Any]] = field(default_factory=list)  # parameters and what is given for them

    def give(self, parameter: str, value: Any) -> None:
        self._fixed.append((parameter, value))

    def joined(self, kind: str, phases: str, samples: bool, sizes: str) -> tuple[Source, tuple[Any, ...]]:
        """The launch; ``samples``: whether the elements at its end are of samples or of data points."""
        parameters = [p for p, _ in self._fixed]
        given = [v for _, v in self._fixed]
        for g in self.given:
            parameters.append(f"T {g.name}" if g.letters == "const" else parameter(g.name, g.letters, g.written))
            given.append(g.value)
        parameters += [f"int size_{letter}" for letter in sizes]
        values = {
            "rows": str(self.rows),
            "many": f"({self.rows} * samples)" if samples else str(self.rows),
            "each": "samples" if samples else "1",
            "phases": phases,
            "element": "\n".join(self.element),
            "parameters": ", ".join(parameters),
        }
        kernel = KERNEL if samples else KERNEL.replace(", samples = size_r / size_b", ", samples = size_s / size_b")
        digest = hashlib.sha256((self.device + fill(kernel, values | {"name": ""})).encode()).hexdigest()[:6]
        name = f"{PREFIX}{kind}_{self.rows}_{self.label}_{digest}"
        text = fill(kernel, values | {"name": name})
        parts = ("reduce.cuh", "noise.cuh", "product.cuh", "rows.cuh")
        return Source(name, text, _grid(self.rows), parts, device=self.device), tuple(given)


def _grid(rows: int) -> Shape:
    def shape(sizes: Sizes) -> tuple[Dim, Dim]:
        return (-(-sizes["b"] // rows), 1, 1), (256, 1, 1)

    return shape


def _place(rows: int) -> str:
    """Threads of a block as rows of data points."""
    across = 256 // rows
    return f"RowsPlace{{threadIdx.x % {across}u, threadIdx.x / {across}u, 0u}}, RowsPlace{{{across}u, {rows}u, 1u}}"


def _copy(rows: str, columns: str, base: str, last: str, target: str) -> str:
    return fill(COPY, {"rows": rows, "columns": columns, "base": base, "last": last, "target": target})


def plain(value: Any) -> Any:
    """A buffer's array; anything else as it is."""
    return value.array if isinstance(value, Buffer) else value


def dense(value: Any) -> bool:
    """Whether the numbers lie one behind the other."""
    width, expected = np.dtype(value.dtype).itemsize, []
    for n in reversed(value.shape):
        expected.append(width)
        width *= n
    return all(s == e or n == 1 for s, e, n in zip(value.strides, reversed(expected), value.shape, strict=True))


@dataclass
class Forward(_Joined):
    """From the encoder's last hidden layer to y: ``a`` is z as (B L, Z), ``factors`` the decoder's first weights."""

    hidden: Any = None  # (B, K)
    weight: Any = None  # of the head (K, 2 Z)
    latent: Any = None  # the Text of the latent pass
    sizes: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> tuple[Source, tuple[Any, ...]]:
        """The source and what it is launched with."""
        source, rows = self.latent.source, self.rows
        room = _Room(self.sizes, rows)
        name, self.device = inner(source)
        self.give("const T* from_, int from_b, int from_k", self.hidden)
        self.give("const T* by_, int by_k, int by_h", self.weight)
        values = dict(zip(source.accepts, map(plain, self.latent.given), strict=True))
        place = ("head - (long long)base_b * size_h", {"b": "size_h", "h": "1"})
        own = {
            "product": place,
            "head": place,
            "sigma": ("sigma - (long long)base_b * size_z", {"b": "size_z", "z": "1"}),
            "z": ("z - (long long)base_b * (samples * size_z)", {"b": "samples * size_z", "l": "size_z", "z": "1"}),
        }
        call: list[str] = []
        for p in source.parameters:
            if p.kind == "array":
                head = f"{'' if p.written else 'const '}{p.type}* {p.name}_"
                if p.name != "product":  # what the bias is added to: never outside the block
                    letters = source.letters[p.name]
                    self.give(", ".join([head, *(f"int {p.name}_{x}" for x in letters)]), values[p.name])
                call.append(own[p.name][0] if p.name in own else f"{p.name}_")
            elif p.kind == "stride":
                call.append(own[p.name][1][p.letter] if p.name in own else f"{p.name}_{p.letter}")
            elif p.kind == "size":
                call.append(f"size_{p.letter}")
            else:
                self.give(f"{p.type} {p.name}", values[p.name])
                call.append(p.name)
        self.give("const T* to_, int to_z, int to_c", self.factors[0])
        first = f"1, {rows}, {room.parts}"
        phases = fill(FORWARD, {
            "rows": str(rows), "samples": str(room.samples), "first": first,
            "second": f"{room.groups}, {room.group}, 1", "latent": name,
            "given": "\n".join(line + "," for line in _lines(call)),
            "place": f"RowsPlace{{blockIdx.x, 0u, 0u}}, RowsPlace{{gridDim.x, 1u, 1u}}, {_place(rows)}",
            "head": _copy(str(rows), "size_h", "base_b", "size_b",
                "head_[(long long)(base_b + i / size_h) * head_b + i % size_h * head_h] = head[i]"),
            "sigma": _copy(str(rows), "size_z", "base_b", "size_b",
                "sigma_[(long long)(base_b + i / size_z) * sigma_b + i % size_z * sigma_z] = sigma[i]"),
            "z": _copy(f"{rows} * samples", "size_z", "base_b * samples", "size_r",
                "z_[(long long)(base_b + i / size_z / samples) * z_b + (long long)(i / size_z % samples) * z_l"
                " + i % size_z * z_z] = z[i]"),
        })  # fmt: skip
        return self.joined(f"rows_{source.name.removeprefix(PREFIX)}", phases, True, "blzhkrc")


FORWARD = """\
T* const head = product_scratch;
T* const sigma = head + $rows * size_h;
T* const z = sigma + $rows * size_z;
T* const wide = z + $samples * size_z;  // the encoder's layer and shares of sums, then the sums of the decoder's
for (int i = threadIdx.x; i < $rows * size_k; i += 256)
    if (base_b + i / size_k < size_b)
        wide[i] = from_[(long long)(base_b + i / size_k) * from_b + i % size_k * from_k];
__syncthreads();  // the encoder's layer is there
rows_by_columns<$first>(threadIdx.x, wide, size_k, by_, by_k, by_h, size_h, wide + $rows * size_k, head);
__syncthreads();  // the sums of the head are there
$latent(
    $given
    $place);
__syncthreads();  // z is there
$head
$sigma
$z
rows_by_columns<$second>(threadIdx.x, z, size_z, to_, to_z, to_c, size_c, z, wide);
"""


@dataclass
class Backward(_Joined):
    """From the gradient by the decoder's first layer to the one by the encoder's last.

    ``a``: the head's gradient (B, 2 Z); ``factors``: the head's weights (2 Z, K).
    """

    dy: Any = None  # (B L, N)
    weight: Any = None  # of the decoder's first layer (Z, N)
    dz: Any = None  # (B L, Z)
    middle: Sequence[Any] = ()  # Texts from dz to the head's gradient
    sizes: Mapping[str, int] = field(default_factory=dict)

    def fits(self) -> bool:
        """Whether the texts in the middle are elementwise in a block's own data points, and write nothing else."""
        return all(self._fits(text) for text in self.middle)

    def _fits(self, text: Any) -> bool:
        source, s = text.source, self.sizes
        letter = by_rows(source)
        space = max(source.letters.values(), key=len)
        if letter is None or len(space) not in (2, 3) or letter != space[0]:
            return False
        launch = source.launch(*map(plain, text.given))
        found = {p.letter: n for p, n in zip(source.parameters, launch.args, strict=True) if p.kind == "size"}
        if [found.get(x) for x in space] != [s["b"], *([s["l"]] if len(space) == 3 else []), s["z"]]:
            return False
        values = dict(zip(source.accepts, map(plain, text.given), strict=True))
        for p in source.parameters:
            if p.kind != "array":
                continue
            held = self.held(values[p.name])
            if p.written and (
                held is None or held[0] == "dz" or source.letters[p.name] not in (space, space[0] + space[-1])
            ):
                return False
            if not p.written and held is not None and held[0] == "dz" and source.letters[p.name] != space:
                return False
        return True

    def held(self, value: Any) -> tuple[str, int] | None:
        """What stands in shared memory of this array: dz or the head's gradient, and from which column."""
        b, z = self.sizes["b"], self.sizes["z"]
        if address(value) == address(self.dz) and dense(value) and value.size == self.dz.size:
            return "dz", 0
        width = np.dtype(value.dtype).itemsize
        column = (address(value) - address(self.a)) // width
        if tuple(value.shape) == (b, z) and 0 <= column <= z and (b == 1 or value.strides == self.a.strides):
            return "dhead", column
        return None

    def text(self) -> tuple[Source, tuple[Any, ...]]:
        """The source and what it is launched with."""
        rows = self.rows
        room = _Room(self.sizes, rows)
        self.give("const T* from_, int from_s, int from_n", self.dy)
        self.give("const T* by_, int by_z, int by_n", self.weight)
        self.give("T* dz_, int dz_s, int dz_z", self.dz)
        self.give("T* dhead_, int dhead_b, int dhead_h", self.a)
        self.give("const T* to_, int to_h, int to_c", self.factors[0])
        devices, calls = [], []
        for number, text in enumerate(self.middle):
            name, device = inner(text.source)
            devices.append(device)
            calls += [f"{name}(", *("    " + line + "," for line in _lines(self._call(text, f"m{number}")))]
            calls.append(f"    RowsPlace{{0u, blockIdx.x, 0u}}, RowsPlace{{1u, gridDim.x, 1u}}, {_place(rows)});")
            calls.append("__syncthreads();  // the gradient of the head is there")
        self.device = "\n".join(dict.fromkeys(devices))
        phases = fill(BACKWARD, {
            "rows": str(rows), "samples": str(room.samples),
            "first": f"{room.groups}, {room.group}, {lanes(self.sizes['n'])}",
            "second": f"1, {rows}, {lanes(self.sizes['h'])}",
            "middle": "\n".join(calls),
            "dz": _copy(f"{rows} * samples", "size_z", "base_b * samples", "size_s",
                "dz_[(long long)(base_b * samples + i / size_z) * dz_s + i % size_z * dz_z] = dz[i]"),
            "dhead": _copy(str(rows), "size_h", "base_b", "size_b",
                "dhead_[(long long)(base_b + i / size_h) * dhead_b + i % size_h * dhead_h] = dhead[i]"),
        })  # fmt: skip
        return self.joined("rows_" + self.middle[0].source.name.removeprefix(PREFIX), phases, False, "bsnzhrc")

    def _call(self, text: Any, prefix: str) -> list[str]:
        """The arguments of a text in the middle; what is not in shared memory becomes a parameter."""
        source = text.source
        space = max(source.letters.values(), key=len)
        axis = {space[0]: "b", space[-1]: "z"} | ({space[1]: "l"} if len(space) == 3 else {})
        size = {"b": "size_b", "l": "samples", "z": "size_z"}
        values = dict(zip(source.accepts, map(plain, text.given), strict=True))
        held = {p.name: self.held(values[p.name]) for p in source.parameters if p.kind == "array"}
        stride = {
            "dz": {"b": "samples * size_z", "l": "size_z", "z": "1"},
            "dhead": {"b": "size_h", "z": "1"},
        }
        call: list[str] = []
        for p in source.parameters:
            if p.kind == "array":
                at = held[p.name]
                if at is None:
                    letters = [axis[x] for x in source.letters[p.name]]
                    head = f"{'' if p.written else 'const '}{p.type}* {prefix}{p.name}_"
                    self.give(", ".join([head, *(f"int {prefix}{p.name}_{x}" for x in letters)]), values[p.name])
                    call.append(f"{prefix}{p.name}_")
                else:
                    call.append(f"{at[0]} + {at[1]} - (long long)base_b * ({stride[at[0]]['b']})")
            elif p.kind == "stride":
                at = held[p.name]
                letter = axis[p.letter]
                call.append(f"{prefix}{p.name}_{letter}" if at is None else stride[at[0]][letter])
            elif p.kind == "size":
                call.append(size[axis[p.letter]])
            else:
                self.give(f"{p.type} {prefix}{p.name}", values[p.name])
                call.append(f"{prefix}{p.name}")
        return call


BACKWARD = """\
T* const dz = product_scratch;
T* const dhead = dz + $samples * size_z;
T* const wide = dhead + $rows * size_h;  // the decoder's gradient, then the sums of the encoder's
for (int i = threadIdx.x; i < $rows * samples * size_n; i += 256)
    if (base_b * samples + i / size_n < size_s)
        wide[i] = from_[(long long)(base_b * samples + i / size_n) * from_s + i % size_n * from_n];
__syncthreads();  // the decoder's gradient is there
rows_by_dots<$first>(threadIdx.x, wide, size_n, by_, by_n, by_z, size_z, dz);
__syncthreads();  // dz is there
$middle
$dz
$dhead
rows_by_dots<$second>(threadIdx.x, dhead, size_h, to_, to_h, to_c, size_c, wide);
"""


def _lines(items: Sequence[str]) -> list[str]:
    """Arguments, a few a line."""
    return [", ".join(items[i : i + 6]) for i in range(0, len(items), 6)]
