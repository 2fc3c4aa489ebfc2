"""Hamiltonian dynamics on p(z) p(x | z)^beta, a row a chain (Neal 2011, "MCMC using Hamiltonian dynamics").

H(z, p) = 1/2 |z|^2 + 1/2 |p|^2 - beta log p(x | z), without the constants of the two Gaussians; ``dlogp`` is the
gradient of log p(x | z) by z.
"""

from __future__ import annotations

from typing import Any

from aevb_engine.kernel import kernel


@kernel(
    "z: rc, p: rc, scratch: rc~, work: rc~ -> energy: r+",
    cuda="scratch = z * z; work = p * p; energy += (T)0.5 * (scratch + work);",
)
def square_energy(xp: Any, z: Any, p: Any, scratch: Any, work: Any, energy: Any) -> None:
    """energy = 1/2 |z|^2 + 1/2 |p|^2: what does not depend on the data."""
    xp.multiply(z, z, out=scratch)
    xp.multiply(p, p, out=work)
    xp.add(scratch, work, out=scratch)
    xp.add.reduce(scratch, axis=-1, out=energy)
    energy *= energy.dtype.type(0.5)


@kernel(
    "step_size: r, normal: r, width: const -> jittered: r",
    cuda="jittered = step_size * ((T)1 + (T)width * tanh(normal));",
)
def jitter(xp: Any, step_size: Any, normal: Any, width: float, jittered: Any) -> None:
    """jittered = step_size * (1 + width * tanh(normal)), a random step within 1 +- width (Neal 2011, section 4.2)."""
    number = jittered.dtype.type
    xp.tanh(normal, out=jittered)
    xp.multiply(jittered, number(width), out=jittered)
    xp.add(jittered, number(1), out=jittered)
    xp.multiply(jittered, step_size, out=jittered)


@kernel(
    "z: rc, dlogp: rc, beta: r, step_size: r, factor: const, scratch: rc~ -> p: rc!",
    cuda="scratch = beta * dlogp - z; p += (T)factor * step_size * scratch;",
)
def leapfrog_momentum(
    xp: Any, z: Any, dlogp: Any, beta: Any, step_size: Any, factor: float, scratch: Any, p: Any
) -> None:
    """p -= factor * step_size * dH/dz, dH/dz = z - beta * dlogp; factor 1/2 at the ends, 1 else (Neal 2011, 2.28)."""
    xp.multiply(dlogp, beta[:, None], out=scratch)
    xp.subtract(scratch, z, out=scratch)
    xp.multiply(scratch, step_size[:, None], out=scratch)
    xp.multiply(scratch, scratch.dtype.type(factor), out=scratch)
    xp.add(p, scratch, out=p)


@kernel("p: rc, step_size: r, scratch: rc~ -> z: rc!", cuda="scratch = step_size * p; z += scratch;")
def leapfrog_position(xp: Any, p: Any, step_size: Any, scratch: Any, z: Any) -> None:
    """z += step_size * p (Neal 2011, 2.29)."""
    xp.multiply(p, step_size[:, None], out=scratch)
    xp.add(z, scratch, out=z)


@kernel(
    "logp: r, energy: r, new_logp: r, new_energy: r, beta: r, exponential: r, scratch: r~"
    " -> probability: r, accepted: r",
    cuda="scratch = beta * new_logp - new_energy; bool finite = scratch - scratch == (T)0;"
    " T gain = scratch - (beta * logp - energy); accepted = finite && gain > -exponential ? (T)1 : (T)0;"
    " probability = !finite || gain != gain ? (T)0 : gain > (T)0 ? (T)1 : exp(gain);",
)
def metropolis(
    xp: Any,
    logp: Any,
    energy: Any,
    new_logp: Any,
    new_energy: Any,
    beta: Any,
    exponential: Any,
    scratch: Any,
    probability: Any,
    accepted: Any,
) -> None:
    """accepted = 1 where log u < H(old) - H(new), else 0; probability = min(1, e^(H(old) - H(new))) (Neal 2011, 3.6).

    ``exponential`` is -log u of a uniform u, an Exp(1) number. A proposal whose H is infinite or NaN is rejected.
    """
    xp.multiply(beta, new_logp, out=probability)
    xp.subtract(probability, new_energy, out=probability)
    xp.copyto(probability, probability.dtype.type(-xp.inf), where=~xp.isfinite(probability))
    xp.multiply(beta, logp, out=scratch)
    xp.subtract(scratch, energy, out=scratch)
    xp.subtract(probability, scratch, out=probability)
    xp.negative(exponential, out=scratch)
    accepted[...] = probability > scratch
    xp.minimum(probability, probability.dtype.type(0), out=probability)
    xp.exp(probability, out=probability)
    xp.fmax(probability, probability.dtype.type(0), out=probability)  # NaN to 0


@kernel("accepted: r, proposal: rc -> state: rc!", cuda="state = accepted > (T)0 ? proposal : state;")
def select(xp: Any, accepted: Any, proposal: Any, state: Any) -> None:
    """state = proposal where accepted; a rejected proposal may hold NaN."""
    xp.copyto(state, proposal, where=(accepted > 0)[:, None])
