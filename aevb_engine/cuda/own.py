"""A whole step as texts alone: every product by a text of our own, with what follows it as epilogue.

The list runs from the first operation of a step to the last. Rules as in ``lower``, whose own come after these:

==========================================================  =======================================================
affine, elementwise kernels on its output                    one product: bias, then the kernels' bodies
gradient by the data, elementwise kernels on it              one product with the kernels' bodies
scale, affine (heads of one number a column), log_prob ...   one product of several sums with the plugin's text; what
                                                             it leaves for each tile of columns the bound adds up
gradient by weights, by biases [... update]                  one product, the biases as one more row; the optimizer's
                                                             text where nothing reads the parameters any more
affine (head) ... kl | densities, affine, elementwise        one launch, a few data points a block (``rows``), where the
gradients by the data around the latent pass                 layers are narrow enough that it is faster
advance, gather                                              one launch, which fetches the next step's rows ahead
affine on rows that a gather copies                          one product straight from the data, beside the gather
==========================================================  =======================================================

What an epilogue takes is decided by the memory it touches, never by a kernel's name; what a rule leaves out by
``rewrite.Stretch``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aevb_engine import rewrite
from aevb_engine.cuda import lower
from aevb_engine.cuda.handwritten import sources
from aevb_engine.cuda.launch import Parameter
from aevb_engine.cuda.lower import Item, Taken, Text
from aevb_engine.cuda.optimizer import optimizer
from aevb_engine.cuda.product import Picked, Product, parts_of
from aevb_engine.cuda.rows import Backward, Forward, choose, dense, plain
from aevb_engine.cuda.source import generate
from aevb_engine.kernels.rows import sum_of_parts
from aevb_engine.memory import Place, Touched, address, view
from aevb_engine.operation import Buffer, Operation
from aevb_engine.rewrite import begins

PRECISIONS = ("fp32", "tf32")


def own(
    operations: Sequence[Operation], precision: str = "fp32", read: Sequence[Buffer] = ()
) -> list[Text | Operation]:
    """The operations of a whole step, in order, as launches; an operation that is left has no text.

    What one operation leaves for another alone need not be there afterwards: log p where a bound takes it in parts,
    heads whose likelihood is within their product, scaled biases of those. ``read``: what the host reads between steps.

    ``precision``: of the products' factors, "fp32" for the model's own type, "tf32" for 10 bits of mantissa with sums
    in float.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision}: {' or '.join(PRECISIONS)} is needed")
    step = _Step(precision == "tf32", read)
    around_z = (step.rows_forward, step.rows_backward)
    rules = (step.heads, *around_z, step.other(lower._latent), step.affine, step.data, step.weight, step.update)
    others = [step.other(rule) for rule in lower.RULES]
    items = rewrite.rewrite(operations, [*rules, *others], lower._alone, read)
    return step.used([item for item in items if not isinstance(item, lower.Product)])


# Memory -----------------------------------------------------------------------------------------------------


def extent(array: Any) -> tuple[int, int]:
    """The addresses from the first byte of an array to behind its last."""
    lo = hi = address(array)
    for n, stride in zip(array.shape, array.strides, strict=True):
        lo, hi = lo + min(0, (n - 1) * stride), hi + max(0, (n - 1) * stride)
    return lo, hi + np.dtype(array.dtype).itemsize


def overlap(one: Any, other: Any) -> bool:
    """Whether two arrays may share memory."""
    (a, b), (c, d) = extent(one), extent(other)
    return a < d and c < b


def _arrays(buffers: Sequence[Buffer]) -> list[Any]:
    return [b.array for b in buffers]


@dataclass
class _Touched:
    """What a product with its epilogue touches so far: the array of each element it writes, what it reads elsewhere."""

    written: list[Any]
    elsewhere: list[Any]  # read at other places than the element's own
    here: list[Any]  # read at the element's own place

    def allows(self, written: Sequence[Any], elsewhere: Sequence[Any], here: Sequence[Any]) -> bool:
        """Whether every element can still be finished by itself."""
        w, e = [*self.written, *written], [*self.elsewhere, *elsewhere]
        if any(overlap(a, b) for a in w for b in e):
            return False
        return all(view(a) == view(b) or not overlap(a, b) for a in w for b in (*w, *self.here, *here))

    def apart(self) -> bool:
        """Whether nothing that is written lies in memory that anything else of it is read from or written to."""
        pairs = [(a, b) for i, a in enumerate(self.written) for b in (*self.written[:i], *self.elsewhere)]
        return not any(overlap(a, b) for a, b in pairs)

    def add(self, written: Sequence[Any], elsewhere: Sequence[Any], here: Sequence[Any]) -> None:
        self.written += written
        self.elsewhere += elsewhere
        self.here += here


