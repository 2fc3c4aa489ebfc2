"""Where the time of a replayed step goes, stage by stage, on W1 to W5.

A stage is a kernel of the captured graph, and what lies between two barriers of the persistent kernel. Per stage:

``graph_us``    the kernel in a chain of itself, as a node of a graph
``work_us``     in the persistent kernel, the mean over steps of the block that works longest
``barrier_us``  the shortest wait of a block at the barrier behind: what the barrier costs where nobody is late
``floor_us``    bytes over the fastest copy (of any size: the caches count) or operations over the product's rate

``over_arithmetic`` is a whole step over the operations of its products at that rate.

The persistent kernel is timed by a copy of its text in which every block reads the clock around each barrier; its
parameters must come out with the bits of the text as it is. Then the step with the layers around z (``cuda/rows.py``)
by 1 to 8 data points a block or apart, and with the copy of the rows before the first layer, beside what was chosen.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import floors
import numpy as np
from captured import capture
from parity import bits
from result import Record, say
from section import Options
from timing import Clock
from trainers import attempt, plan
from workloads import trainer, workloads

CHAIN = 20  # nodes of a graph
STEPS = 200  # of a timed launch

# The time so far of each block, by stage: at work, at the barrier.
BEGIN = """\
    __shared__ long long spent[{twice}];
    for (int i = threadIdx.x; i < {twice}; i += blockDim.x)
        spent[i] = 0;
    __syncthreads();
    long long before = clock64();
"""
MEET = "if (!meet(state, goal += blocks, limit))\n"
TIMED = """\
__syncthreads();
const long long done_{n} = clock64();
const bool met_{n} = meet(state, goal += blocks, limit);
const long long after_{n} = clock64();
if (threadIdx.x == 0) {{
    spent[2 * {n}] += done_{n} - before;
    spent[2 * {n} + 1] += after_{n} - done_{n};
}}
before = after_{n};
if (!met_{n})
"""
LOOP = "for (int step = 0; step < steps; step++) {"
END = "if (mine == 0 && threadIdx.x == 0)\n"
LEAVE = """\
__syncthreads();  // the last stage is counted
for (int i = threadIdx.x; i < {twice}; i += blockDim.x)
    trace[blockIdx.x * {twice} + i] = spent[i];
