"""What a CUDA text takes, read from its own parameter list, and the launch that fits given arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Dim = tuple[int, int, int]
Sizes = Mapping[str, int]
Shape = Callable[[Sizes], tuple[Dim, Dim]]  # sizes of the axes to (grid, block)

TYPES = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned int": np.uint32,
    "long long": np.int64,
    "unsigned char": np.uint8,
}
HEAD = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([\d, ]+\) )?(\w+)\(([^)]*)\)')


@dataclass(frozen=True)
class Launch:
    """One kernel launch: ``module.get_function(name)(grid, block, args)``; no dynamic shared memory is used.

    ``args`` holds the given arrays (only their address counts) and NumPy scalars, in the order of the CUDA text.
    """

    name: str
    grid: Dim
    block: Dim
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Parameter:
    """One parameter of the CUDA text. ``kind``: array, stride (of ``name`` along ``letter``), size or const."""

    kind: str
    name: str
    type: str  # of the value, or of the array's elements; "T" is float or double
    letter: str = ""
    written: bool = False


@dataclass(frozen=True)
class Source:
    """The text of one kernel, the names of the texts it stands on, and how its grid follows from its axes.

    ``accepts``: what ``launch`` takes, in order; a name without a parameter (scratch) is ignored.
    """

    name: str
    text: str
    shape: Shape
    parts: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    device: str = ""  # device functions of its own, that other kernels of a module may share

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        match = HEAD.search(self.text)
        if match is None or match[1] != self.name:
            raise ValueError(f"no kernel {self.name} in its text")
        return tuple(_parameter(item) for item in match[2].split(","))

    @cached_property
    def letters(self) -> dict[str, str]:
        """The axes of each array."""
        arrays = {p.name: "" for p in self.parameters if p.kind == "array"}
        for p in self.parameters:
            if p.kind == "stride":
                arrays[p.name] += p.letter
        return arrays

    @property
    def accepts(self) -> tuple[str, ...]:
        return self.given or tuple(p.name for p in self.parameters if p.kind in ("array", "const"))

    def loads(self, name: str) -> bool:
        """Whether the text uses an array's elements before it assigns them."""
        first = re.search(rf"(?<!&)\b{name}_\[[^][]*\]( = )?", HEAD.split(self.text)[-1])
        return first is not None and first[1] is None

    def launch(self, *given: Any, **named: Any) -> Launch:
        """The launch on these arrays and constants; arrays need ``shape``, ``strides``, ``dtype``, nothing else.

        Axes of size 1 broadcast. An array with more axes than letters has its leading axes merged.
        """
        values = dict(zip(self.accepts[: len(given)], given, strict=True)) | named
        if set(values) != set(self.accepts) or len(given) > len(self.accepts):
            raise TypeError(f"{self.name} takes {', '.join(self.accepts)}, not {', '.join(values)}")
        fitted = {name: _fit(self.name, name, values[name], letters) for name, letters in self.letters.items()}
        sizes = self._sizes(fitted)
        number = self._number(values)
        args: list[Any] = []
        for p in self.parameters:
            if p.kind == "array":
                self._check(p, values[p.name], number)
                args.append(values[p.name])
            elif p.kind == "stride":
                args.append(_narrow(p.type, fitted[p.name][p.letter][1]))
            elif p.kind == "size":
                args.append(_narrow(p.type, sizes[p.letter]))
            else:
                args.append((number if p.type == "T" else TYPES[p.type])(values[p.name]))
        grid, block = self.shape(sizes)
        return Launch(self.name, grid, block, tuple(args))

    def _sizes(self, fitted: Mapping[str, Mapping[str, tuple[int, int]]]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for axes in fitted.values():
            for letter, (size, _) in axes.items():
                sizes[letter] = size if sizes.get(letter, 1) == 1 else sizes[letter]
        for p in self.parameters:
            if p.kind == "array":
                for letter, (size, stride) in fitted[p.name].items():
                    if size != sizes[letter] and (size != 1 or p.written):
                        raise ValueError(f"{self.name}: {p.name} has {size} along {letter}, not {sizes[letter]}")
                    if size == 1 and stride:
                        raise AssertionError("an axis of one has no stride")
        return sizes

    def _number(self, values: Mapping[str, Any]) -> Any:
        """float32 or float64: the one type of all arrays declared T."""
        found = {np.dtype(values[p.name].dtype) for p in self.parameters if p.kind == "array" and p.type == "T"}
        if len(found) > 1 or not found <= {np.dtype(np.float32), np.dtype(np.float64)}:
            raise TypeError(f"{self.name}: arrays of {', '.join(map(str, found))}; one of float32, float64 is needed")
        return found.pop().type if found else np.float32

    def _check(self, p: Parameter, array: Any, number: Any) -> None:
        wanted = np.dtype(number if p.type == "T" else TYPES[p.type])
        if np.dtype(array.dtype) != wanted:
            raise TypeError(f"{self.name}: {p.name} is {array.dtype}, not {wanted}")


def _parameter(item: str) -> Parameter:
    match = re.fullmatch(r"\s*(const )?([a-z ]+?|T)\s*(\*?) ?(\w+)\s*", item)
    if match is None:
        raise ValueError(f"parameter not understood: {item!r}")
    constant, kind, pointer, name = match.groups()
    if pointer:
        return Parameter("array", name.removesuffix("_"), kind, written=not constant)
    stride = re.fullmatch(r"(\w+)_([a-z])", name)
    if stride is None:
        return Parameter("const", name, kind)
    if stride[1] == "size":
        return Parameter("size", "", kind, stride[2])
    return Parameter("stride", stride[1], kind, stride[2])


def _fit(kernel: str, name: str, array: Any, letters: str) -> dict[str, tuple[int, int]]:
    """(size, stride in elements) of each axis; the stride of an axis of one is 0."""
    shape, width = tuple(array.shape), np.dtype(array.dtype).itemsize
    axes = [(int(n), int(s) // width if n > 1 else 0) for n, s in zip(shape, array.strides, strict=True)]
    if not letters:
        contiguous = all(s == math.prod(shape[i + 1 :]) for i, (n, s) in enumerate(axes) if n > 1)
        if not contiguous:
            raise ValueError(f"{kernel}: {name} {shape} must be contiguous")
        return {}
    while len(axes) > len(letters):
        (n, outer), (m, inner) = axes[:2]
        if n > 1 and m > 1 and outer != m * inner:
            raise ValueError(f"{kernel}: {name} {shape} does not fit the axes {letters}")
        axes[:2] = [(n * m, inner if m > 1 else outer)]
    while len(axes) < len(letters):
        axes.insert(0, (1, 0))
    return dict(zip(letters, axes, strict=True))


def _narrow(kind: str, value: int) -> Any:
    if kind == "int" and not -(2**31) <= value < 2**31:
        raise ValueError(f"{value} does not fit 32 bits")
    return TYPES[kind](value)


# Grids ------------------------------------------------------------------------------------------------------
# Every block has 256 threads, so that any kernels can be members of one.

WIDE = 256  # longer rows get a whole block, shorter ones a warp
MAX_Y = 65535  # the largest grid along y and z; kernels loop over the rest
MAX_X = 1 << 20


def _ceil(n: int, by: int, most: int = MAX_X) -> int:
    return max(1, min(-(-n // by), most))


def flat(letter: str, per_thread: int = 1) -> Shape:
    """A thread an element (or for ``per_thread`` of them) of one axis."""
    return lambda sizes: ((_ceil(sizes[letter], 256 * per_thread), 1, 1), (256, 1, 1))


def tile(rows: str, columns: str, middle: str = "", per_thread: int = 1) -> Shape:
    """Blocks of 8 rows x 32 columns; the middle axis along z."""

    def shape(sizes: Sizes) -> tuple[Dim, Dim]:
        deep = _ceil(sizes[middle], 1, MAX_Y) if middle else 1
        return (_ceil(sizes[columns], 32 * per_thread), _ceil(sizes[rows], 8, MAX_Y), deep), (32, 8, 1)

    return shape


def rows(letters: str, columns: str = "") -> Shape:
    """A warp a short row, eight to a block, or a block a row longer than ``WIDE``; a second row axis along y."""

    def shape(sizes: Sizes) -> tuple[Dim, Dim]:
        block = (32, 8, 1) if sizes.get(columns, 1) <= WIDE else (256, 1, 1)
        second = _ceil(sizes[letters[1]], 1, MAX_Y) if len(letters) > 1 else 1
        return (_ceil(sizes[letters[0]], block[1]), second, 1), block

    return shape


def columns(letter: str) -> Shape:
    """A block of 32 x 8 threads for 32 columns: each sums every eighth row."""
    return lambda sizes: ((_ceil(sizes[letter], 32), 1, 1), (32, 8, 1))


def one() -> Shape:
    """A single block."""
    return lambda sizes: ((1, 1, 1), (256, 1, 1))
