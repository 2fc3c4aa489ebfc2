"""HDF5 read with suspicion: hard links only, plain numbers, nothing outside the file, every size capped.

External links, external storage and virtual data sets would let a foreign file read other files of this
machine; huge claimed shapes and compressed bombs would fill its memory. Each is refused before any data is
read. Callers turn what libhdf5 itself raises into a FileFormatError with `as_format_error`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from aevb_engine.errors import AevbError, FileFormatError

MAGIC = b"\x89HDF\r\n\x1a\n"  # the first bytes of every HDF5 file
MAX_FILE_BYTES = 4 << 30  # a file larger than this is not read
MAX_INFLATED_BYTES = 1 << 30  # of all compressed data together
MAX_CHUNK_BYTES = 64 << 20
MAX_ITEMS = 4096  # groups and data sets together
MAX_DEPTH = 8
MAX_RANK = 8
_DEFLATE_RATIO = 1032  # deflate cannot expand more; a larger claim is not backed by data

PLAIN = tuple(
    f"{order}{kind}" for order in "<>" for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
)


@contextlib.contextmanager
def as_format_error(where: str) -> Iterator[None]:
    """Whatever the block raises about the file becomes one line: `where` and the first line of the reason."""
    try:
        yield
    except AevbError:
        raise
    except Exception as error:  # libhdf5 raises OSError, RuntimeError, KeyError, ValueError ... for damaged files
        lines = str(error).strip().splitlines()
        reason = lines[0][:200] if lines else type(error).__name__
        raise FileFormatError(f"{where} is damaged ({reason}); restore it from a copy") from error


class Budget:
    """What may still be read from one file."""

    def __init__(self, file_bytes: int) -> None:
        self.stored = file_bytes
        self.inflated = MAX_INFLATED_BYTES
        self.items = MAX_ITEMS

    def item(self, where: str) -> None:
        self.items -= 1
        if self.items < 0:
            raise FileFormatError(f"{where} holds more than {MAX_ITEMS} items, so it is foreign")


def walk(group: Any, budget: Budget, where: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (path, data set id) below a low-level group id, by name, through hard links only."""
    import h5py

    if prefix.count("/") >= MAX_DEPTH:
        raise FileFormatError(f"{where} nests deeper than {MAX_DEPTH} groups, so it is foreign")
    if group.get_num_objs() > budget.items:
        raise FileFormatError(f"{where} holds more than {MAX_ITEMS} items, so it is foreign")
    for raw in sorted(group):
        budget.item(where)
        item = open_item(group, raw, where)
        name = prefix + raw.decode("utf-8")
        if isinstance(item, h5py.h5g.GroupID):
            yield from walk(item, budget, where, name + "/")
        else:
            yield name, item


def open_item(group: Any, name: bytes, where: str) -> Any:
    """The low-level id of a group or data set that is hard-linked under `name`; nothing else is followed."""
    import h5py

    if name not in group:
        raise FileFormatError(f"{where} has no item {name.decode()!r}, so it is foreign")
    if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
        raise FileFormatError(f"{where} holds a soft or external link {name!r}; only plain data is read")
    item = h5py.h5o.open(group, name)
    if not isinstance(item, (h5py.h5g.GroupID, h5py.h5d.DatasetID)):
        raise FileFormatError(f"{where} holds {name!r}, neither a group nor a data set; only plain data is read")
    return item


