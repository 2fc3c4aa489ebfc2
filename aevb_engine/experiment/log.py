"""The metrics log: one HDF5 file that can be read while it is written and after its writer was killed.

Attributes `format` ("aevb-metrics") and `version`; for each cadence ("train", "eval") one data set (n, k) of
float64 with the attribute `columns`, one of which is "step" and the last one "check": a checksum of the row, its
place, the names of the columns and the run (attribute `run`). Readers verify it and leave it out. Files of version 1
have none.

HDF5's single-writer multiple-reader mode keeps every flushed row readable at any moment, provided nothing but
appending happens to the file; so MetricsLog offers nothing else.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import stat
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from zlib import crc32

import numpy as np

from aevb_engine.errors import FileFormatError, StorageError, UsageError
from aevb_engine.experiment import atomic, inspect, plain_hdf5, superblock
from aevb_engine.experiment.atomic import shown

FORMAT, VERSION = "aevb-metrics", 2
CHECK = "check"
BLOCK_ROWS, BLOCK_SECONDS = 50, 1.0
_CHUNK_BYTES = 64 << 10
_MIN_ATTEMPTS = 3
_FILL = int(np.float64(np.nan).view(np.uint64))  # the bits of a row that is announced and not filled yet
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

Rows = np.ndarray[Any, np.dtype[Any]]
Table = tuple[tuple[str, ...], Rows]


@dataclass(frozen=True)
class Found:
    """The sound rows of a log, and in one line what of it is damaged ("" where nothing is)."""

    tables: dict[str, Table]
    damage: str = ""

    def whole(self) -> dict[str, Table]:
        """The tables; FileFormatError where something is damaged."""
        if self.damage:
            raise FileFormatError(self.damage)
        return self.tables


class MetricsLog:
    """The one writer of a metrics log; made by `create` or `resume`.

    Rows are buffered (50 rows or 1 s, whichever comes first at an append) and then flushed to readers;
    `commit` also makes them survive a power failure. A failed write raises StorageError, as does every later
    call; the rows flushed before stay readable.
    """

    warnings: list[str]

    def __init__(self, path: Path) -> None:
        """Opens an existing, cleanly closed log for appending; use `create` or `resume`."""
        import h5py

        self.path = path
        self.warnings = []
        self._failure: StorageError | None = None
        self._tables: dict[str, _Table] = {}
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_libver_bounds(h5py.h5f.LIBVER_LATEST, h5py.h5f.LIBVER_LATEST)
        access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
        access.set_file_locking(False, True)  # the run's own lock does; locks of HDF5 hinder readers
        with self._storage("open"):
            # Single-writer mode from the first moment: a kill never leaves the file locked.
            flags = h5py.h5f.ACC_RDWR | h5py.h5f.ACC_SWMR_WRITE
            self._file: Any = h5py.h5f.open(os.fsencode(path), flags, access)
            self._descriptor = int(self._file.get_vfd_handle())
        try:
            with plain_hdf5.as_format_error(shown(path)):
                run, datasets = _datasets(self._file, shown(path))
                for name, columns, dataset in datasets:
                    if columns[-1] != CHECK:
                        raise FileFormatError(f"{shown(path)} is of an older version; `resume` of the run renews it")
                    self._tables[name] = _Table(dataset, columns[:-1], _seed(run, name, columns[:-1]))
        except BaseException:
            self._file.close()
            raise
        self._flushed_at = time.monotonic()

    @classmethod
    def create(cls, path: str | Path, columns: Mapping[str, Sequence[str]], *, run: str = "") -> Self:
        """A new, empty log of a run, with one table for each name of `columns`; StorageError when the path exists."""
        target = Path(path)
        if target.exists():
            raise StorageError(f"{shown(target)} exists already; resume that run or choose another place")
        atomic.write_bytes(
            target,
            _image({name: (tuple(names), np.empty((0, len(names)))) for name, names in columns.items()}, run),
        )
        return cls(target)

    @classmethod
    def resume(
        cls,
        path: str | Path,
        step: int,
        fallback: Mapping[str, tuple[Sequence[str], Rows]] | None = None,
        *,
        whole: Collection[str] = (),
        run: str = "",
        timeout: float = 60.0,
    ) -> Self:
        """The log cut to the rows whose "step" is at most `step`, published by replace and open to append.

        `fallback` (rows kept in the checkpoint) puts in its place what a log that is missing or damaged has lost;
        `warnings` of the result says so, and a damaged file is kept beside it. The tables in `whole` become those of
        `fallback`, which knows all of their rows. FileFormatError when the log is needed but damaged, StorageError
        when it cannot be read now: then nothing is changed.
        """
        target = Path(path)
        warnings: list[str] = []
        kept = {
            name: (tuple(columns), np.asarray(rows, np.float64).reshape(-1, len(columns)))
            for name, (columns, rows) in (fallback or {}).items()
        }
        found = Found({})
        try:
            found = find(target, timeout, run=run)
            damage = found.damage
        except (FileFormatError, UsageError) as error:
            damage = str(error)
        if damage:
            if not kept:
                raise FileFormatError(f"{damage} (and the checkpoint holds no copy of the metrics)")
            warnings.append(f"metrics rebuilt from the checkpoint: {damage}")
            beside = _keep(target)
            if beside is not None:
                warnings.append(f"the damaged file is kept as {shown(beside)}")
        result = {}
        for name in [*found.tables, *(name for name in kept if name not in found.tables)]:
            columns, rows = _cut(found.tables.get(name, kept.get(name)), step)
            if name in kept:
                wanted, copy = _cut(kept[name], step)
                if wanted != columns:
                    raise FileFormatError(f"{shown(target)} has other columns in {name!r} than the checkpoint")
                at = columns.index("step")
                more = copy[~np.isin(copy[:, at], rows[:, at])]
                if len(more) and name in found.tables:
                    warnings.append(f"{len(more)} rows of {name!r} restored from the checkpoint")
                rows = copy if name in whole else np.concatenate([rows, more])
                rows = rows[np.argsort(rows[:, at], kind="stable")]
                a_row_a_step = len(copy) > 1 and bool((np.diff(copy[:, at]) == 1).all())
                if damage and a_row_a_step and rows[-1, at] > len(rows):
                    warnings.append(f"{int(rows[-1, at]) - len(rows)} rows of {name!r} are lost")
            result[name] = (columns, rows)
        atomic.write_bytes(target, _image(result, run))
        log = cls(target)
        log.warnings = warnings
        return log

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """The column names of each table."""
        return {name: table.columns for name, table in self._tables.items()}

    def count(self, name: str) -> int:
        """Rows appended to a table so far, buffered ones included."""
        return self._tables[name].total

    def append(self, name: str, rows: Rows | Sequence[float] | Sequence[Sequence[float]]) -> None:
        """Adds rows (n, k), or one row (k,), of finite or non-finite numbers to a table."""
        if self._failure is not None:
            raise self._failure
        table = self._tables[name]
        values = np.asarray(rows, np.float64)
        if values.ndim == 1:
            values = values.reshape(1, -1)
        if values.ndim != 2 or values.shape[1] != len(table.columns):
            raise ValueError(f"rows of {name!r} have shape {values.shape}, expected (n, {len(table.columns)})")
        if not table.put(values):
            self._write(table, values)
        if time.monotonic() - self._flushed_at >= BLOCK_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Gives all buffered rows to the readers."""
        for table in self._tables.values():
            self._write(table, None)
        self._flushed_at = time.monotonic()

    def commit(self) -> None:
        """Makes every row appended so far durable; called before each checkpoint."""
        import h5py

        self.flush()
        with self._storage("write"):
            h5py.h5f.flush(self._file)
            getattr(os, "fdatasync", os.fsync)(self._descriptor)  # HDF5 itself never calls fsync

    def close(self) -> None:
        """Commits and closes; does nothing after a failed write or when closed already."""
        if self._failure is not None or not self._file.valid:
            return
        self.commit()
        with self._storage("close"):
            self._tables.clear()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StorageError:
            if error is None:  # the error under way says more
                raise

    def _write(self, table: _Table, values: Rows | None) -> None:
        with self._storage("write"):
            table.drain()
            if values is not None and not table.put(values):
                table.write(values)

    @contextlib.contextmanager
    def _storage(self, action: str) -> Iterator[None]:
        """Turns a failure of libhdf5 or the system into the StorageError that ends this log."""
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except (OSError, RuntimeError) as error:
            found = re.search(r"errno = (\d+)", str(error))
            code = getattr(error, "errno", None) or (int(found[1]) if found else None)
            self._failure = atomic.storage_error(action, self.path, code, str(error).split("\n")[0][:200])
            if action == "write":
                self._abandon()
            raise self._failure from error

    def _abandon(self) -> None:
        """Leaves the file on disk exactly as it is, and libhdf5 with nothing that it would try to write at exit.

        libhdf5 keeps what it could not write, tries again whenever an id is closed, and crashes the process at
        exit when that fails. So its descriptor is turned to the null device first: then closing succeeds.
        """
        import h5py

        handles = [*(table.dataset for table in self._tables.values()), self._file]
        try:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, self._descriptor, inheritable=False)
            os.close(null)
            for handle in handles:
                h5py.h5i.dec_ref(handle)
        except (OSError, RuntimeError):
            pass
        finally:
            for handle in handles:
                handle.locked = True  # h5py closes it no more


