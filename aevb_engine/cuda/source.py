"""CUDA text of a declared kernel, from its signature and its ``cuda`` body.

The argument with the most letters spans the loop; every other array is indexed by its own letters (broadcasting). Five
forms, by the letters that outputs marked ``+`` lack:

=============== ===================================================================================================
missing         form
=============== ===================================================================================================
nothing         a thread an element; of three axes the middle one along the grid's z
last letter     a warp (short rows) or a block (long rows) a row; a tree in fixed order
middle letter   a thread for each pair of the outer axes, a loop over the middle one
first letter    a block of 32 x 8 threads for 32 columns; each sums every eighth row, then from first to last
all letters     one block
=============== ===================================================================================================

Scratch arguments become local variables and are not passed.
"""

from __future__ import annotations

import re
from string import Template

from aevb_engine.cuda import launch
from aevb_engine.cuda.launch import Source
from aevb_engine.kernel import Argument, Kernel

PREFIX = "aevb_"  # kernels are called tanh and add, too

FLAT = """\
for (long long index_$c = (long long)blockIdx.x * blockDim.x + threadIdx.x; index_$c < size_$c;
     index_$c += (long long)gridDim.x * blockDim.x) {
    $element
}
"""
TILE = """\
for (int index_$r = blockIdx.y * blockDim.y + threadIdx.y; index_$r < size_$r; index_$r += gridDim.y * blockDim.y)
    for (int index_$c = blockIdx.x * blockDim.x + threadIdx.x; index_$c < size_$c; index_$c += gridDim.x * blockDim.x) {
        $element
    }
"""
DEEP_TILE = """\
for (int index_$m = blockIdx.z; index_$m < size_$m; index_$m += gridDim.z)
    for (int index_$r = blockIdx.y * blockDim.y + threadIdx.y; index_$r < size_$r; index_$r += gridDim.y * blockDim.y)
        for (int index_$c = blockIdx.x * blockDim.x + threadIdx.x; index_$c < size_$c;
             index_$c += gridDim.x * blockDim.x) {
            $element
        }
"""
MIDDLE_SUM = """\
for (int index_$r = blockIdx.y * blockDim.y + threadIdx.y; index_$r < size_$r; index_$r += gridDim.y * blockDim.y)
    for (int index_$c = blockIdx.x * blockDim.x + threadIdx.x; index_$c < size_$c; index_$c += gridDim.x * blockDim.x) {
        $zero
        for (int index_$m = 0; index_$m < size_$m; index_$m++) {
            $element
        }
        $store
    }
"""
ROW_SUM = """\
for (int base = blockIdx.x * blockDim.y; base < size_$r; base += gridDim.x * blockDim.y) {
    const int index_$r = base + threadIdx.y;
    $zero
    if (index_$r < size_$r)
        for (int index_$c = threadIdx.x; index_$c < size_$c; index_$c += blockDim.x) {
            $element
        }
    $reduce
    if (index_$r < size_$r && threadIdx.x == 0) {
        $store
    }
}
"""
SECOND_ROW = """\
for (int index_$m = blockIdx.y; index_$m < size_$m; index_$m += gridDim.y)
"""
COLUMN_SUM = """\
for (int base = blockIdx.x * 32; base < size_$c; base += gridDim.x * 32) {
    const int index_$c = base + threadIdx.x;
    $zero
    if (index_$c < size_$c)
        for (int index_$r = threadIdx.y; index_$r < size_$r; index_$r += blockDim.y) {
            $element
        }
    $reduce
    if (index_$c < size_$c && threadIdx.y == 0) {
        $store
    }
}
"""
TOTAL = """\
$zero
for (int index_$r = 0; index_$r < size_$r; index_$r++)
    for (int index_$c = threadIdx.x; index_$c < size_$c; index_$c += blockDim.x) {
        $element
    }
$reduce
if (threadIdx.x == 0) {
    $store
}
"""


