"""A model: encoder, decoder and parameters on one backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aevb_engine.backend.base import Backend
from aevb_engine.errors import UsageError, suggest
from aevb_engine.model.decoder import Decoder
from aevb_engine.model.encoder import Encoder
from aevb_engine.model.likelihood import Likelihood
from aevb_engine.model.mlp import ACTIVATIONS
from aevb_engine.model.parameters import Parameters


@dataclass(frozen=True)
class Architecture:
    """Sizes of a model: data columns D, latent columns Z, hidden widths of the encoder (the decoder mirrors them)."""

    dim: int
    latent: int
    hidden: tuple[int, ...]
    activation: str = "tanh"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.latent < 1:
            raise UsageError(f"--latent-dim {self.latent}: at least one latent dimension is needed")
        if any(width < 1 for width in self.hidden):
            raise UsageError(f"--hidden {','.join(map(str, self.hidden))}: every width must be at least 1")
        if self.activation not in ACTIVATIONS:
            raise UsageError(f"unknown activation '{self.activation}': {suggest(self.activation, ACTIVATIONS)}")
        if self.precision not in ("float32", "float64"):
            raise UsageError(f"unknown precision '{self.precision}': known: float32, float64")


class Model:
    """The encoder q(z | x), the decoder p(x | z), and one flat vector of parameters for both."""

    def __init__(
        self,
        architecture: Architecture,
        likelihood: Likelihood,
        backend: Backend,
        encoder_inputs: int | None = None,
    ) -> None:
        """``encoder_inputs``: how many columns the encoder reads, all of them if None."""
        self.architecture = architecture
        self.likelihood = likelihood
        self.backend = backend
        self.dtype: Any = np.dtype(architecture.precision)
        a = architecture
        self.encoder = Encoder(encoder_inputs or a.dim, a.hidden, a.latent, a.activation)
        self.decoder = Decoder(a.latent, a.hidden[::-1], a.dim, likelihood, a.activation)
        self.parameters = Parameters({**self.encoder.shapes(), **self.decoder.shapes()}, backend, self.dtype)
