"""Stretches of a list of operations replaced by fewer, for every backend, and when this changes nothing.

A rule looks at the head of what is left of the list and says how many operations it takes and what they become. What
it becomes may leave out what only passed between the operations taken: that is absorbed. The one condition is
``Stretch.allows``: an array may be absorbed only if nothing else reads it before it is written again. No rule decides
that for itself: it follows from what operations declare to read and to write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from aevb_engine.memory import Place, Touched
from aevb_engine.operation import Buffer, Operation


class Item(Protocol):
    """An operation, or what a backend runs in the place of some."""

    @property
    def touched(self) -> Touched: ...


AnyItem = TypeVar("AnyItem", bound=Item)
Rule = Callable[[Sequence[Any]], tuple[int, list[AnyItem]] | None]


def rewrite(
    operations: Sequence[Operation],
    rules: Sequence[Rule[AnyItem]],
    alone: Callable[[Operation], AnyItem],
    read: Sequence[Buffer] | None,
) -> list[AnyItem | Operation]:
    """The list with every rule applied: what a backend runs in its place.

    The first rule that takes any operations, and may, counts. An operation that no rule takes becomes ``alone`` of it;
    where even that leaves out too much it stays. ``read``: see ``Stretch``.
    """
    stretch = Stretch(operations, read)
    every: list[Rule[AnyItem]] = [*rules, lambda rest: (1, [alone(rest[0])])]
    items: list[AnyItem | Operation] = []
    at = 0
    while at < len(operations):
        rest = operations[at:]
        for rule in every:
            taken = rule(rest)
            if taken is not None and stretch.allows(at, taken[0], [item.touched for item in taken[1]]):
                items += taken[1]
                at += taken[0]
                break
        else:
            items.append(operations[at])
            at += 1
    return items


class Stretch:
    """A list that runs again and again, with other lists between, and what is known of those.

    ``read``: what anything but this list reads of what it writes, the host included; None where that is not known, so
    that everything may be read. What this list reads itself is found from its operations.
    """

    def __init__(self, operations: Sequence[Operation], read: Sequence[Buffer] | None) -> None:
        self.operations = [op.touched for op in operations]
        self.read = None if read is None else [buffer.place for buffer in read]
        self.ahead: list[Place] = []  # written by items in place of operations that come later

    def allows(self, at: int, count: int, become: Sequence[Touched]) -> bool:
        """Whether items may stand for the operations ``at`` .. ``at + count``.

        They may where no item reads what only those operations made, and where nothing else reads what is absorbed: of
        what the operations write, all that the items do not leave.
        """
        taken = self.operations[at : at + count]
        written = [place for t in taken for place in t.writes]
        needed = read_first(taken)
        made: list[Place] = []
        left, ahead = list(self.ahead), []
        for item in become:
            for place in item.reads:
                if place.touches(written) and not place.within(made) and not place.touches(needed):
                    return False
            made += item.writes
            left = [place for place in left if not place.touches(item.unfinished)]
            left += [place for place in item.writes if not place.touches(item.unfinished)]
            ahead += [place for place in item.writes if not place.touches(written)]
        absorbed = [p for t in taken for p in t.writes if not p.within((*left, *t.scratch))]
        if any(self._wanted(place, at + count) for place in absorbed):
            return False
        self.ahead += ahead
        return True

    def _wanted(self, place: Place, start: int) -> bool:
        """Whether anything from operation ``start`` on reads it before it is written again."""
        found = wanted(place, self.operations[start:])
        if found is None:  # the list ends: others may run, then it begins again
            found = self.read is None or place.touches(self.read) or wanted(place, self.operations)
        return bool(found)


def wanted(place: Place, after: Iterable[Touched]) -> bool | None:
    """Whether any of those that come after reads it before one writes it again; None where none does either."""
    for item in after:
        if place.touches(item.reads):
            return True
        if place.within(item.writes):
            return False
    return None


def read_first(operations: Iterable[Touched]) -> list[Place]:
    """What a list reads before it has written it: what others made."""
    found: list[Place] = []
    made: list[Place] = []
    for op in operations:
        found += [place for place in op.reads if not place.within(made)]
        made += op.writes
    return found


def read_by(lists: Iterable[Sequence[Operation]]) -> list[Buffer]:
    """What lists of operations read of what others than the list itself wrote."""
    found: list[Buffer] = []
    for operations in lists:
        made: list[Place] = []
        for op in operations:
            found += [buffer for buffer in op.reads if not buffer.place.within(made)]
            made += op.touched.writes
    return found


# What rules look for ----------------------------------------------------------------------------------------


def begins(rest: Sequence[Operation], *names: str) -> bool:
    """Whether the list begins with operations of these names."""
    return len(rest) >= len(names) and all(op.name == n for op, n in zip(rest, names, strict=False))


@dataclass(frozen=True)
class Heads:
    """A likelihood behind its affine heads: ``count`` operations, the last of them ``log_prob``.

    ``products``: (x, weight, head) of each affine map, x before it was multiplied by the head's scale.
    """

    count: int
    log_prob: Operation
    products: list[tuple[Buffer, Buffer, Buffer]]


def heads(rest: Sequence[Operation]) -> Heads | None:
    """The likelihood's heads where the list begins with them: their scaled inputs, their affine maps, log p(x | z)."""
    count = 0
    while count < len(rest) and rest[count].name in ("scale", "affine"):
        count += 1
    if count == 0 or count == len(rest) or not rest[count].name.startswith("log_prob"):
        return None
    last = rest[count]
    scales = {h.name: h.scale for h in last.facts["likelihood"].heads}
    expected = {id(buffer): scales[name] for name, buffer in last.facts["products"].items()}
    scaled: dict[Any, tuple[Any, Any]] = {}  # by view: what was multiplied, and by what
    products: list[tuple[Buffer, Buffer, Buffer]] = []
    unused: set[Any] = set()
    for op in rest[:count]:
        arguments: Any = op.arguments
        if op.name == "scale":
            x, factor, y = arguments
            scaled[y.place.view] = x, factor
            unused.add(y.place.view)
            continue
        x, weight, _, head = arguments
        before, factor = scaled.get(x.place.view, (x, 1.0))
        if expected.pop(id(head), None) != factor:
            return None
        unused.discard(x.place.view)
        products.append((before, weight, head))
    return Heads(count + 1, last, products) if products and not (expected or unused) else None