"""
HEAD = "int steps, int limit)\n"


def run(record: Record, options: Options) -> None:
    from aevb_engine.backend.cupy import CupyBackend

    backend = CupyBackend()
    clock = Clock(backend)
    rates = floors.rates(clock, options.small)
    found: dict[str, Any] = {}
    for name in workloads(options.small):
        for products in ("fp32", "tf32") if not options.small else ("tf32",) if name == "W3" else ():
            if options.left() < 15 and not options.small:
                record.note(left_out=f"{name} {products} and what follows: no time left")
                backend.close()
                return
            key = f"{name} {products}"
            found[key] = attempt(partial(_stages, record, clock, name, products, rates, options))
            record.note(rates=rates, workloads=found)
            _tell(key, found[key])
    record.attempt("other_ways", lambda: other_ways(clock, options))
    backend.close()


def _tell(key: str, found: dict[str, Any]) -> None:
    if "error" in found:
        say(f"  {key}: {found['error']}")
        return
    say(f"  {key}: {found['step_us']:.1f} us a step, {found['timed_step_us']:.1f} while timed")
    for i, s in enumerate(found["stages"]):
        times = " ".join(f"{w} {s[f'{w}_us']:.2f}" for w in ("graph", "work", "barrier", "floor"))
        say(f"    {i} {times}: {', '.join(s['members'])}")


def _stages(
    record: Record, clock: Clock, name: str, products: str, rates: dict[str, Any], options: Options
) -> dict[str, Any]:
    from aevb_engine.backend.replay import layered
    from aevb_engine.cuda.fused import captured
    from aevb_engine.operation import Rows

    clock.backend.enter()
    made = trainer(name, clock.backend, options.small, plan=plan("persistent", products))
    made.advance(2)
    step = made.inner
    operations = [*step.first, *step.visit, *step.parameters[0], *step.leave]
    layers = layered(operations, Rows(0, step.ws.batch), products)
    found = [
        {"members": [m.source.name.removeprefix("aevb_") for m in layer], "blocks": sum(m.blocks for m in layer)}
        | floors.of_members(layer, rates, products)
        for layer in layers
    ]
    work, barrier, step_us, timed_us = timed(record, f"{name} {products}", clock, made, options)
    for i, stage in enumerate(found):
        stage |= {"work_us": work[i], "barrier_us": barrier[i]}
    alone = captured(layers, made.model.dtype)
    functions = _functions(clock.xp, alone.code, [k.name for k in alone.kernels])
    step.clock.cursor.array[...] = 0
    for stage, kernel, function in zip(found, alone.kernels, functions, strict=True):
        stage["graph_us"] = _chained(clock, partial(function, kernel.grid, kernel.block, kernel.args), options.small)
    arithmetic = sum(s["flop"] for s in found) / rates[floors.RATES[products]] * 1e6
    return {"stages": found, "step_us": step_us, "timed_step_us": timed_us, "blocks": step.replay.blocks,
            "work_us": round(sum(work), 2), "barriers_us": round(sum(barrier), 2),
            "arithmetic_us": round(arithmetic, 3), "over_arithmetic": round(step_us / arithmetic, 2)}  # fmt: skip


def _functions(xp: Any, code: str, names: list[str], cooperative: bool = False) -> list[Any]:
    from aevb_engine.backend.cupy import OPTIONS
    from aevb_engine.backend.replay import loaded

    module = xp.RawModule(code=code, options=OPTIONS, enable_cooperative_groups=cooperative)
    return [loaded(module.get_function(n)) for n in names]


def _chained(clock: Clock, call: Any, small: bool) -> float:
    """Microseconds of one node of a graph of many."""

    def chain() -> None:
        for _ in range(2 if small else CHAIN):
            call()

    clock.backend.enter()
    graph = capture(clock.stream, chain)
    seconds = clock.back_to_back(partial(graph.launch, clock.stream), 5)
    return round(seconds / (2 if small else CHAIN) * 1e6, 3)


def traced(code: str, stages: int) -> str:
    """The text of a persistent kernel of one program, with a clock around each barrier."""
    twice = 2 * stages
    changes = [(HEAD, HEAD.replace(")", ", long long* trace)"), 1), (MEET, "", stages), (LOOP, BEGIN + LOOP, 1),
               (END, LEAVE + END, 1)]  # fmt: skip
    for old, new, count in changes:
        if code.count(old) != count:
            raise ValueError(f"the text has {code.count(old)} times {old!r}, not {count}")
        if old != MEET:
            code = code.replace(old, new.replace("{twice}", str(twice)))
    first, *rest = code.split(MEET)
    return first + "".join(TIMED.format(n=n) + part for n, part in enumerate(rest))


def timed(
    record: Record, what: str, clock: Clock, made: Any, options: Options
) -> tuple[list[float], list[float], float, float]:
    """By stage the work of the slowest block and the shortest wait; the step as it is, and while timed."""
    from aevb_engine.cuda.persistent import NAME, arguments

    xp, step, replay = clock.xp, made.inner, made.inner.replay
    stages = replay.made.code.count(MEET)
    (function,) = _functions(xp, traced(replay.made.code, stages), [NAME], cooperative=True)
    steps = 2 if options.small else min(STEPS, made.block)
    trace = xp.asarray(np.zeros((replay.blocks, 2 * stages), np.int64))
    table = xp.asarray(np.asarray([replay.made.words], np.uint64).view(np.int64))

    def again() -> None:
        step.clock.cursor.array[...] = 0
        replay.run(steps)

    def enqueue() -> None:
        function((replay.blocks, 1, 1), (256, 1, 1), (*arguments(table, replay.barriers, steps), trace))

    def again_timed() -> None:
        step.clock.cursor.array[...] = 0
        enqueue()

    at, kept = made.step, made.arrays()
    made.advance(steps)
    expected = made.arrays()
    made.restore(at, kept)
    made.begin(steps)
    enqueue()
    made.finish(steps)
    actual = made.arrays()
    different = sum(int((bits(expected[n]) != bits(actual[n])).sum()) for n in expected)
    record.check(f"{what}: numbers with other bits while timed", different == 0, different, 0)
    rounds = 2 if options.small else 7
    plain = _median([clock.device(again, 2e-3) / steps for _ in range(rounds)])
    slow, spent = [], []
    for _ in range(rounds):
        slow.append(clock.device(again_timed, 2e-3) / steps)
        ticks = xp.asnumpy(trace).astype(np.float64).reshape(replay.blocks, stages, 2) / steps
        spent.append(ticks * (slow[-1] / max(1.0, ticks.sum(axis=(1, 2)).max())))  # seconds: clocks vary
    mean = np.median(spent, axis=0) * 1e6
    work, wait = mean[:, :, 0].max(axis=0), mean[:, :, 1].min(axis=0)
    return [round(float(w), 2) for w in work], [round(float(w), 2) for w in wait], plain, _median(slow)


def _median(times: Any) -> float:
    return round(float(np.median(times)) * 1e6, 2)


def other_ways(clock: Clock, options: Options) -> dict[str, Any]:
    """Microseconds of a persistent step of the first workloads, as it is and with one choice of the engine changed."""
    from aevb_engine.cuda import own
    from aevb_engine.cuda.rows import ROWS, choose

    found: dict[str, Any] = {}
    for name in list(workloads(options.small))[: 1 if options.small else 2]:
        chosen: list[Any] = []

        def noting(sizes: Any, width: int, forward: bool, chosen: list[Any] = chosen) -> int | None:
            chosen.append(choose(sizes, width, forward))
            return chosen[-1]  # type: ignore[no-any-return]

        ways: dict[str, Any] = {
            "as it is": (own, "choose", noting),
            "a copy of the rows before the first layer": (own._Step, "_from_the_data", lambda self, items: items),
            "layers around z apart": (own, "choose", lambda *a: None),
        }
        for rows in ROWS[-1:] if options.small else ROWS:
            for direction in ("backward",) if options.small else ("forward", "backward"):
                rule = partial(_forced, choose, rows, direction == "forward")
                ways[f"layers around z {direction} by {rows}"] = (own, "choose", rule)
        found[name] = {}
        for way, change in ways.items():
            if options.left() < 8 and not options.small:
                found[name]["left_out"] = f"{way} and what follows: no time left"
                break
            with mock.patch.object(*change):
                found[name][way] = attempt(partial(_step_us, clock, name, options))
        found[name]["chosen"] = dict(zip(("forward", "backward"), chosen, strict=False))
    return found


def _forced(choose: Any, rows: int, which: bool, sizes: Any, width: int, forward: bool) -> int | None:
    """So many data points a block in one direction where shared memory holds them; as chosen in the other."""
    from aevb_engine.cuda.rows import SCRATCH, _Room

    if forward != which:
        return choose(sizes, width, forward)  # type: ignore[no-any-return]
    room = _Room(sizes, rows)
    if (room.forward if forward else room.backward) > SCRATCH[width]:
        raise ValueError("shared memory is too small")
    return rows


def _step_us(clock: Clock, name: str, options: Options) -> dict[str, Any]:
    clock.backend.enter()
    made = trainer(name, clock.backend, options.small, plan=plan("persistent"))
    steps = 2 if options.small else min(STEPS, made.block)
    made.advance(steps)

    def again() -> None:
        made.inner.clock.cursor.array[...] = 0
        made.inner.replay.run(steps)

    return {"us": _median([clock.device(again, 2e-3) / steps for _ in range(2 if options.small else 7)])}
