"""The same model through ``torch.compile``: gather, noise, forward and backward in one graph."""

from __future__ import annotations

import torch_eager


class Engine(torch_eager.Engine):
    """``block`` trains and returns the bound of every step."""

    compiled = True
