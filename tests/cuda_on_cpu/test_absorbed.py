"""What the CUDA lowerings leave out is read by nobody, and steps without it are those of array code.

Every objective with every decoder, depth and number of samples (``tests/combinations.py``).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from aevb_engine.cuda import module
from aevb_engine.cuda.lower import Product, Text, lower
from aevb_engine.cuda.own import own
from aevb_engine.operation import Rows
from aevb_engine.rewrite import read_by
from tests.combinations import BATCH, DEPTHS, EVERY, OBJECTIVES, SHORT, Run, agree, left_out, plain, reads_of
from tests.cuda_on_cpu.catalog import likelihoods
from tests.cuda_on_cpu.runner import compile_text

PATHS = ("eager", "whole step")
ALIKE = ("gaussian sigmoid", "gaussian without floor")  # of the same heads as another


def lowered(run: Run, path: str, number: int) -> list[Any]:
    """The items of one step, in order."""
    lists = run.whole(number)
    if path == "eager":
        return [item for operations in lists for item in lower(operations, run.read(operations))]
    others = [[op for part in run.whole(n) for op in part] for n in range(run.updates) if n != number % run.updates]
    return list(own([op for part in lists for op in part], read=[*run.step._kept, *read_by(others)]))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nobody_reads_what_is_left_out(objective: str, path: str, make_step: Any) -> None:
    for c in EVERY:
        if c.objective == objective and c.decoder not in ALIKE:
            run = Run(c, make_step, "float32")
            for number in range(run.updates):
                items = [item.touched for item in lowered(run, path, number)]
                assert not reads_of(left_out(run.whole(number), items), items), c


def calls(run: Run, items: list[Any], program: Any) -> list[Callable[[], None]]:
    """What carries the items out; array code and products of the library in NumPy."""
    everything, found = Rows(0, BATCH), []
    for item in items:
        if isinstance(item, Text):
            found.append(partial(program.run, item.source.launch(*item.arrays(everything)), "shuffled"))
        elif isinstance(item, Product):
            x, weight, y = (b.view(everything) for b in (item.x, item.weight, item.y))
            found.append(partial(np.matmul, x, weight, out=y))
        else:
            found.append(item.bind(np, everything))
    return found


CASES = [
    pytest.param(decoder, path, depths, marks=() if depths == ((),) and decoder in SHORT else pytest.mark.slow)
    for decoder in likelihoods()
    for path in PATHS
    for depths in (((),), DEPTHS[1:])
]


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("decoder", "path", "depths"), CASES)
def test_steps_agree(decoder: str, path: str, depths: Any, make_step: Any) -> None:
    """In float64, so that rounding is far below what a term left out would change."""
    chosen = [c for c in EVERY if c.decoder == decoder and c.hidden in depths]
    made = []
    for c in chosen:
        run = Run(c, make_step, "float64")
        made.append((c, run, [lowered(run, path, number) for number in range(run.updates)]))
    sources = {
        item.source.name: item.source
        for *_, found in made
        for items in found
        for item in items
        if isinstance(item, Text)
    }
    program = compile_text(module(list(sources.values()), np.float64))
    for c, run, found in made:
        missing = [left_out(run.whole(n), [item.touched for item in items]) for n, items in enumerate(found)]
        bound = [calls(run, items, program) for items in found]
        agree(c, plain(c, make_step, "float64"), run, missing, bound, within=1e-9)
