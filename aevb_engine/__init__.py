"""Auto-encoding variational Bayes on a small array engine (Kingma & Welling 2013; Lin & Xu 2018)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aevb_engine.data.dataset import Dataset
    from aevb_engine.interface.data import binarize, dataset
    from aevb_engine.vae import VAE, load

__version__ = "0.1.0"
__all__ = ["VAE", "Dataset", "__version__", "binarize", "dataset", "load"]
_PLACES = {
    "VAE": "vae",
    "load": "vae",
    "Dataset": "data.dataset",
    "dataset": "interface.data",
    "binarize": "interface.data",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use: the command line's help needs none of them."""
    if name in _PLACES:
        return getattr(importlib.import_module(f"aevb_engine.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'aevb_engine' has no attribute '{name}'")
