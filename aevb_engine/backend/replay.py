"""A whole training step on a GPU without a launch per operation: captured and replayed, or many steps in one kernel.

Both run the operations as texts alone, products included, layered into stages (``cuda/own.py``, ``cuda/stages.py``).
Every text is compiled and loaded, and every array exists, before a step runs; the step's counters lie in device memory,
so that any number of steps can be enqueued without the host.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from aevb_engine.backend.cupy import OPTIONS, number
from aevb_engine.backend.stream import make_current
from aevb_engine.cuda.fused import captured
from aevb_engine.cuda.own import own
from aevb_engine.cuda.persistent import LATE, Joined, arguments, barriers, blocks, groups, joined, persistent, table
from aevb_engine.cuda.stages import Member, members, stages
from aevb_engine.errors import AevbError, BackendError
from aevb_engine.operation import Buffer, Operation, Rows

STEPS = 50  # in the longer of the two graphs


class Graph:
    """One kernel a stage; two captured graphs, of one step and of ``STEPS``."""

    def __init__(
        self,
        xp: Any,
        stream: Any,
        operations: Sequence[Operation],
        rows: Rows,
        products: str,
        read: Sequence[Buffer] = (),
    ) -> None:
        with one_line("graph"):
            layers = layered(operations, rows, products, read)
            made = captured(layers, _number(layers))
            module = xp.RawModule(code=made.code, options=OPTIONS)
            functions = {kernel.name: loaded(module.get_function(kernel.name)) for kernel in made.kernels}
            self._stream = stream
            self._launches = [(functions[k.name], k.grid, k.block, k.args) for k in made.kernels]
            self.kernels = len(self._launches)
            self._one = capture(xp, stream, lambda: self._enqueue(1))
            self._many = capture(xp, stream, lambda: self._enqueue(STEPS))

    def _enqueue(self, steps: int) -> None:
        for _ in range(steps):
            for function, grid, block, args in self._launches:
                function(grid, block, args)

    def run(self, times: int) -> None:
        many, one = divmod(times, STEPS)
        for _ in range(many):
            self._many.launch(self._stream)
        for _ in range(one):
            self._one.launch(self._stream)

    def note(self, place: Any) -> None:
        """Nothing can go wrong that the driver does not report."""

    def check(self, noted: float) -> None: ...


class Persistent:
    """One cooperative kernel for all stages of any number of steps."""

    def __init__(
        self,
        xp: Any,
        stream: Any,
        operations: Sequence[Operation],
        rows: Rows,
        products: str,
        read: Sequence[Buffer] = (),
    ) -> None:
        with one_line("persistent"):
            layers = layered(operations, rows, products, read)
            made = persistent(layers, _number(layers))
            self.made, self.stream, self.xp = made, stream, xp
            self.kernel = _Kernel(xp, made)
            self.blocks = self.kernel.fitting(1)
            self._table, self.barriers = xp.asarray(table([made])), xp.asarray(barriers([made]))

    def run(self, times: int) -> None:
        make_current(self.xp, self.stream)
        self.kernel.launch(self.blocks, self._table, self.barriers, times)

    def together(self, others: Sequence[Persistent]) -> Callable[[int], None]:
        """A call that enqueues so many steps of this run and of others in one launch, as ``Together`` does."""
        return Together([self, *others]).launch([self, *others])

    def note(self, place: Any) -> None:
        place[...] = self.barriers[:1, LATE : LATE + 1]

    def check(self, noted: float) -> None:
        if noted:
            raise BackendError(
                "trainer persistent: a block waited for another in vain, and the steps since the last checkpoint are "
                "lost; is the GPU shared with others? train with --trainer graph"
            )


class _Kernel:
    """A persistent kernel on the device."""

    def __init__(self, xp: Any, made: Joined) -> None:
        module = xp.RawModule(code=made.code, options=OPTIONS, enable_cooperative_groups=True)
        self._function = loaded(module.get_function(made.name))
        self.made = made
        # CuPy launches fewer blocks than it is told where they do not fit, and all would wait for the others.
        properties = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)
        fit = xp.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
            self._function.kernel.ptr, math.prod(made.block), made.shared
        )
        self._room = int(properties["multiProcessorCount"]), int(fit)

    def fitting(self, replicas: int) -> int:
        """Blocks of the grid for so many replicas."""
        found = blocks(self.made, *self._room, replicas)
        if not found:
            raise BackendError("the kernel does not fit on this device")
        return found

    def launch(self, grid: int, table: Any, barriers: Any, steps: int) -> None:
        self._function((grid, 1, 1), self.made.block, arguments(table, barriers, steps))


class Together:
    """Launches of several runs at once; what differs in text is compiled into one kernel, once.

    BackendError where the runs have no kernel in common, or it does not compile.
    """

    def __init__(self, runs: Sequence[Persistent]) -> None:
        with one_line("persistent"):
            made = joined([r.made for r in runs])
            self._kernel = runs[0].kernel if made is runs[0].made else _Kernel(runs[0].xp, made)

    def launch(self, runs: Sequence[Persistent]) -> Callable[[int], None]:
        """A call that enqueues so many steps of all or some of the runs, each on blocks of its own.

        BackendError where they do not fit. Every run may still be asked for steps alone.
        """
        xp, stream = runs[0].xp, runs[0].stream  # one stream for the process
        make_current(xp, stream)
        with one_line("persistent"):
            grid = self._kernel.fitting(len(runs))
            rows = xp.asarray(table([r.made for r in runs], self._kernel.made))
            state = xp.asarray(barriers([r.made for r in runs]))
        for i, each in enumerate(runs):
            each.barriers = state[i : i + 1]

        def run(times: int) -> None:
            make_current(xp, stream)
            self._kernel.launch(grid, rows, state, times)

        return run


def grouped(runs: Sequence[Persistent]) -> list[list[int]]:
    """Numbers of the runs that may share launches."""
    return groups([r.made for r in runs])


def layered(
    operations: Sequence[Operation], rows: Rows, products: str, read: Sequence[Buffer] = ()
) -> list[list[Member]]:
    """The stages of a step; TypeError for an operation without text."""
    return stages(members(own(operations, products, read), rows))


def _number(layers: Sequence[Sequence[Member]]) -> Any:
    return number([member.launch for layer in layers for member in layer])


def loaded(function: Any) -> Any:
    """The function, its code on the device: the driver would else load it at the first launch, inside a capture."""
    _ = function.num_regs
    return function


def capture(xp: Any, stream: Any, work: Callable[[], object]) -> Any:
    """The graph of what ``work`` enqueues, on the device."""
    make_current(xp, stream)
    stream.begin_capture()
    try:
        work()
    except BaseException:
        with contextlib.suppress(Exception):  # the stream must not stay in capture, whatever has become of it
            stream.end_capture()
        raise
    graph = stream.end_capture()
    graph.upload(stream)
    return graph


@contextlib.contextmanager
def one_line(path: str) -> Iterator[None]:
    """BackendError in place of whatever a plugin, the compiler or the driver raises."""
    try:
        yield
    except AevbError as error:
        raise BackendError(f"trainer {path}: {error}") from error
    except Exception as error:
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise BackendError(f"trainer {path} cannot run this step: {words}") from error