class _Table:
    """One data set, the buffer before it, and what is in both; `columns` without the check."""

    def __init__(self, dataset: Any, columns: tuple[str, ...], seed: int) -> None:
        self.dataset = dataset
        self.columns = columns
        self.seed = seed
        self.written = int(dataset.shape[0])
        self.buffer = np.empty((BLOCK_ROWS, len(columns)))
        self.pending = 0

    @property
    def total(self) -> int:
        return self.written + self.pending

    def put(self, values: Rows) -> bool:
        """Buffers the rows if they fit and leave room; False when the caller must write."""
        end = self.pending + len(values)
        if end > BLOCK_ROWS or self.pending == BLOCK_ROWS:
            return False
        self.buffer[self.pending : end] = values
        self.pending = end
        return True

    def drain(self) -> None:
        """Writes and flushes the buffered rows."""
        if self.pending:
            self.write(self.buffer[: self.pending])
            self.pending = 0

    def write(self, values: Rows) -> None:
        """Appends rows to the data set and flushes it, so that readers see all of them or none."""
        import h5py

        values = _checked(values, self.seed, self.written)
        rows, width = values.shape
        end = self.written + rows
        self.dataset.set_extent((end, width))
        place = self.dataset.get_space()
        place.select_hyperslab((self.written, 0), (rows, width))
        self.dataset.write(h5py.h5s.create_simple((rows, width)), place, values)
        self.dataset.flush()
        self.written = end


