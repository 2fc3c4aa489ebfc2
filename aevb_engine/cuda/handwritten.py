"""The kernels of the ``.cu`` files beside this module, with their grids.

============================ =========================================================================================
``normal uniform words``     noise into y (steps, rows, columns), the numbers of ``kernels/noise.py`` bit for bit
``gather gather_bytes``      rows of the resident data, of the model's type or 8-bit, times a scale
``gather_bernoulli``         rows of 8-bit data drawn anew, with the words of the stream named by ``stream``
``latent latent_mc``         bias, sigma, noise, z, and kl or the log-densities of prior and posterior, in one pass
``log_mean_exp``             of the samples of a data point
``elbo_bound elbo_mc_bound iwae_bound``  bound, reconstruction, kl (and the row weights) of a data point
``advance record``           the start and the end of a step, on the device
============================ =========================================================================================

``stream``, ``key0``, ``key1``: ``stream_id(name)`` and ``key(seed)`` of ``kernels/philox.py``. ``step`` and ``row`` are
int64 arrays of one element: steps done, and the number of the batch's first data point.
"""

from __future__ import annotations

import re
from functools import cache

from aevb_engine.cuda.launch import Shape, Source, flat, one, rows, tile
from aevb_engine.cuda.module import read
from aevb_engine.cuda.source import PREFIX

_FILES: dict[str, tuple[tuple[str, ...], dict[str, Shape]]] = {
    "fill.cu": (
        ("noise.cuh",),
        {name: tile("r", "c", "t", per_thread=4) for name in ("normal", "uniform", "words")},
    ),
    "gather.cu": (
        ("noise.cuh",),
        {
            "gather": tile("r", "c"),
            "gather_bytes": tile("r", "c"),
            "gather_bernoulli": tile("r", "c", per_thread=8),
        },
    ),
    "latent.cu": (("reduce.cuh", "noise.cuh"), {"latent": rows("b", "z"), "latent_mc": rows("b", "z")}),
    "bound.cu": (
        ("reduce.cuh",),
        {
            "log_mean_exp": rows("r"),
            "elbo_bound": rows("b"),
            "elbo_mc_bound": rows("b"),
            "iwae_bound": rows("b"),
        },
    ),
    "clock.cu": (("reduce.cuh",), {"advance": flat("b"), "record": one()}),
}


@cache
def sources() -> dict[str, Source]:
    """Every handwritten kernel by its name without prefix."""
    found = {}
    for file, (parts, shapes) in _FILES.items():
        texts = re.split(r'(?=^extern "C")', read(file), flags=re.MULTILINE)[1:]
        for text in texts:
            code = re.sub(r"^//.*\n", "", text, flags=re.MULTILINE).rstrip() + "\n"
            name = code[code.index(PREFIX) + len(PREFIX) : code.index("(", code.index(PREFIX))]
            found[name] = Source(PREFIX + name, code, shapes[name], parts)
    return found