# Rules ------------------------------------------------------------------------------------------------------


class _Step:
    """The rules, with what they note for afterwards; a note counts only where its text is in the list."""

    def __init__(self, tensor_cores: bool, read: Sequence[Buffer]) -> None:
        self.tensor_cores = tensor_cores
        self.read = [buffer.place for buffer in read]
        self.updated: list[tuple[int, int]] = []  # addresses of gradients whose parameters are updated already
        self.parts: list[tuple[Any, Any, Text]] = []  # logp, its parts by tile of columns, the text that adds them up
        self.unread: list[Any] = []  # what a rule no longer reads: made in vain unless another does
        self.splits: list[tuple[Any, Any, Text, Text]] = []  # a product, its parts, the text of either
        self.first: list[tuple[Product, Text]] = []  # products of x and a weight matrix, which may be of the data

    def product(self, a: Any, factors: Sequence[Any], label: str, last: Any = None) -> Product:
        if self.tensor_cores and np.dtype(a.dtype) != np.float32:
            raise ValueError(f"precision tf32: products of float32 are needed, not {a.dtype}")
        return Product(a, factors, last, self.tensor_cores, label)

    def affine(self, rest: Sequence[Operation]) -> Taken | None:
        """y = x W + b, and elementwise kernels on y."""
        if rest[0].name != "affine":
            return None
        x, weight, bias, y = (b.array for b in rest[0].arguments)  # type: ignore[union-attr]
        product = self.product(x, [weight], "affine")
        start = f"sum0[i] + {product.array(bias, 'c')}"
        taken = self._chain(product, start, y, rest, _Touched([y], [x, weight, bias], []))
        (text,) = taken[1]
        assert isinstance(text, Text)
        self.first.append((product, text))
        return taken

    def data(self, rest: Sequence[Operation]) -> Taken | None:
        """dx = dy W^T, and elementwise kernels on dx."""
        if rest[0].name != "affine_backward_data":
            return None
        dy, weight, dx = (b.array for b in rest[0].arguments)  # type: ignore[union-attr]
        product = self.product(dy, [weight.T], "data")
        return self._chain(product, "sum0[i]", dx, rest, _Touched([dx], [dy, weight], []))

    def _chain(
        self,
        product: Product,
        start: str,
        y: Any,
        rest: Sequence[Operation],
        touched: _Touched,
        unfinished: tuple[Any, ...] = (),
    ) -> Taken:
        """The kernels that follow on the elements of y, as long as each element can be finished by itself."""
        known = {view(y): "v0"}
        arrays = {view(y): y}
        product.element.append(f"T v0 = {start};")
        count = 1
        while (
            count < len(rest) and lower._heads(rest[count:]) is None and self._follows(rest[count], y, known, touched)
        ):
            kernel, given = rest[count].kernel, _values(rest[count])
            assert kernel is not None
            product.elementwise(kernel, given, known)
            for declared, value in zip(kernel.arguments, given, strict=True):
                if declared.output:
                    arrays[view(value)] = value
            product.label += f"_{kernel.name}"
            count += 1
        if count == 1 and start == "sum0[i]":
            return 1, [self._alone(product, y)]
        for key, name in known.items():
            product.store(arrays[key], name)
        return count, [Text(*product.text(), unfinished)]

    def _follows(self, op: Operation, y: Any, known: dict[tuple[Any, ...], str], touched: _Touched) -> bool:
        kernel = op.kernel
        if kernel is None or kernel.cuda is None or len(kernel.space) != 2:
            return False
        written, elsewhere, here, joined = [], [], [], False
        for declared, value in zip(kernel.arguments, _values(op), strict=True):
            if declared.shape == "const" or declared.scratch:
                continue
            if declared.row_sum or value.ndim != len(declared.letters or "s") or value.dtype != y.dtype:
                return False
            whole = declared.letters == kernel.space
            shape = tuple(y.shape[kernel.space.index(letter)] for letter in declared.letters) or (1,)
            if any(n not in (size, 1) for n, size in zip(value.shape, shape, strict=True)):
                return False
            if declared.output and value.shape != y.shape:
                return False
            if declared.output:
                written.append(value)
            if whole and value.shape == y.shape:
                joined = joined or view(value) in known
                here.append(value)
            else:
                elsewhere.append(value)
        if not joined or not touched.allows(written, elsewhere, here):
            return False
        touched.add(written, elsewhere, here)
        return True

    def heads(self, rest: Sequence[Operation]) -> Taken | None:
        """The likelihood's affine heads and the likelihood, where a head is one number a column."""
        taken = lower._heads(rest)
        if taken is None:
            return None
        count, items = taken
        last = rest[count - 1]
        self.unread += [op.arguments[2].array for op in rest[:count] if op.name == "affine"]  # type: ignore[union-attr]
        f = last.facts
        plugin = f["likelihood"]
        products = [item for item in items if isinstance(item, lower.Product)]
        x = products[0].x.array
        if any(head.group > 1 for head in plugin.heads) or any(view(item.x.array) != view(x) for item in products):
            return count, [self._plain(item) for item in items]
        logp, cube = f["logp"].array, f["x"].array
        rows, columns = logp.size, cube.shape[-1]
        product = self.product(x, [item.weight.array for item in products], "")
        label = type(plugin).__name__.lower()
        product.label = f"{label}_{last.name}"
        tiles = -(-columns // product.tile.columns)
        parts = type(logp)((tiles, rows), logp.dtype)
        number = {id(f["products"][name]): name for name in f["products"]}
        order = {number[id(op.arguments[3])]: i for i, op in enumerate(o for o in rest[:count] if o.name == "affine")}
        given: list[tuple[Any, ...]] = []
        for head, shaped in zip(plugin.heads, f["heads"], strict=True):
            if head.source == "affine":
                given.append((order[head.name], f["biases"][head.name].array))
            else:
                given.append((shaped.array.reshape(-1),))
        dheads = [d.array.reshape(rows, columns) for d in f["dheads"]]
        product.log_prob(plugin, label, cube.reshape(-1, columns), given, parts, dheads)
        total = Text(generate(sum_of_parts), (parts, logp.reshape(rows)))
        self.parts.append((logp, parts, total))
        return count, [Text(*product.text()), total]

    def rows_forward(self, rest: Sequence[Operation]) -> Taken | None:
        """The head, the latent pass, the decoder's first layer and elementwise kernels on it, by blocks of rows."""
        taken = lower._latent(rest)
        if taken is None or not begins(rest[taken[0] :], "affine"):
            return None
        count, (head, latent) = taken
        assert isinstance(head, lower.Product)
        assert isinstance(latent, Text)
        hidden, weight = head.x.array, head.weight.array
        z2, to, bias, y = (b.array for b in rest[count].arguments)  # type: ignore[union-attr]
        given = dict(zip(latent.source.accepts, map(plain, latent.given), strict=True))
        z = given["z"]
        b, samples, latents = z.shape
        if address(z2) != address(z) or z2.shape != (b * samples, latents) or not (dense(z) and dense(z2)):
            return None
        sizes = {"b": b, "l": samples, "k": hidden.shape[1], "h": weight.shape[1], "z": latents, "n": to.shape[1]}
        rows = choose(sizes, z.dtype.itemsize, True)
        written = [a for a, p in _named(latent) if p.written]
        read = [a for a, p in _named(latent) if not p.written and view(a) != view(given["head"])]
        touched = _Touched([*written, y], [hidden, weight, to, bias, *read], [])
        if rows is None or not touched.apart() or not (dense(weight) and dense(to)):
            return None
        joined = Forward(z2, [to], label="affine", rows=rows, hidden=hidden, weight=weight, latent=latent, sizes=sizes)
        start = f"sum0 + {joined.array(bias, 'c')}"
        more, items = self._chain(joined, start, y, rest[count:], touched)
        return count + more, items

    def rows_backward(self, rest: Sequence[Operation]) -> Taken | None:
        """From the gradient by the decoder's first layer to that by the encoder's last, by blocks of rows."""
        if rest[0].name != "affine_backward_data":
            return None
        dy, weight, dz = (b.array for b in rest[0].arguments)  # type: ignore[union-attr]
        begin = 1  # what comes between and has nothing to do with dz may as well come before
        while begin < len(rest) and _independent(rest[begin], rest[0]):
            begin += 1
        end = next((i for i, op in enumerate(rest) if i > begin and op.name == "affine_backward_data"), None)
        if end is None or end - begin > 4:
            return None
        between = [rest[0], *rest[begin : end + 1]]
        rules = (lower._latent_backward, lower._latent_backward_mc)
        middle = rewrite.rewrite(between, rules, lower._alone, ())[1:-1]
        dhead, head, dh = (b.array for b in rest[end].arguments)  # type: ignore[union-attr]
        b, s = dhead.shape[0], dz.shape[0]
        texts = [item for item in middle if isinstance(item, Text)]
        if s % b or dhead.shape[1] != 2 * dz.shape[1] or len(texts) < len(middle) or not all(map(dense, (dz, dhead))):
            return None
        sizes = {"b": b, "l": s // b, "k": dh.shape[1], "h": dhead.shape[1], "z": dz.shape[1], "n": dy.shape[1]}
        rows = choose(sizes, dz.dtype.itemsize, False)
        if rows is None or not (dense(weight) and dense(head)):
            return None
        joined = Backward(
            dhead, [head.T], label="data", rows=rows, dy=dy, weight=weight, dz=dz, middle=texts, sizes=sizes
        )
        if not joined.fits():
            return None
        inputs = [a for text in texts for a, p in _named(text) if not p.written and joined.held(a) is None]
        touched = _Touched([dz, dhead, dh], [dy, weight, head, *inputs], [])
        if not touched.apart():
            return None
        before = [lower._alone(op) for op in rest[1:begin]]
        changed = any(overlap(a, dz) for op in rest[begin:end] for a in _arrays(op.writes))
        more, items = self._chain(joined, "sum0", dh, rest[end:], touched, (dz,) if changed else ())
        return end + more, [*before, *items]

    def weight(self, rest: Sequence[Operation]) -> Taken | None:
        """dW = x^T dy and below it db, then the optimizer where it may follow at once."""
        if rest[0].name != "affine_backward_weight":
            return None
        x, dy, grad = (b.array for b in rest[0].arguments)  # type: ignore[union-attr]
        count, last = 1, None
        if begins(rest[1:], "affine_backward_bias"):
            weights, same, bias = (b.array for b in rest[1].arguments)  # type: ignore[union-attr]
            if view(same) == view(dy) and extent(bias)[0] == extent(grad)[1] and bias.size == dy.shape[1]:
                count, last = 2, weights
        size = grad.size + (dy.shape[1] if last is not None else 0)
        product = self.product(x.T, [dy], "weight", last)
        update = self._update(rest, count, address(grad), size)
        if update is None:
            return self._weight_alone(x, dy, grad)
        f, at = update
        part = slice(at, at + size)
        flats = [buffer.array[part].reshape(product.shape) for buffer in (f["grad"], f["theta"], *f["state"])]
        product.label += f"_{type(f['optimizer']).__name__.lower()}"
        product.update(f["optimizer"], flats[0], f["coef"].array, f["decay"], flats[1], flats[2:])
        self.updated.append((address(grad), address(grad) + size * grad.dtype.itemsize))
        return count, [Text(*product.text())]

    def _weight_alone(self, x: Any, dy: Any, grad: Any) -> Taken:
        product = self.product(x.T, [dy], "weight")
        product.store(grad, "sum0[i]")
        return 1, [Text(*product.text())]

    def _update(self, rest: Sequence[Operation], count: int, start: int, size: int) -> tuple[Any, int] | None:
        """The facts of the update that these gradients wait for, and their place in it, if nothing comes between."""
        for i, op in enumerate(rest[count:], count):
            if op.name != "update":
                continue
            f = op.facts
            flat = f["grad"].array
            lo, hi = extent(flat)
            if not lo <= start or not start + size * flat.dtype.itemsize <= hi or f["optimizer"].cuda is None:
                continue
            at = (start - lo) // flat.dtype.itemsize
            part = slice(at, at + size)
            changed = [b.array[part] for b in (f["theta"], *f["state"])]
            kept = [flat[part], f["coef"].array]
            for between in rest[count:i]:
                reads, writes = _arrays(between.reads), _arrays(between.writes)
                if any(overlap(a, b) for a in (*reads, *writes) for b in changed):
                    return None
                if any(overlap(a, b) for a in writes for b in kept):
                    return None
            return f, at
        return None

    def update(self, rest: Sequence[Operation]) -> Taken | None:
        """What is left of an update: parameters whose gradient no product gave."""
        if rest[0].name != "update" or not self.updated or rest[0].facts["optimizer"].cuda is None:
            return None
        f = rest[0].facts
        grad = f["grad"].array
        first, width = address(grad), np.dtype(grad.dtype).itemsize
        edges = [0]
        for lo, hi in sorted(self.updated):
            if extent(grad)[0] <= lo < extent(grad)[1]:
                edges += [(lo - first) // width, (hi - first) // width]
        edges.append(grad.size)
        source = optimizer(f["optimizer"])
        items: list[Item] = []
        for lo, hi in zip(edges[::2], edges[1::2], strict=True):
            if hi > lo:
                part = slice(lo, hi)
                arrays = [b.array[part] for b in (f["grad"], f["theta"], *f["state"])]
                items.append(Text(source, (arrays[0], f["coef"].array, f["decay"], *arrays[1:])))
        return 1, items

    def other(self, rule: Any) -> Any:
        """A rule of ``lower`` with its products by texts of our own."""

        def apply(rest: Sequence[Operation]) -> Taken | None:
            taken = rule(rest)
            return None if taken is None else (taken[0], [self._plain(item) for item in taken[1]])

        return apply

    def _plain(self, item: Item) -> Item:
        if not isinstance(item, lower.Product):
            return item
        y = item.y.array
        return self._alone(self.product(item.x.array, [item.weight.array], "plain"), y, (y,))

    def _alone(self, product: Product, y: Any, unfinished: tuple[Any, ...] = ()) -> Text:
        """y as the bare product; kept beside it, the same in parts for readers who can add them up."""
        bare = Product(product.a, product.factors, None, product.tensor_cores, product.label)
        bare.store(y, "sum0[i]")
        text = Text(*bare.text(), unfinished)
        (m, n), k = bare.shape, int(bare.a.shape[1])
        splits = parts_of(m, k, n, bare.tile)
        if splits > 1:
            cut = Product(bare.a, bare.factors, None, bare.tensor_cores, f"{bare.label}_parts", bare.tile, splits)
            parts = type(y)((-(-k // cut.share), m, n), y.dtype)
            cut.element.append(f"{cut.array(parts, 'src', written=True)} = sum0[i];")
            self.splits.append((y, parts, text, Text(*cut.text())))
        return text

    # Afterwards -----------------------------------------------------------------------------------------------

    def used(self, items: list[Text | Operation]) -> list[Text | Operation]:
        """The list with sums taken in parts where all who read them can, without what nobody reads, and merged."""
        for logp, parts, total in self.parts:
            items = self._in_parts(items, logp, parts, total, None)
        for y, parts, text, cut in self.splits:
            items = self._in_parts(items, y, parts, text, cut)
        return self._from_the_data(_read_at_cursor(self._useful(items)))

    def _in_parts(
        self, items: list[Text | Operation], y: Any, parts: Any, text: Text, cut: Text | None
    ) -> list[Text | Operation]:
        """Without ``text``, which makes y (or ``cut`` in its place), where all who read y can add up its parts."""
        at = next((i for i, item in enumerate(items) if item is text), None)
        if at is None:
            return items
        of_parts: dict[int, Text] = {}
        touched = [item.touched for item in items]
        for i in range(at + 1, len(items)):
            if Place(y).touches(touched[i].reads):
                reader = _of_parts(items[i], y, parts)
                if reader is None:
                    return items
                of_parts[i] = reader
                touched[i] = reader.touched
            if Place(y).within(touched[i].writes):
                break
        if (cut is not None and not of_parts) or self._wanted(y, touched, at):
            return items
        items = [of_parts.get(i, item) for i, item in enumerate(items)]
        return [*items[:at], *([] if cut is None else [cut]), *items[at + 1 :]]

    def _useful(self, items: list[Text | Operation]) -> list[Text | Operation]:
        """Without texts that make nothing but what a rule stopped reading, and nobody else reads."""
        for array in self.unread:
            touched = [item.touched for item in items]
            vain = [i for i, t in enumerate(touched) if len(t.writes) == 1 and t.writes[0].view == view(array)]
            vain = [i for i in vain if isinstance(items[i], Text) and not self._wanted(array, touched, i)]
            items = [item for i, item in enumerate(items) if i not in vain]
        return items

    def _wanted(self, array: Any, touched: Sequence[Touched], at: int) -> bool:
        """Whether anything reads what item ``at`` makes before it is written again, in this step or the next."""
        place = Place(array)
        found = rewrite.wanted(place, touched[at + 1 :])
        if found is None:
            found = place.touches(self.read) or rewrite.wanted(place, touched[: at + 1])
        return bool(found)

    def _from_the_data(self, items: list[Text | Operation]) -> list[Text | Operation]:
        """Products of the rows that a gather copies, straight from the data: they need not wait for it."""
        for at, gather in enumerate(items):
            if not isinstance(gather, Text) or gather.source.accepts != GATHERED:
                continue
            data, cursor, orders, _, _, _, scale, x = (g.array if isinstance(g, Buffer) else g for g in gather.given)
            for product, text in self.first:
                i = next((i for i, item in enumerate(items) if item is text), -1)
                between = items[at + 1 : i]
                if i < at or view(product.a) != view(x) or not dense(data):
                    continue
                if any(_writes(item, a) for item in between for a in (x, data, cursor, orders)):
                    continue
                picked = Picked(data, cursor, orders, scale)
                straight = replace(product, picked=picked, label=f"picked_{product.label}")
                items = [*items[:i], Text(*straight.text()), *items[i + 1 :]]
        return items


GATHERED = ("data", "cursor", "orders", "rates", "index", "coef", "scale", "x")  # what a gather at the cursor takes


def _independent(op: Operation, other: Operation) -> bool:
    """Whether an elementwise operation may as well come before the other one."""
    if op.kernel is None or op.kernel.cuda is None:
        return False
    pairs = [(a, b) for a in _arrays(op.writes) for b in _arrays((*other.reads, *other.writes))]
    pairs += [(a, b) for a in _arrays(op.reads) for b in _arrays(other.writes)]
    return not any(overlap(a, b) for a, b in pairs)


ADVANCED = """\
{
    const long long s = cursor_[0] < 0 ? 0 : cursor_[0] < size_s ? cursor_[0] : size_s - 1;
    if (blockIdx.x == 0 && blockIdx.y == 0) {
        const int first = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
        for (int i = first; i < size_r; i += threads)
            index_[(long long)i * index_r] = orders_[s * orders_s + (long long)i * orders_r];
        for (int i = first; i < size_m; i += threads)
            coef_[(long long)i * coef_m] = rates_[s * rates_s + (long long)i * rates_m];
    }
"""


# The next step's rows into the cache: a product that reads them straight from the data would wait for memory in every
# chunk. "size_c" and the rest of a line, so that the last one is met wherever the row begins.
AHEAD = """\
        const long long later = orders_[(s + 1 < size_s ? s + 1 : s) * orders_s + (long long)r * orders_r];
        const long long next = later < 0 ? 0 : later < size_n ? later : size_n - 1;
        const int line = 128 / (int)sizeof(data_[0]), first = blockIdx.x * blockDim.x + threadIdx.x;
        for (int c = first * line; c < size_c + line; c += gridDim.x * blockDim.x * line)
            prefetch_line(data_ + next * data_n + (long long)(c < size_c ? c : size_c - 1) * data_c);
"""
PICKS = "        const long long n = wanted < 0 ? 0 : wanted < size_n ? wanted : size_n - 1;\n"


def _read_at_cursor(items: list[Text | Operation]) -> list[Text | Operation]:
    """The start of the step within the first text that reads the rows' numbers: those straight from the table."""
    at = next((i for i, t in enumerate(items) if isinstance(t, Text) and t.source is sources()["advance"]), None)
    if at is None:
        return items
    advance = items[at]
    assert isinstance(advance, Text)
    cursor, orders, rates, index, coef = (g.array for g in advance.given)
    tables = (cursor, orders, rates, index, coef)
    for i in range(at + 1, len(items)):
        item = items[i]
        merged = _after_advance(item, tables) if isinstance(item, Text) and _reads(item, index) else None
        if merged is not None:
            return [*items[:at], *items[at + 1 : i], merged, *items[i + 1 :]]
        if _reads(item, index) or _reads(item, coef) or any(_writes(item, table) for table in tables):
            return items
    return items


def _after_advance(text: Text, tables: Sequence[Any]) -> Text | None:
    cursor, orders, rates, index, coef = tables
    once, parameters = "index_[(long long)r * index_r]", "const long long* index_, int index_r"
    source = text.source
    given = [g.array if isinstance(g, Buffer) else g for g in text.given]
    counts = {source.text.count(part) for part in (once, parameters, PICKS)}
    if counts != {1} or view(given[1]) != view(index):
        return None
    if any(_reads(text, table) or _writes(text, table) for table in (orders, rates, coef, cursor)):
        return None
    name = f"{source.name}_at_cursor"
    body = source.text.replace(once, "orders_[s * orders_s + (long long)r * orders_r]").replace(source.name, name)
    body = body.replace("\n{\n", "\n" + ADVANCED, 1).replace("int size_n,", "int size_s, int size_m, int size_n,")
    body = body.replace(PICKS, PICKS + AHEAD)
    body = body.replace(
        parameters,
        "const long long* cursor_, const long long* orders_, int orders_s, int orders_r, const T* rates_, int rates_s,"
        " int rates_m, long long* index_, int index_r, T* coef_, int coef_m",
    )
    source = replace(source, name=name, text=body, parts=(*source.parts, "prefetch.cuh"))
    return Text(source, (given[0], cursor, orders, rates, index, coef, *given[2:]))


def _writes(item: Text | Operation, array: Any) -> bool:
    return Place(array).touches(item.touched.writes)


def _reads(item: Text | Operation, array: Any) -> bool:
    return Place(array).touches(item.touched.reads)


def _named(text: Text) -> list[tuple[Any, Parameter]]:
    """The arrays of a launch with what the source says of them."""
    return [(plain(given), p) for p, given in text.named()]


def _of_parts(item: Text | Operation, array: Any, parts: Any) -> Text | None:
    """The text with ``array`` as the sum of parts (P, ...) of it; None where it does more than read its elements."""
    if not isinstance(item, Text):
        return None
    source, values = item.source, [g.array if isinstance(g, Buffer) else g for g in item.given]
    reading = [i for i, n in enumerate(source.accepts) if hasattr(values[i], "shape") and overlap(values[i], array)]
    written = {p.name for p in source.parameters if p.written}
    reading = [i for i in reading if source.accepts[i] not in written]
    if len(reading) != 1 or extent(values[reading[0]]) != extent(array):
        return None
    at = reading[0]
    name, given = source.accepts[at], values[at]
    head, body = source.text.split("{", 1)
    elements = re.findall(rf"\b{name}_\[[^][]*\]", body)
    if not elements or len(re.findall(rf"\b{name}_\b", body)) != len(elements) or f"const T* {name}_, " not in head:
        return None
    for element in set(elements):
        place = element.removeprefix(f"{name}_[").removesuffix("]")
        body = body.replace(element, f"sum_apart({name}_ + ({place}), {name}_p, size_p)")
    head = head.replace(f"const T* {name}_, ", f"const T* {name}_, int {name}_p, ")
    head = re.sub(r"((?:int|long long) size_)", r"int size_p, \1", head, count=1)
    new = f"{source.name}_of_parts"
    text = f"{head}{{{body}".replace(f"{source.name}(", f"{new}(")
    values[at] = parts.reshape(parts.shape[0], *given.shape)
    with_sums = tuple(dict.fromkeys((*source.parts, "reduce.cuh")))
    return Text(replace(source, name=new, text=text, parts=with_sums), tuple(values))


def _values(op: Operation) -> list[Any]:
    return [a.array if isinstance(a, Buffer) else a for a in op.arguments]
