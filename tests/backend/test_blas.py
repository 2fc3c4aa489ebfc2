"""BLAS at one thread while anybody wants it, whoever enters and leaves first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import threadpoolctl

from aevb_engine.backend import crew
from aevb_engine.backend.blas import one_thread
from tests.patience import patience

CONTROLLER = threadpoolctl.ThreadpoolController()


def numbers() -> set[int]:
    return {i["num_threads"] for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas"}


def test_the_last_one_sets_it_back() -> None:
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = numbers()
        if before != {2}:
            pytest.skip("this BLAS has one thread")
        first, second = one_thread(CONTROLLER), one_thread(CONTROLLER)
        first.__enter__()
        second.__enter__()
        assert numbers() == {1}
        first.__exit__(None, None, None)
        assert numbers() == {1}
        second.__exit__(None, None, None)
        assert numbers() == before


def test_an_error_sets_it_back() -> None:
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = numbers()
        with pytest.raises(ZeroDivisionError), one_thread(CONTROLLER):
            raise ZeroDivisionError
        assert numbers() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_wants_nothing_yet() -> None:
    """Though another thread was inside as it was forked, and one held the lock."""
    from aevb_engine.backend import blas

    with one_thread(CONTROLLER), blas._lock:
        number = os.fork()
        if number == 0:
            free = blas._lock.acquire(blocking=False)
            os._exit(0 if free and blas._wanted == 0 else 1)
        assert os.waitpid(number, 0)[1] == 0
        assert blas._wanted == 1


BUSY = """
import threading
import numpy as np
import aevb_engine as aevb
from aevb_engine.backend import crew

def multiply():
    square = np.ones((300, 300), np.float32)
    while True:
        square @ square

x = (np.random.default_rng(0).random((400, 100)) < 0.2).astype(np.uint8)

def fits(found, times):
    for _ in range(times):
        model = aevb.VAE(hidden=100, latent_dim=2, seed=1, threads=2, batch_size=50).fit(x, steps=20)
        found.add(model.model.parameters.theta.tobytes())

alone = set()
fits(alone, 1)
together = [set(), set()]
workers = [threading.Thread(target=fits, args=(found, 4)) for found in together]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
for _ in range(2):
    threading.Thread(target=multiply, daemon=True).start()
crew.REST = 0.05
beside = set()
fits(beside, 3)
assert alone == together[0] == together[1] == beside, "other bits beside other work"
print("done")
"""


@pytest.mark.skipif(not crew.possible(), reason="crews need Linux on x86-64")
def test_training_beside_other_work_of_the_process() -> None:
    """Two models at once, then products by other threads: no fork hangs, and the bits are those of training alone."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", BUSY], capture_output=True, text=True, timeout=patience(), env=environment
    )  # fmt: skip
    assert done.stdout == "done\n", done.stderr
