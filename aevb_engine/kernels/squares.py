"""Squared error, the loss of the plain autoencoder (LX 11-17)."""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel("x: rc, mean: rc -> dmean: rc", cuda="dmean = (T)2 * (x - mean);")
def squared_error_backward(xp: Any, x: Any, mean: Any, dmean: Any) -> None:
    """dmean = 2 (x - mean): the derivative of -sum_d (x_d - mean_d)^2."""
    xp.subtract(x, mean, out=dmean)
    xp.multiply(dmean, dmean.dtype.type(2), out=dmean)
