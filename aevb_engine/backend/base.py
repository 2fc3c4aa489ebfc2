"""What the engine asks of a backend: an array module, memory, and a way to run bound operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from aevb_engine.operation import Buffer, Operation, Rows

Call = Callable[[], None]
Phases = Sequence[Sequence[Sequence[Call]]]  # in order; the shares of a phase may run at the same time
PATHS = ("eager", "graph", "persistent")


@dataclass(frozen=True)
class Plan:
    """How the steps of training run on a device.

    ``path``: eager, launch by launch; graph, captured and replayed; persistent, many steps in one kernel.
    ``products``: fp32, or tf32 where inputs of products are rounded to 10 bits. ``strict``: a path that cannot run is
    an error with this mend; without one the step runs eagerly, with a warning.
    """

    path: str = "eager"
    products: str = "fp32"
    strict: str = ""


class Replay(Protocol):
    """A whole training step, compiled for a path other than the eager one."""

    def run(self, times: int) -> None:
        """Enqueue so many steps."""
        ...

    def note(self, place: Any) -> None:
        """Enqueue writing a number into ``place`` (1, 1) on the device that tells whether all went well."""
        ...

    def check(self, noted: float) -> None:
        """BackendError where the number, read by the host, says that a step was not carried out."""
        ...


class Backend(Protocol):
    """Arrays and execution on one device."""

    name: str  # "cpu" or "gpu"
    xp: Any  # numpy or cupy
    threads: int
    asynchronous: bool  # whether ``run`` comes back before the work is done

    @property
    def tf32(self) -> bool:
        """Whether products in TF32 are possible."""
        ...

    def enter(self) -> None:
        """From now on what this thread does to the backend's arrays is in order with what the backend does: every other
        method begins so."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any: ...
    def upload(self, array: npt.NDArray[Any]) -> Any: ...
    def upload_beside(self, arrays: Sequence[npt.NDArray[Any]]) -> list[Any]:
        """Copies on the device, made while it works; what is enqueued from now on waits for them."""
        ...

    def download(self, array: Any) -> npt.NDArray[Any]: ...
    def bind(
        self,
        operations: Sequence[Operation],
        rows: Rows,
        products: str = "fp32",
        read: Sequence[Buffer] | None = None,
    ) -> list[Call]:
        """The calls that carry out the operations on a share of the rows, in order; ``products`` as in Plan.

        ``read``: what anything but these operations reads of what they write; None for all of it. What is not among
        them and passes between operations only may be missing afterwards.
        """
        ...

    def replay(self, plan: Plan, operations: Sequence[Operation], rows: Rows, read: Sequence[Buffer] = ()) -> Replay:
        """The operations of a whole step for a path other than the eager one; BackendError where it cannot run.

        ``read``: what the host reads of what they write, beside what the next step does.
        """
        ...

    def device(self) -> str:
        """The device in words, for the run's record."""
        ...

    def run(self, phases: Phases, times: int) -> None:
        """Run the phases ``times`` times."""
        ...

    def repeat(self, phases: Phases, operations: Sequence[Operation]) -> Callable[[int], None]:
        """``run`` of phases that are run often, bound from ``operations``: what makes it fast is kept as long as the
        callable."""
        ...

    def close(self) -> None:
        """End the worker processes and threads, once their shares are done; what runs next starts them again."""
        ...
