"""One stream for all that the engine does on a device, whatever stream the caller had in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aevb_engine.backend.cupy import CupyBackend
from aevb_engine.operation import Rows

from .test_parity import session

Act = Callable[[CupyBackend, Any], object]
ACTS: dict[str, Act] = {
    "empty": lambda b, a: b.empty((3,), np.float32),
    "upload": lambda b, a: b.upload(np.ones(3, np.float32)),
    "upload_beside": lambda b, a: b.upload_beside([np.ones(3, np.float32)]),
    "download": lambda b, a: b.download(a),
    "download of columns": lambda b, a: b.download(a[:, 1:]),
    "bind": lambda b, a: b.bind([], Rows(0, 1)),
    "run": lambda b, a: b.run([[[]]], 1),
    "repeat": lambda b, a: b.repeat([[[]]], [])(1),
}


def leave(double: Any) -> None:
    """What the end of a with-block of the caller leaves: the null stream."""
    with double.cuda.Stream(non_blocking=True):
        pass


@pytest.mark.parametrize("name", ACTS)
def test_every_method_leaves_the_stream_in_use(name: str, double: Any) -> None:
    backend = CupyBackend()
    array = backend.upload(np.ones((2, 3), np.float32))
    for _ in range(2):
        ACTS[name](backend, array)
        assert double.cuda.get_current_stream() is backend.stream
        leave(double)
    backend.enter()


@pytest.mark.parametrize("path", ["eager", "graph", "persistent"])
def test_a_run_goes_on_after_the_caller_used_another_stream(path: str, double: Any) -> None:
    found = []
    for disturbed in (False, True):
        s = session("gpu", "elbo-bernoulli-adam", trainer=path)
        for steps in (3, 50, 2):
            if disturbed:
                leave(double)
            s.trainer.advance(steps)
        if disturbed:
            leave(double)
        found.append(s.trainer.arrays())
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name])


def test_evaluation_uses_the_stream(double: Any) -> None:
    s = session("gpu", "elbo-bernoulli-adam")
    leave(double)
    first = s.test.run()  # type: ignore[union-attr]
    leave(double)
    np.testing.assert_array_equal(first, s.test.run())  # type: ignore[union-attr]


def test_the_double_refuses_the_null_stream(double: Any) -> None:
    """Nothing would order it with the engine's, which does not block."""
    backend = CupyBackend()
    array = backend.upload(np.ones(3, np.float32))
    leave(double)
    for act in (
        lambda: double.zeros(3),
        lambda: array.__setitem__(0, 1),
        lambda: double.asnumpy(array),
        lambda: float(array[0]),
        lambda: double.matmul(array, array),
    ):
        with pytest.raises(RuntimeError, match="a race"):
            act()
    backend.enter()
    double.asnumpy(double.ones((2, 2)).T)  # copied in a with-block of CuPy's own
    assert double.cuda.get_current_stream() is None
    backend.enter()


def test_chains_of_batches_that_do_not_fill_the_data(gpu: str) -> None:
    """A data point that is twice in a batch keeps its later chain, on both backends."""
    found = []
    for name in ("cpu", "gpu"):
        s = session(name, "mcem", batch_size=30)
        s.trainer.advance(40)
        found.append(s.trainer.arrays())
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=2e-3, atol=2e-3, err_msg=name)
