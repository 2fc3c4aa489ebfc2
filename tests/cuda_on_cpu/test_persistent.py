"""One kernel of many steps against the kernels of its stages, launched one after the other: the same bits."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from aevb_engine.cuda.fused import captured
from aevb_engine.cuda.persistent import (
    LATE,
    PROGRAMS,
    STATE,
    Joined,
    Persistent,
    arguments,
    barriers,
    blocks,
    groups,
    joined,
    late,
    persistent,
    table,
)
from aevb_engine.cuda.stages import stages
from tests.cuda_on_cpu.runner import SCHEDULES, Deadlock, Program, compile_text
from tests.cuda_on_cpu.steps import SMALL, Memory, members_of, session
from tests.gpu.test_parity import CASES

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

CASE = {**SMALL, "dataset": "simulated-binary", "objective": "elbo", "optimizer": "adagrad"}
STEPS = 4
MEET = "        if (!meet(state, goal += blocks, limit))\n            return;\n"


class Run:
    """A small model with its kernels."""

    def __init__(self, **more: Any) -> None:
        self.session = session({**CASE, **more})
        step = members_of(self.session)
        layers = stages(step)
        self.stages = len(layers)
        self.dtype = self.session.model.dtype
        self.captured = captured(layers, self.dtype)
        self.persistent = persistent(layers, self.dtype)
        self.memory = Memory(self.session, step)

    @property
    def done(self) -> int:
        return int(self.session.trainer.inner.clock.step.array[0])

    def one_by_one(self, steps: int = STEPS) -> bytes:
        """The bits after some steps of the captured kernels."""
        program = compile_text(self.captured.code)
        self.memory.restore()
        for _ in range(steps):
            for k in self.captured.kernels:
                program.call(k.name, k.grid, k.block, k.args)
        return self.memory.bytes()


@cache
def run() -> Run:
    return Run()


@cache
def expected() -> bytes:
    return run().one_by_one()


def launch(
    program: Program,
    replicas: list[Persistent],
    grid: int,
    schedule: str = "forward",
    steps: int = STEPS,
    limit: int = 5000,
    state: Any = None,
    kernel: Joined | None = None,
) -> Any:
    """The state of the barriers afterwards."""
    state = barriers(replicas) if state is None else state
    given = arguments(table(replicas, kernel), state, steps, limit)
    program.call("aevb_persistent", (grid, 1, 1), replicas[0].block, given, schedule, cooperative=True)
    return state


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("grid", [1, 2, 3, 5])
def test_the_same_bits_for_every_grid(grid: int, schedule: str) -> None:
    r = run()
    wanted = expected()
    r.memory.restore()
    state = launch(compile_text(r.persistent.code), [r.persistent], grid, schedule)
    assert r.memory.bytes() == wanted
    assert r.done == STEPS
    assert late(state) == []
    assert state[0, 0] == state[0, 1] == STEPS * r.stages * grid


def test_launches_follow_one_another() -> None:
    """A second launch goes on where the first ended, with the barrier as it was left."""
    r = run()
    wanted = expected()
    program = compile_text(r.persistent.code)
    r.memory.restore()
    state = launch(program, [r.persistent], 3, steps=1)
    launch(program, [r.persistent], 2, steps=0, state=state)
    launch(program, [r.persistent], 2, steps=STEPS - 1, state=state)
    assert r.memory.bytes() == wanted


@pytest.mark.parametrize("start", [2**32 - 3, 2**31 - 5])
def test_the_count_of_arrivals_may_wrap_around(start: int) -> None:
    r = run()
    wanted = expected()
    for schedule in SCHEDULES:
        r.memory.restore()
        state = barriers([r.persistent])
        state[0, :2] = start
        launch(compile_text(r.persistent.code), [r.persistent], 3, schedule, state=state)
        assert r.memory.bytes() == wanted
        assert state[0, 0] == (start + STEPS * r.stages * 3) % 2**32


def test_double_precision_and_several_samples() -> None:
    r = Run(dataset="simulated-normal", objective="iwae", samples=3, precision="float64")
    wanted = r.one_by_one(2)
    for grid, schedule in ((3, "shuffled"), (2, "reverse")):
        r.memory.restore()
        launch(compile_text(r.persistent.code), [r.persistent], grid, schedule, steps=2)
        assert r.memory.bytes() == wanted


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_step_of_the_engine(case: str) -> None:
    """Captured and persistent, two steps, a grid that divides nothing."""
    r = Run(**{**CASES[case], "batch_size": 7})
    wanted = r.one_by_one(2)
    r.memory.restore()
    launch(compile_text(r.persistent.code), [r.persistent], 3, "shuffled", steps=2)
    assert r.memory.bytes() == wanted
    assert np.isfinite(r.session.trainer.inner.clock.metrics.array[:2]).all()


# Replicas ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("grid", [2, 5])
def test_replicas_train_as_if_alone(grid: int, schedule: str) -> None:
    """Two seeds in one launch, each on its own blocks (of five one has nothing to do)."""
    first, second = run(), other()
    wanted = [expected(), second.one_by_one()]
    assert wanted[0] != wanted[1]
    for r in (first, second):
        r.memory.restore()
    both = [first.persistent, second.persistent]
    state = launch(compile_text(first.persistent.code), both, grid, schedule)
    assert [first.memory.bytes(), second.memory.bytes()] == wanted
    assert late(state) == []


@cache
def other() -> Run:
    return Run(seed=2**33 + 7)


def test_replicas_are_of_one_text() -> None:
    assert table([run().persistent, other().persistent]).shape[0] == 2
    with pytest.raises(ValueError, match="replicas of one launch need the same model"):
        table([run().persistent, Run(batch_size=7).persistent])


# Programs ---------------------------------------------------------------------------------------------------


@cache
def different() -> list[Run]:
    """Two programs of one text each but for latent dimension and optimizer, and a second seed of the first."""
    return [run(), Run(latent_dim=5, optimizer="adam", seed=11), other()]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("grid", [3, 7])
def test_programs_of_one_kernel_train_as_if_alone(grid: int, schedule: str) -> None:
    runs = different()
    wanted = [r.one_by_one() for r in runs]
    replicas = [r.persistent for r in runs]
    kernel = joined(replicas)
    assert len(kernel.texts) == 2
    for r in runs:
        r.memory.restore()
    state = launch(compile_text(kernel.code), replicas, grid, schedule, kernel=kernel)
    assert [r.memory.bytes() for r in runs] == wanted
    assert late(state) == []
    # Whoever is left trains on in the same kernel.
    runs[1].memory.restore()
    launch(compile_text(kernel.code), replicas[1:2], grid, schedule, kernel=kernel)
    assert runs[1].memory.bytes() == wanted[1]


def test_a_wrong_program_is_seen() -> None:
    """The number in the last word of a row decides."""
    runs = different()[:2]
    wanted = [r.one_by_one() for r in runs]
    replicas = [r.persistent for r in runs]
    kernel = joined(replicas)
    for r in runs:
        r.memory.restore()
    rows = table(replicas, kernel)
    rows[:, -1] = 2  # no program
    launched = compile_text(kernel.code)
    launched.call(
        "aevb_persistent", (2, 1, 1), (256, 1, 1), arguments(rows, barriers(replicas), STEPS), cooperative=True
    )
    assert all(r.memory.bytes() != w for r, w in zip(runs, wanted, strict=True))


def test_one_program_is_the_kernel_of_a_run_alone() -> None:
    first, second = run().persistent, other().persistent
    assert joined([first, second]) is first
    with pytest.raises(ValueError, match="one number type, not float32 and float64"):
        joined([first, Run(precision="float64").persistent])


def test_a_kernel_has_few_programs_of_one_number_type() -> None:
    one = run().persistent
    some = [replace(one, code=f"{i // 2}") for i in range(2 * PROGRAMS + 3)]
    assert groups([one, other().persistent]) == [[0, 1]]
    assert groups(some) == [list(range(2 * PROGRAMS)), [2 * PROGRAMS + i for i in range(3)]]
    assert one.program is not None
    some[3] = replace(one, program=replace(one.program, dtype="float64"))
    assert groups(some[:5]) == [[0, 1, 2, 4], [3]]


def test_macros_that_differ_are_refused() -> None:
    """A namespace would not keep them apart."""
    one, two = (r.persistent for r in different()[:2])
    assert two.program is not None
    body = "#define SCALE 2\n" + two.program.bodies[0]
    with pytest.raises(ValueError, match="macros"):
        joined([one, replace(two, program=replace(two.program, bodies=(body, *two.program.bodies[1:])))])


# Faults -----------------------------------------------------------------------------------------------------


def planted(good: str, bad: str, count: int = 1) -> Program:
    code = run().persistent.code
    assert good in code, "the place of the planted fault is gone"
    return compile_text(code.replace(good, bad, count))


def test_a_removed_barrier_of_the_grid_changes_the_result() -> None:
    """Between any two stages, and between two steps: except where a block reads only what it has written itself."""
    r = run()
    wanted = expected()
    parts = r.persistent.code.split(MEET)
    assert len(parts) == r.stages + 1
    kept = MEET.replace("limit", "5000")  # the argument names the barrier that is left out
    code = parts[0] + "".join(kept.replace("if (", f"if (limit != {i} && ") + p for i, p in enumerate(parts[1:]))
    program = compile_text(code)
    seen = set()
    for number in range(-1, r.stages):
        results = set()
        for schedule in SCHEDULES:
            r.memory.restore()
            launch(program, [r.persistent], 3, schedule, limit=number)
            results.add(r.memory.bytes())
        if results != {wanted}:
            seen.add(number)
    assert -1 not in seen
    assert {0, r.stages - 2, r.stages - 1} <= seen
    assert len(seen) >= r.stages / 2


def test_a_block_that_never_comes_makes_all_leave() -> None:
    """Within the limit of looks, with the flag set; the other replica is not touched by it."""
    r, second = run(), other()
    wanted = second.one_by_one()
    program = planted("    for (int step = 0;", "    if (blockIdx.x == 1)\n        return;\n    for (int step = 0;")
    for schedule in SCHEDULES:
        for x in (r, second):
            x.memory.restore()
        state = launch(program, [r.persistent, second.persistent], 6, schedule, limit=300)
        assert late(state) == [0]
        assert r.done == 0
        assert second.memory.bytes() == wanted
        assert state.shape == (2, STATE)
        assert state[0, LATE] == 1


def test_blocks_that_are_not_alive_together_are_reported() -> None:
    """Launched as an ordinary kernel the first block waits for ever."""
    r = run()
    given = arguments(table([r.persistent]), barriers([r.persistent]), 1)
    with pytest.raises(Deadlock):
        compile_text(r.persistent.code).call("aevb_persistent", (2, 1, 1), (256, 1, 1), given)


def test_an_old_flag_or_a_wrong_count_ends_in_bounded_time() -> None:
    """A state that was not put back after a failure: every block leaves."""
    r = run()
    state = barriers([r.persistent])
    state[0, LATE] = 1
    state[0, 1] = 7
    launch(compile_text(r.persistent.code), [r.persistent], 2, limit=300, state=state)
    assert late(state) == [0]


# Grids ------------------------------------------------------------------------------------------------------


def test_how_many_blocks() -> None:
    p = run().persistent
    most = p.most_blocks
    assert blocks(p, 132, 2) == min(132, most)
    assert blocks(p, 132, 0) == 0
    assert blocks(p, 4, 1) == 4
    assert blocks(p, 4, 1, replicas=2) == 4
    assert blocks(p, 5, 1, replicas=2) == 4
    assert blocks(p, 4, 2, replicas=8) == 8
    assert blocks(p, 4, 2, replicas=9) == 0