def read(path: str | Path, *, patience: float = 1.0, run: str = "") -> dict[str, Table]:
    """All tables of a log as {name: (columns, rows)}; retries for `patience` seconds beside a live writer.

    libhdf5 may crash on a damaged file: `read_safely` reads the log of a live, killed or foreign run. UsageError when
    the file is missing, FileFormatError when it is not a sound log, or not that of `run`.
    """
    return find_here(path, patience=patience, run=run).whole()


def read_safely(
    path: str | Path, timeout: float = 10.0, *, run: str = "", rows: Mapping[str, int] | None = None
) -> dict[str, Table]:
    """`read` in a child process, killed after `timeout` seconds: for live, crashed and foreign logs.

    `rows`: as many of each table the log must have. StorageError where it cannot be read now.
    """
    tables = find(path, timeout, run=run).whole()
    for name, count in (rows or {}).items():
        there = len(tables[name][1]) if name in tables else 0
        if there < count:
            raise FileFormatError(f"{shown(path)} has lost rows: {there} of {count} of {name!r} are there; {MEND}")
    return tables


def find(path: str | Path, timeout: float = 10.0, *, run: str = "") -> Found:
    """`find_here` in a child process."""
    source = Path(path)
    _check_file(source)
    tables, damage = inspect.read_metrics(source, timeout, run)
    return Found(tables, damage)


