"""From what a user asks for to the path that the steps of training take."""

from __future__ import annotations

from aevb_engine.backend.base import Backend, Plan
from aevb_engine.cuda.measured import fastest
from aevb_engine.errors import BackendError, UsageError
from aevb_engine.model.model import Model

PRODUCTS = {"float32": "fp32", "float64": "fp32", "tf32": "tf32"}  # by --precision


def refuse(trainer: str, graph: bool, precision: str, backend: str, reason: str | None = None) -> None:
    """UsageError for what only a GPU can do, where the steps run on the CPU; ``reason``: why they do."""
    if backend != "cpu":
        return
    why = f" ({reason})" if reason else ""
    for given, text in ((graph, "--graph"), (trainer != "auto", f"--trainer {trainer}")):
        if given:
            raise UsageError(f"{text}: the CPU has one way to run a step{why}; leave it out, or use --backend gpu")
    if precision == "tf32":
        raise UsageError(f"--precision tf32: only a GPU has TF32{why}; use float32, or --backend gpu")


def choose_plan(
    trainer: str,
    graph: bool,
    precision: str,
    backend: Backend,
    reason: str | None = None,
    *,
    multiply_adds: int = 0,
    resumed: bool = False,
) -> Plan:
    """The plan of a run on ``backend``; ``reason``: why that is the CPU.

    A ``resumed`` run goes on with the recorded ``trainer``: BackendError where this machine has no GPU, and no other
    path is taken in its place.
    """
    if resumed and backend.name == "cpu" and trainer != "auto":
        raise BackendError(
            f"the run was trained on a GPU (trainer {trainer}), and {reason or 'the backend is the CPU'}; resume it on "
            "a machine with a GPU (see `aevb-engine doctor`)"
        )
    refuse(trainer, graph, precision, backend.name, reason)
    if backend.name == "cpu":
        return Plan()
    if precision == "tf32" and not backend.tf32:
        raise UsageError(
            f"--precision tf32: {backend.device()} has none (compute capability 8.0 is needed); use float32"
        )
    products = PRODUCTS[precision]
    path = "graph" if graph else trainer
    if path == "auto":
        path = fastest(multiply_adds, products)
    strict = "leave out --graph to run the steps eagerly" if graph else ""
    if resumed:
        strict = f"the run began with trainer {path}: resume it where that runs, or start anew with --trainer eager"
    return Plan(path, products, strict)


def multiply_adds(model: Model, rows: int) -> int:
    """Of a step's products on ``rows`` samples, about: each parameter forward, and backward to data and weights."""
    return 3 * rows * model.parameters.size