def generate(kernel: Kernel) -> Source:
    """The source of a declared kernel; TypeError where it has no CUDA text."""
    if kernel.cuda is None:
        raise TypeError(f"kernel {kernel.name} has no CUDA text")
    space = kernel.space
    loop, reduce, shape = _form(kernel)
    sums = [a for a in kernel.outputs if a.row_sum]
    blocks = {
        "element": _element(kernel),
        "zero": "\n".join(f"T {a.name} = 0;" for a in sums),
        "reduce": "\n".join(f"{a.name} = {reduce}({a.name});" for a in sums),
        "store": "\n".join(f"{_at(a)} = {a.name};" for a in sums),
    }
    axes = {"r": space[:1], "m": space[1:-1], "c": space[-1:]}
    name = PREFIX + kernel.name
    signature = parameters(kernel, "long long" if loop is FLAT else "int")
    body = fill(loop, axes | blocks)
    text = f'extern "C" __global__ void __launch_bounds__(256) {name}({signature})\n{{\n{indent(body)}}}\n'
    given = tuple(a.name for a in kernel.arguments)
    return Source(name, text, shape, ("reduce.cuh",) if reduce else (), given)


def _form(kernel: Kernel) -> tuple[str, str, launch.Shape]:
    """Loop, device function of the sum, grid."""
    space = kernel.space
    first, last = space[:1], space[-1:]
    sums = {a.letters for a in kernel.outputs if a.row_sum}
    if len(sums) > 1:
        raise TypeError(f"kernel {kernel.name}: sums over different axes")
    kept = sums.pop() if sums else space
    if kept == space:
        if len(space) == 1:
            return FLAT, "", launch.flat(first)
        return (DEEP_TILE if len(space) == 3 else TILE), "", launch.tile(first, last, space[1:-1])
    if len(space) > 1 and kept == space[:-1]:
        loop = SECOND_ROW + indent(ROW_SUM) if len(space) == 3 else ROW_SUM
        return loop, "row_sum", launch.rows(kept, last)
    if len(space) == 3 and kept == first + last:
        return MIDDLE_SUM, "", launch.tile(first, last)
    if len(space) == 2 and kept == last:
        return COLUMN_SUM, "column_sum", launch.columns(last)
    if len(space) == 2 and not kept:
        return TOTAL, "row_sum", launch.one()
    raise TypeError(f"kernel {kernel.name}: no form for sums that keep '{kept}' of '{space}'")


def _element(kernel: Kernel) -> str:
    """Load, body, store for one element."""
    assert kernel.cuda is not None
    arrays = [a for a in kernel.arguments if a.shape != "const" and not a.scratch]
    local = [a.name for a in kernel.arguments if a.scratch or (a.output and not a.inplace and not a.row_sum)]
    lines = [f"{'' if a.output else 'const '}T {a.name} = {_at(a)};" for a in arrays if a.inplace or not a.output]
    lines += [f"T {', '.join(local)};"] if local else []
    lines += re.split(r"(?<=;) ", kernel.cuda.strip())
    lines += [f"{_at(a)} = {a.name};" for a in arrays if a.output and not a.row_sum]
    return "\n".join(lines)


def _at(argument: Argument) -> str:
    return at(argument.name, argument.letters)


def at(name: str, letters: str) -> str:
    """The element of an array under the loop's indices."""
    terms = [f"(long long)index_{letter} * {name}_{letter}" for letter in letters]
    return f"{name}_[{' + '.join(terms) or '0'}]"


def parameter(name: str, letters: str, written: bool = False) -> str:
    """The parameters of an array: its pointer and a stride for each axis."""
    return ", ".join([f"{'' if written else 'const '}T* {name}_", *(f"int {name}_{letter}" for letter in letters)])


def parameters(kernel: Kernel, size: str) -> str:
    """Each array with its strides, each constant, in the order of the signature; then the sizes."""
    items = []
    for a in kernel.arguments:
        if a.shape == "const":
            items.append(f"T {a.name}")
        elif not a.scratch:
            items.append(parameter(a.name, a.letters, a.output))
    return ", ".join([*items, *(f"{size} size_{letter}" for letter in kernel.space)])


def fill(template: str, values: dict[str, str]) -> str:
    """The template with each ``$name`` replaced, many lines at the place's indentation, empty ones dropped."""
    out = []
    for line in template.splitlines():
        block = re.fullmatch(r"( *)\$(\w+)", line)
        if block is None:
            out.append(Template(line).substitute(values))
        elif values[block[2]]:
            out += [block[1] + part for part in values[block[2]].splitlines()]
    return "\n".join(out) + "\n"


def indent(text: str) -> str:
    return "".join("    " + line for line in text.splitlines(keepends=True))