def check_dataset(dataset: Any, budget: Budget, where: str, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and native type of a data set, once its storage, filters, type and sizes are known to be safe."""
    import h5py

    item = f"{where} holds {name!r}"
    if not isinstance(dataset, h5py.h5d.DatasetID):
        raise FileFormatError(f"{item}, which is not a data set, so it is foreign")
    created = dataset.get_create_plist()
    layout = created.get_layout()
    if layout not in (
        h5py.h5d.COMPACT,
        h5py.h5d.CONTIGUOUS,
        h5py.h5d.CHUNKED,
    ):  # virtual data sets read other files
        raise FileFormatError(f"{item} with virtual storage; only data inside the file is read")
    if created.get_external_count() > 0:
        raise FileFormatError(f"{item} with external storage; only data inside the file is read")
    for index in range(created.get_nfilters()):
        if created.get_filter(index)[0] not in (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE):
            raise FileFormatError(f"{item} with an unknown filter; only gzip and shuffle are read")
    stored = dataset.get_type()
    native = next(
        (np.dtype(code).newbyteorder("=") for code in PLAIN if stored == h5py.h5t.py_create(np.dtype(code))),
        None,
    )
    if native is None:
        raise FileFormatError(f"{item} of a type that is not a plain number; only plain data is read")
    space = dataset.get_space()
    if space.get_simple_extent_type() == h5py.h5s.NULL or space.get_simple_extent_ndims() > MAX_RANK:
        raise FileFormatError(f"{item} without a plain shape; only plain data is read")
    shape = tuple(int(n) for n in space.get_simple_extent_dims())
    claimed = native.itemsize
    for extent in shape:
        claimed *= extent
    chunk = 0
    if layout == h5py.h5d.CHUNKED:
        chunk = native.itemsize
        for extent in created.get_chunk():
            chunk *= int(extent)
    if chunk > MAX_CHUNK_BYTES:
        raise FileFormatError(f"{item} in chunks of {chunk} bytes, at most {MAX_CHUNK_BYTES} are read")
    if created.get_nfilters():
        limit = min(budget.inflated, _DEFLATE_RATIO * budget.stored)
        budget.inflated -= claimed
    else:  # a live log may announce one chunk more than it holds
        limit = budget.stored + chunk
        budget.stored -= claimed
    if claimed > limit:
        raise FileFormatError(f"{item} of claimed size {claimed} bytes, more than the file can hold or may take")
    return shape, native


def read_dataset(dataset: Any, budget: Budget, where: str, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    """The checked data set as a new array in native byte order."""
    import h5py

    shape, dtype = check_dataset(dataset, budget, where, name)
    array = np.empty(shape, dtype)
    if array.size:
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array


def text_attribute(owner: Any, name: bytes, where: str) -> str:
    """A fixed-length text attribute of a low-level id."""
    values = text_list_attribute(owner, name, where)
    if len(values) != 1:
        raise FileFormatError(f"{where} has an attribute {name.decode()!r} that is not one text")
    return values[0]


def text_list_attribute(owner: Any, name: bytes, where: str) -> tuple[str, ...]:
    """A fixed-length text attribute, one or a row of them."""
    import h5py

    attribute = _attribute(owner, name, where)
    kind = attribute.get_type()
    if not isinstance(kind, h5py.h5t.TypeStringID) or kind.is_variable_str() or kind.get_size() > 1024:
        raise FileFormatError(f"{where} has an attribute {name.decode()!r} that is not plain text")
    if len(attribute.shape) > 1:
        raise FileFormatError(f"{where} has an attribute {name.decode()!r} that is not a row of texts")
    values = np.zeros(attribute.shape, f"S{kind.get_size()}")
    attribute.read(values)
    return tuple(bytes(value).decode("utf-8") for value in values.reshape(-1))


def integer_attribute(owner: Any, name: bytes, where: str) -> int:
    """A scalar integer attribute."""
    import h5py

    attribute = _attribute(owner, name, where)
    if not isinstance(attribute.get_type(), h5py.h5t.TypeIntegerID) or attribute.shape != ():
        raise FileFormatError(f"{where} has an attribute {name.decode()!r} that is not one integer")
    value = np.zeros((), np.int64)
    attribute.read(value)
    return int(value)


def check_format(root: Any, where: str, name: str, version: int) -> None:
    """Refuses a file of another format, or of a version this program does not know."""
    found = text_attribute(root, b"format", where)
    if found != name:
        raise FileFormatError(f"{where} has the format {found!r}, not {name!r}")
    number = integer_attribute(root, b"version", where)
    if not 1 <= number <= version:
        raise FileFormatError(
            f"{where} has version {number} of {name!r}, this program knows 1 to {version}; upgrade it"
        )


def _attribute(owner: Any, name: bytes, where: str) -> Any:
    import h5py

    if not h5py.h5a.exists(owner, name):
        raise FileFormatError(f"{where} has no attribute {name.decode()!r}, so it is foreign")
    attribute = h5py.h5a.open(owner, name)
    if attribute.get_space().get_simple_extent_npoints() > 4096:
        raise FileFormatError(f"{where} has an attribute {name.decode()!r} that is too large")
    return attribute
