"""The device's noise against NumPy's: a million numbers of each kind, compared bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from result import Record
from section import Options

SEED = 0x0123456789ABCDEF
STEP, ROW = 12345, 2**31 - 100
KINDS = ("normal", "uniform", "words")


def run(record: Record, options: Options) -> None:
    from aevb_engine.backend.cupy import CupyBackend

    backend = CupyBackend()
    shape = (2, 10, 101) if options.small else (2, 500, 1001)
    for kind in KINDS:
        ours, expected = device(backend, kind, shape), host(kind, shape)
        different = int((ours.view(np.uint32) != expected.view(np.uint32)).sum())
        record.check(f"{kind}: numbers that differ, of {expected.size}", different == 0, different, 0)
    backend.close()


def device(backend: Any, kind: str, shape: tuple[int, int, int]) -> Any:
    """The kernel's numbers; step and row come partly from the device's counters, partly from constants."""
    from aevb_engine.backend.cupy import OPTIONS
    from aevb_engine.cuda.handwritten import sources
    from aevb_engine.cuda.module import module
    from aevb_engine.kernels.philox import key, stream_id

    source = sources()[kind]
    out = backend.upload(np.zeros(shape, np.uint32 if kind == "words" else np.float32))
    step, row = (backend.upload(np.array([n], np.int64)) for n in (STEP - 2, (ROW - 3) // 5))
    launch = source.launch(step, row, 2, 5, ROW - (ROW - 3) // 5 * 5, stream_id("noise"), *key(SEED), out)
    function = backend.xp.RawModule(code=module([source], np.float32), options=OPTIONS).get_function(source.name)
    function(launch.grid, launch.block, launch.args)
    return backend.download(out)


def host(kind: str, shape: tuple[int, int, int]) -> Any:
    from aevb_engine.kernels.noise import Noise

    noise = Noise(np, SEED, "noise")
    if kind == "words":
        padded = np.empty((*shape[:2], 4 * -(-shape[2] // 4)), np.uint32)
        noise.words(STEP, ROW, padded)
        return np.ascontiguousarray(padded[..., : shape[2]])
    out = np.empty(shape, np.float32)
    getattr(noise, kind)(STEP, ROW, out)
    return out
