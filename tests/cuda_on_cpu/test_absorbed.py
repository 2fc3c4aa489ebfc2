"""What the CUDA lowerings leave out is read by nobody, and steps without it are those of array code.

Every objective with every decoder, depth and number of samples (``tests/combinations.py``).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aevb_engine.cuda import module
from aevb_engine.cuda.lower import Product, Text, lower
from aevb_engine.cuda.own import own
from aevb_engine.operation import Operation, Rows
from tests.combinations import EVERY, OBJECTIVES, Combination, Run, agree, left_out, plain, reads_of
from tests.cuda_on_cpu.catalog import likelihoods
from tests.cuda_on_cpu.runner import compile_text

PATHS = ("eager", "whole step")


def lowered(run: Run, path: str, number: int) -> list[list[Any]]:
    """The items of one step, list by list."""
    lists = run.whole(number)
    if path == "eager":
        return [lower(operations, run.read(operations)) for operations in lists]
    others = [ops for other in range(run.updates) if other != number % run.updates for ops in run.whole(other)]
    whole = [op for operations in lists for op in operations]
    return [list(own(whole, read=[*run.step._kept, *_first_reads(others)]))]


def _first_reads(lists: list[list[Operation]]) -> list[Any]:
    from aevb_engine.rewrite import read_by

    return read_by([[op for operations in lists for op in operations]])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nobody_reads_what_is_left_out(objective: str, path: str, make_step: Any) -> None:
    for c in EVERY:
        if c.objective != objective:
            continue
        run = Run(c, make_step, "float32")
        for number in range(run.updates):
            items = [item.touched for part in lowered(run, path, number) for item in part]
            missing = left_out(run.whole(number), items)
            assert not reads_of(missing, items), c


def steps(run: Run, path: str, program: Any) -> tuple[list[Any], Callable[[int], None]]:
    """What is left out of every step, and what carries one out."""
    everything = Rows(0, 6)
    made = [[item for part in lowered(run, path, number) for item in part] for number in range(run.updates)]
    missing = [left_out(run.whole(n), [item.touched for item in items]) for n, items in enumerate(made)]
    names = set.intersection(*({id(b.array) for b in found} for found in missing))
    calls: list[list[Callable[[], None]]] = []
    for items in made:
        calls.append([])
        for item in items:
            if isinstance(item, Text):
                launch = item.source.launch(*item.arrays(everything))
                calls[-1].append(lambda launch=launch: program.run(launch, "shuffled"))  # type: ignore[misc]
            elif isinstance(item, Product):
                x, weight, y = (b.view(everything) for b in (item.x, item.weight, item.y))
                calls[-1].append(lambda x=x, weight=weight, y=y: np.matmul(x, weight, out=y))  # type: ignore[misc]
            else:
                calls[-1].append(item.bind(np, everything))
    return [
        b for b in missing[0] if id(b.array) in names
    ], lambda n: [call() for call in calls[n % run.updates]] and None


def chosen(decoder: str, path: str, short: bool) -> list[Combination]:
    few = [c for c in EVERY if c.decoder == decoder and c.hidden == () and c.samples == 1]
    return few if short else [c for c in EVERY if c.decoder == decoder]


CASES = [
    pytest.param(decoder, path, short, marks=() if short and decoder in ("bernoulli", "gaussian") else pytest.mark.slow)
    for decoder in likelihoods()
    for path in PATHS
    for short in (True, False)
]


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("decoder", "path", "short"), CASES)
def test_steps_agree(decoder: str, path: str, short: bool, make_step: Any) -> None:
    """In float64, so that rounding is far below what a term left out would change."""
    combinations = chosen(decoder, path, short)
    runs = [Run(c, make_step, "float64") for c in combinations]
    items = [item for r in runs for n in range(r.updates) for part in lowered(r, path, n) for item in part]
    sources = {item.source.name: item.source for item in items if isinstance(item, Text)}
    program = compile_text(module(list(sources.values()), np.float64))
    for c in combinations:
        run = Run(c, make_step, "float64")
        missing, step = steps(run, path, program)
        try:
            agree(plain(c, make_step, "float64"), run, missing, step, within=1e-9)
        except AssertionError as error:
            raise AssertionError(f"{c}: {error}") from error
