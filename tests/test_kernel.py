"""The kernel language: what a signature says, and that array code, CUDA text and signature cannot drift apart."""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import Any

import numpy as np
import pytest

import aevb_engine.kernels
from aevb_engine.kernel import Argument, Kernel, kernel, parse


def test_signature() -> None:
    assert parse("x: rc, w: const, work: blz~ -> y: rc!, total: r+") == (
        Argument("x", "rc", output=False),
        Argument("w", "const", output=False),
        Argument("work", "blz", output=False, scratch=True),
        Argument("y", "rc", output=True, inplace=True),
        Argument("total", "r", output=True, row_sum=True),
    )


@pytest.mark.parametrize("signature", ["x: rc", "x: rc ->", "x: rc -> "])
def test_signature_without_outputs(signature: str) -> None:
    with pytest.raises(ValueError, match="without outputs"):
        parse(signature)


@pytest.mark.parametrize(
    "signature",
    ["x rc -> y: rc", "x: RC -> y: rc", "x: rc+ -> y: rc", "x: rc! -> y: rc", "x: rc -> y: rc~", "x: rcxy -> y: rc"],
)
def test_signature_not_understood(signature: str) -> None:
    with pytest.raises(ValueError, match="not understood"):
        parse(signature)


def _double(xp: Any, x: Any, y: Any) -> None:
    """y = 2x."""
    xp.add(x, x, out=y)


def test_a_kernel_runs_and_describes_itself() -> None:
    double = kernel("x: rc -> y: rc", cuda="y = x + x;")(_double)
    y = np.empty((2, 3))
    double(np, np.ones((2, 3)), y)
    assert (y == 2).all()
    assert (double.name, double.__doc__, repr(double)) == ("_double", "y = 2x.", "<kernel _double>")
    assert [a.name for a in double.inputs] == ["x"]
    assert [a.name for a in double.outputs] == ["y"]


@pytest.mark.parametrize("signature", ["y: rc -> x: rc", "x: rc, z: rc -> y: rc", "a: rc -> y: rc", "-> x: rc"])
def test_parameters_must_be_those_of_the_signature(signature: str) -> None:
    with pytest.raises(TypeError, match="differ from its signature"):
        kernel(signature)(_double)


@pytest.mark.parametrize(
    ("signature", "cuda", "problem"),
    [
        ("x: rc -> y: rc", "y = z;", "does not use x"),
        ("x: rc -> y: rc", "z = x;", "does not use y"),
        ("x: rc -> y: rc", "if (x == y) { }", "does not assign y"),
        ("x: rc -> y: rc", "x = y;", "does not assign y"),
        ("x: rk -> y: rc", "y = x;", "no elementwise CUDA text"),
    ],
)
def test_cuda_text_must_use_and_assign_the_names(signature: str, cuda: str, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        kernel(signature, cuda=cuda)(_double)


@pytest.mark.parametrize("cuda", ["y = x;", "y += x;", "y -= x;", "T twice = x + x; y  =  twice;"])
def test_cuda_text_may_assign_or_accumulate(cuda: str) -> None:
    assert kernel("x: rc -> y: rc", cuda=cuda)(_double).cuda == cuda


def _all_kernels() -> dict[str, Kernel]:
    names = [m.name for m in pkgutil.iter_modules(aevb_engine.kernels.__path__, "aevb_engine.kernels.")]
    values = (item for name in names for item in vars(importlib.import_module(name)).items())
    return {name: value for name, value in values if isinstance(value, Kernel)}


@pytest.mark.parametrize(("name", "declared"), _all_kernels().items())
def test_every_kernel_of_the_engine_is_documented(name: str, declared: Kernel) -> None:
    assert declared.name == name
    assert declared.__doc__, f"{name} has no docstring"
    assert declared.outputs
    if declared.cuda:  # row sums accumulate, all else is assigned
        for output in declared.outputs:
            operator = r"\+=" if output.row_sum else r"[-+]?=(?!=)"
            assert re.search(rf"\b{output.name}\s*{operator}", declared.cuda), f"{name}: {output.name}"