def same(*buffers: Any) -> bool:
    """Whether buffers are the same bytes, in whatever shape."""
    return len({buffer.place.area for buffer in buffers}) == 1


@dataclass(frozen=True)
class Latent:
    """The encoder's affine head and everything up to z, in ``count`` operations.

    ``terms``: kl (B,), or the log-densities of prior and posterior (B, L).
    """

    count: int
    affine: tuple[Any, Any, Any, Any]  # x, weight, bias, head
    noise: Operation
    sigma: Buffer
    eps: Buffer
    z: Buffer
    terms: tuple[Buffer, ...]


def latent(rest: Sequence[Operation]) -> Latent | None:
    """The latent variables where the list begins with them, each operation working on what those before made."""
    if len(rest) < 5 or rest[2].name not in ("noise", "noise_by_sample"):
        return None
    if not begins([*rest[:2], rest[3]], "affine", "standard_deviation", "reparameterize"):
        return None
    affine: Any = rest[0].arguments
    head = affine[-1]
    logvar, sigma = _all(rest[1])
    mu, scale, eps, z = _all(rest[3])
    width = mu.array.shape[-1]
    halves = head.part((slice(None), slice(None, width))), head.part((slice(None), slice(width, None)))
    joined = same(mu, halves[0]) and same(logvar, halves[1]) and same(sigma, scale) and same(eps, *rest[2].writes)
    if begins(rest[4:], "kl"):
        one, other, deviation, _, kl = _all(rest[4])
        joined = joined and same(one, mu) and same(other, logvar) and same(deviation, sigma)
        terms: tuple[Buffer, ...] = (kl,)
    elif begins(rest[4:], "standard_normal_log_density", "reparameterized_log_density"):
        (point, _, prior), (other, noise, _, posterior) = _all(rest[4]), _all(rest[5])
        joined = joined and same(point, z) and same(other, logvar) and same(noise, eps)
        terms = (prior, posterior)
    else:
        return None
    return Latent(4 + len(terms), affine, rest[2], sigma, eps, z, terms) if joined else None


def latent_backward(rest: Sequence[Operation]) -> bool:
    """Whether the list begins with the way back through z and the KL term, of one sigma and one gradient."""
    if not begins(rest, "reparameterize_backward", "kl_backward"):
        return False
    _, sigma, _, _, dmu, dlogvar = _all(rest[0])
    _, deviation, _, _, *gradient = _all(rest[1])
    return same(sigma, deviation) and same(dmu, gradient[0]) and same(dlogvar, gradient[1])


def latent_backward_mc(rest: Sequence[Operation]) -> bool:
    """The same with the prior's part and q's entropy in place of the KL term."""
    if not begins(rest, "prior_backward", "reparameterize_backward", "add_constant"):
        return False
    dz, _, _, _, _, dlogvar = _all(rest[1])
    return same(_all(rest[0])[-1], dz) and same(_all(rest[2])[-1], dlogvar)


def _all(op: Operation) -> tuple[Any, ...]:
    return op.arguments
