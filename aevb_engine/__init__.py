"""Auto-encoding variational Bayes on a small array engine (Kingma & Welling 2013; Lin & Xu 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aevb_engine.vae import VAE, load

__version__ = "0.1.0"
__all__ = ["VAE", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use: the command line's help needs none of them."""
    if name in ("VAE", "load"):
        from aevb_engine import vae

        return getattr(vae, name)
    raise AttributeError(f"module 'aevb_engine' has no attribute '{name}'")
