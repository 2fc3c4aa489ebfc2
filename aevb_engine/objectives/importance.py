"""What L^A and L_k share: log w = log p(x | z) + log p(z) - log q(z | x) and its derivative through z."""

from __future__ import annotations

from aevb_engine.kernels.bound import (
    add_constant,
    difference,
    log_weight,
    mean_of_samples,
    prior_backward,
)
from aevb_engine.kernels.gaussian import reparameterized_log_density, standard_normal_log_density
from aevb_engine.objectives.program import Pass
from aevb_engine.operation import Operation, operation


def log_densities(p: Pass) -> list[Operation]:
    """log p(z) and log q(z | x) of every sample (B * L,)."""
    prior, posterior = (p.cube(p.ws.many(n)) for n in ("log prior", "log posterior"))
    scratch = p.cube(p.scratch(p.z))
    return [
        operation(standard_normal_log_density, p.cube(p.z), scratch, prior),
        operation(reparameterized_log_density, p.logvar, p.cube(p.eps), scratch, posterior),
    ]


def log_importance_weights(p: Pass) -> list[Operation]:
    """``logw`` (B * L,), with reconstruction = mean log p(x | z) and kl = mean (log q - log p(z)) a data point."""
    ws = p.ws
    logp, prior, posterior, logw = (p.cube(ws.many(n)) for n in ("logp", "log prior", "log posterior", "logw"))
    mean_logw, reconstruction, divergence = ws.one("mean logw"), ws.one("reconstruction"), ws.one("kl")
    return [
        operation(log_weight, logp, prior, posterior, logw),
        operation(mean_of_samples, logp, reconstruction),
        operation(mean_of_samples, logw, mean_logw),
        operation(difference, reconstruction, mean_logw, divergence),
    ]


def importance_backward(p: Pass) -> list[Operation]:
    """Backward with row weights -omega_l / B, where omega sums to one over the samples of a data point.

    d log p(z) / dz = -z; -log q at z = mu + sigma eps depends on (mu, logvar) through + 1/2 logvar alone.
    """
    ws = p.ws
    dz = ws.many("dz", p.latent)
    _, dlogvar = p.model.encoder.halves(ws, "dlatent")
    prior = operation(prior_backward, p.weight, p.z, p.scratch(dz), dz)
    entropy = operation(add_constant, -0.5 / ws.batch, dlogvar)
    return p.backward([prior], [entropy])