def find_here(path: str | Path, *, patience: float = 1.0, run: str = "") -> Found:
    """The sound rows; FileFormatError where there are none to be had. See `read`."""
    source = Path(path)
    deadline = time.monotonic() + patience
    attempts = 0
    while True:
        attempts += 1
        _check_file(source)
        data = _bytes_of(source)
        live = False  # the first bytes are written at one blow
        last = attempts >= _MIN_ATTEMPTS and time.monotonic() >= deadline  # one attempt may be stalled for long
        try:
            with plain_hdf5.as_format_error(shown(source)):
                live = superblock.marked(bytes(data[: superblock.SIZE]))
                found = _decode(data, live, shown(source), run)
            if not (found.damage and live) or last:
                return found
        except FileFormatError:
            if last or not live:  # what its writer has closed is not half written
                raise
        time.sleep(0.02)


def is_open(path: Path) -> bool:
    """Whether a log is marked as open for writing: by its writer, or by one that was killed."""
    try:
        with path.open("rb") as file:
            return superblock.marked(file.read(superblock.SIZE))
    except (OSError, superblock.NotSound):
        return False


MEND = "`aevb-engine resume` of the run rebuilds it, or restore it from a copy"


def _decode(data: bytearray, live: bool, where: str, run: str) -> Found:
    """The log in a file's bytes; `live`: it is marked as open for writing, its last rows may not be there yet."""
    import h5py

    if live:
        superblock.settle(data)
    size = len(data)
    file = h5py.h5f.open_file_image(bytes(data))
    try:
        tables: dict[str, Table] = {}
        lost: list[str] = []
        budget = plain_hdf5.Budget(size)
        of, datasets = _datasets(file, where)
        if run and of and of != run:
            raise FileFormatError(f"{where} is the log of another run; {MEND}")
        for name, columns, dataset in datasets:
            plain_hdf5.check_dataset(dataset, plain_hdf5.Budget(size), where, name)
            _check_chunks(dataset, size, where, name)
            rows = plain_hdf5.read_dataset(dataset, budget, where, name)
            if rows.ndim != 2 or rows.dtype != np.float64 or rows.shape[1] != len(columns):
                raise FileFormatError(f"{where} holds {name!r} of another shape or type than its columns say")
            if columns[-1] != CHECK:  # of version 1. Rows announced but not filled yet have NaN, which is no step.
                there = np.flatnonzero(~np.isnan(rows[:, columns.index("step")]))
                tables[name] = (columns, rows[: int(there[-1]) + 1 if there.size else 0])
                continue
            if live:
                filled = np.flatnonzero((rows.view(np.uint64) != _FILL).any(1))
                rows = rows[: int(filled[-1]) + 1 if filled.size else 0]
            columns = columns[:-1]
            sound = rows[:, -1] == _checked(rows[:, :-1], _seed(of, name, columns))[:, -1]
            if not sound.all():
                lost.append(f"{np.count_nonzero(~sound)} of {len(rows)} rows of {name!r}")
            tables[name] = (columns, np.ascontiguousarray(rows[sound, :-1]))
        damage = f"{where} is damaged ({', '.join(lost)} are not what was written); {MEND}" if lost else ""
        return Found(tables, damage)
    finally:
        file.close()


def _check_chunks(dataset: Any, size: int, where: str, name: str) -> None:
    """Refuses a file that ends before its data does: libhdf5 would read zeros there."""
    import h5py

    if dataset.get_create_plist().get_layout() != h5py.h5d.CHUNKED:
        return
    ends = [0]
    dataset.chunk_iter(lambda chunk: ends.append(chunk.byte_offset + chunk.size))
    if max(ends) > size:
        raise FileFormatError(f"{where} is damaged (cut at {size} bytes within {name!r}); {MEND}")


