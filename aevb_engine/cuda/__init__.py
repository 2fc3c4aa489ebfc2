"""CUDA texts and how to launch them. Nothing here imports cupy or needs a GPU.

A kernel's whole interface is its own parameter list, read back from the text (``launch.Source``):

================= ====================================================================================
parameter         meaning
================= ====================================================================================
``T* dz_``        the array "dz" (``const``: only read); ``T``, ``unsigned char``, ``long long``, ...
``int dz_b``      stride of "dz" along axis ``b`` in elements; none of them: an array of one element or a list
``int size_b``    size of axis ``b``
anything else     a constant of the run, by value
================= ====================================================================================

``T`` is float or double, fixed for a module. ``Source.launch(*given)`` takes arrays and constants in the order of
``Source.accepts`` (for a declared kernel: its signature, scratch included and ignored) and gives a ``Launch``: name,
grid, block and the complete argument tuple with NumPy scalars of the right width. ``module(sources, dtype)`` is one
compilable text of many kernels: no headers, so NVRTC needs no include path.

Sources: ``source.generate`` (declared elementwise kernels and sums), ``likelihood.likelihood`` (a decoder plugin),
``optimizer.optimizer`` (an optimizer plugin) and ``handwritten`` (the ``.cu`` files beside this one). ``own.own`` makes
a whole step of texts: products of ``product.Product`` with what follows them as epilogue.

A step without a launch per operation: ``own.own`` makes it of texts alone, ``stages.stages`` layers them by their
hazards, ``fused.captured`` gives one kernel a stage and ``persistent.persistent`` one kernel for many steps.

No kernel uses float atomics; every sum has an order fixed by the shapes, so that two runs give the same bits.
"""

from aevb_engine.cuda.launch import Launch, Source
from aevb_engine.cuda.module import module

__all__ = ["Launch", "Source", "module"]
