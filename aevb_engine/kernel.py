"""The kernel language: array code and optional CUDA text under one name and one signature.

A kernel is a function of ``xp`` (numpy or cupy), its inputs, and its outputs last; it writes into the outputs and
allocates nothing large. Its signature gives each argument's shape class, one letter an axis:

====== =============================================================================
class  meaning
====== =============================================================================
``rc`` full: rows x columns (any letters: ``blz``; ``rk`` and ``kc`` are factors of a product)
``r``  one value a row; as ``r+`` in an output: a sum over the columns of the row
``c``  one value a column; as ``c+`` in an output: a sum over the rows
``e``  a range of a flat vector
``s``  one value in an array of one element (it may change between steps); ``s+``: a sum over everything
const  a Python number, fixed for the whole run
====== =============================================================================

An output marked ``!`` is updated in place: read and written. An input marked ``~`` is scratch: overwritten, and
meaningless before and after. In the CUDA text every name is a scalar of type ``T``
that was loaded for one element; outputs are assigned (``+=`` for sums) and stored by the generated wrapper.

CUDA text needs an elementwise kernel: the argument with the most letters spans the loop, the letters of every other
argument are some of these in the same order (broadcasting), and an output with fewer is a sum over the missing ones,
marked ``+``. The text may also use ``index_r`` and ``size_r``, place and size of an axis (``index_c``, ...).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Argument:
    """One argument of a kernel: name, shape class, and how it is used."""

    name: str
    shape: str
    output: bool
    inplace: bool = False
    row_sum: bool = False  # a sum over the axes that are missing
    scratch: bool = False

    @property
    def letters(self) -> str:
        """The axes, a letter each; none for ``s`` and constants."""
        return "" if self.shape in ("s", "const") else self.shape


def subset(letters: str, full: str) -> bool:
    """Whether ``letters`` are some of ``full`` in the same order."""
    rest = iter(full)
    return all(letter in rest for letter in letters)


def parse(signature: str) -> tuple[Argument, ...]:
    """The arguments of ``"x: rc, w: r -> y: rc"`` in order, inputs first."""
    left, arrow, right = signature.partition("->")
    if not arrow or not right.strip():
        raise ValueError(f"kernel signature without outputs: {signature!r}")
    arguments = []
    for side, output in ((left, False), (right, True)):
        for item in filter(None, (part.strip() for part in side.split(","))):
            match = re.fullmatch(r"(\w+)\s*:\s*(const|[a-z]{1,3})([+!~]?)", item)
            if match is None or match[3] in (("~",) if output else ("+", "!")):
                raise ValueError(f"kernel signature item not understood: {item!r}")
            arguments.append(Argument(match[1], match[2], output, match[3] == "!", match[3] == "+", match[3] == "~"))
    return tuple(arguments)


class Kernel:
    """A declared kernel; calling it runs the array code: ``kernel(xp, *inputs, *outputs)``."""

    def __init__(self, function: Callable[..., None], signature: str, cuda: str | None) -> None:
        self.function = function
        self.name = function.__name__
        self.__doc__ = function.__doc__
        self.arguments = parse(signature)
        self.cuda = cuda
        names = ["xp", *(a.name for a in self.arguments)]
        declared = list(inspect.signature(function).parameters)
        if declared != names:
            raise TypeError(f"kernel {self.name}: parameters {declared} differ from its signature {names}")
        if cuda is not None:
            self._check_cuda(cuda)

    @property
    def space(self) -> str:
        """The axes an elementwise kernel loops over: those of the argument with the most letters."""
        return max((a.letters for a in reversed(self.arguments)), key=len)

    def _check_cuda(self, text: str) -> None:
        words = set(re.findall(r"[A-Za-z_]\w*", text))
        for argument in self.arguments:
            summed = argument.output and argument.letters != self.space
            if not subset(argument.letters, self.space) or summed != argument.row_sum:
                raise TypeError(f"kernel {self.name}: {argument.name}: {argument.shape} has no elementwise CUDA text")
            if argument.name not in words:
                raise TypeError(f"kernel {self.name}: CUDA text does not use {argument.name}")
            if argument.output and not re.search(rf"\b{argument.name}\s*[-+*/]?=(?!=)", text):
                raise TypeError(f"kernel {self.name}: CUDA text does not assign {argument.name}")

    @property
    def inputs(self) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if not a.output)

    @property
    def outputs(self) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if a.output)

    def __call__(self, xp: Any, *arrays: Any) -> None:
        self.function(xp, *arrays)

    def __repr__(self) -> str:
        return f"<kernel {self.name}>"


def kernel(signature: str, cuda: str | None = None) -> Callable[[Callable[..., None]], Kernel]:
    """Declare a kernel: ``@kernel("x: rc -> y: rc", cuda="y = x;")`` above its array code."""

    def declare(function: Callable[..., None]) -> Kernel:
        return Kernel(function, signature, cuda)

    return declare