def _datasets(file: Any, where: str) -> tuple[str, list[tuple[str, tuple[str, ...], Any]]]:
    """The run of an open log, and name, columns and low-level id of each table."""
    import h5py

    root = h5py.h5g.open(file, b"/")
    plain_hdf5.check_format(root, where, FORMAT, VERSION)
    version = plain_hdf5.integer_attribute(root, b"version", where)
    run = plain_hdf5.text_attribute(root, b"run", where) if version > 1 else ""
    found = []
    for name, dataset in plain_hdf5.walk(root, plain_hdf5.Budget(0), where):
        columns = plain_hdf5.text_list_attribute(dataset, b"columns", where)
        if "step" not in columns:
            raise FileFormatError(f"{where} holds {name!r} without a column 'step'")
        if version > 1 and columns[-1] != CHECK:
            raise FileFormatError(f"{where} holds {name!r} whose last column is not '{CHECK}'; {MEND}")
        found.append((name, columns, dataset))
    return run, found


def _seed(run: str, name: str, columns: Sequence[str]) -> int:
    """Where the checksums of a table begin."""
    return crc32(json.dumps([run, name, *columns]).encode())


def _checked(rows: Rows, seed: int, first: int = 0) -> Rows:
    """The rows (n, k + 1) with their checksums; `first` is the place of the first of them in the table."""
    count, width = rows.shape
    result = np.empty((count, width + 1), "<f8")
    result[:, :-1] = rows
    data, size = np.ascontiguousarray(result[:, :-1]).tobytes(), 8 * width
    result[:, -1] = [crc32(data[i * size : (i + 1) * size], (seed + first + i) & 0xFFFFFFFF) for i in range(count)]
    return result


def _keep(path: Path) -> Path | None:
    """A damaged file stays beside what takes its place; None where there is no file."""
    if not path.exists():
        return None
    with atomic.storage_errors("keep", path):
        for number in range(1, 1000):
            beside = path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")
            try:
                os.link(path, beside)
            except FileExistsError:
                continue
            except OSError:  # no links there
                if beside.exists():
                    continue
                path.rename(beside)
            return beside
    raise StorageError(f"{shown(path)} is damaged, as many were before; remove the damaged files kept beside it")


def _image(tables: Mapping[str, Table], run: str) -> bytes:
    """A cleanly closed log with these tables, as bytes."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="latest") as file:
        file.attrs["format"] = np.bytes_(FORMAT)
        file.attrs["version"] = np.int64(VERSION)
        file.attrs["run"] = np.bytes_(run) if run else np.array(b"", "S1")
        for name, (columns, rows) in tables.items():
            if not _NAME.fullmatch(name) or "step" not in columns or len({*columns, CHECK}) != len(columns) + 1:
                raise ValueError(f"table {name!r}: needs a plain name and distinct columns with 'step', not {columns}")
            width = len(columns) + 1
            chunk = (max(1, _CHUNK_BYTES // (8 * width)), width)
            dataset = file.create_dataset(
                name,
                data=_checked(rows, _seed(run, name, columns)),
                dtype="<f8",
                maxshape=(None, width),
                chunks=chunk,
                fillvalue=np.nan,
                track_times=False,
            )
            dataset.attrs["columns"] = np.array([column.encode() for column in (*columns, CHECK)])
    return buffer.getvalue()


def _cut(table: Table | None, step: int) -> Table:
    assert table is not None
    columns, rows = table
    return columns, rows[rows[:, columns.index("step")] <= step]


def _bytes_of(path: Path) -> bytearray:
    try:
        return bytearray(path.read_bytes())
    except FileNotFoundError:  # meanwhile
        raise UsageError(f"there is no metrics log {shown(path)}; check the path") from None
    except OSError as error:
        raise atomic.storage_error("read", path, error.errno, str(error)) from error


def _check_file(path: Path) -> None:
    """Refuses what libhdf5 need not be asked about; logs are published whole, even a live one has its first bytes."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FileFormatError(f"{shown(path)} is not a regular file")
        if status.st_size > plain_hdf5.MAX_FILE_BYTES:
            raise FileFormatError(f"{shown(path)} has {status.st_size} bytes, too many for a metrics log")
        with path.open("rb") as file:
            if file.read(8) != plain_hdf5.MAGIC:
                raise FileFormatError(f"{shown(path)} is not an HDF5 file; restore it from a copy")
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"there is no metrics log {shown(path)}; check the path") from None
    except OSError as error:
        raise atomic.storage_error("read", path, error.errno, str(error)) from error
