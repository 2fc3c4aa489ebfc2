"""Checkpoints: one HDF5 file each, whole or absent, verified by two hashes before anything in it is believed.

The file holds the attributes `format` ("aevb-checkpoint"), `version`, `step` and `content` (SHA-256 of step,
meta and arrays), the data set `meta` (JSON text as bytes) and the group `arrays`. Beside it `NAME.sha256`
holds the hash of the file as sha256sum writes it; it is checked before libhdf5 sees the file. The image is
built in memory, so libhdf5 never writes to the disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import numpy as np

from aevb_engine.errors import AevbError, FileFormatError, UsageError
from aevb_engine.experiment import atomic, inspect, plain_hdf5
from aevb_engine.experiment.atomic import shown
from aevb_engine.training.state import check_state

FORMAT, VERSION = "aevb-checkpoint", 1
MAX_META_BYTES = 16 << 20
_ITEM_NAME = re.compile(r"[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*")
_FILE_NAME = re.compile(r"ckpt-(\d{10,18})\.h5")

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """The state after `step` steps: plain numeric arrays by name ("optimizer/m" nests) and JSON facts."""

    step: int
    arrays: Mapping[str, Array]
    meta: Mapping[str, object]

    @property
    def best(self) -> tuple[int, float | None] | None:
        """Step and score of the best checkpoint among this one and those before; None where none was named."""
        record = self.meta.get("best")
        return (record["step"], record.get("score")) if _names_a_step(record) else None


def _names_a_step(record: object) -> TypeGuard[dict[str, Any]]:
    return (
        isinstance(record, dict)
        and type(record.get("step")) is int
        and record["step"] >= 0
        and (record.get("score") is None or isinstance(record["score"], (int, float)))
    )


def encode(checkpoint: Checkpoint) -> bytes:
    """The file as bytes: the same checkpoint always gives the same bytes.

    ValueError for what a checkpoint cannot hold: types other than integers and floats, NaN in meta, odd
    names.
    """
    import h5py

    arrays = {name: _plain(name, array) for name, array in sorted(checkpoint.arrays.items())}
    step, meta = int(checkpoint.step), _meta_bytes(checkpoint.meta)
    if not 0 <= step < 10**18:
        raise ValueError(f"step {step} is outside 0 .. 10^18")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=False) as file:
        file.attrs["format"] = np.bytes_(FORMAT)
        file.attrs["version"] = np.int64(VERSION)
        file.attrs["step"] = np.int64(step)
        file.attrs["content"] = np.bytes_(_content(step, meta, arrays))
        file.create_dataset("meta", data=np.frombuffer(meta, np.uint8), track_times=False)
        group = file.create_group("arrays")
        for name, array in arrays.items():
            group.create_dataset(name, data=array, track_times=False)
    return buffer.getvalue()


def decode(data: bytes, where: str) -> Checkpoint:
    """The checkpoint in a file's bytes; `where` names it in errors. FileFormatError unless all rules hold."""
    import h5py

    with plain_hdf5.as_format_error(shown(where)):
        where = shown(where)
        if not data.startswith(plain_hdf5.MAGIC):
            raise FileFormatError(f"{where} is not an HDF5 file")
        file = h5py.h5f.open_file_image(data)
        try:
            root = h5py.h5g.open(file, b"/")
            plain_hdf5.check_format(root, where, FORMAT, VERSION)
            budget = plain_hdf5.Budget(len(data))
            step = plain_hdf5.integer_attribute(root, b"step", where)
            content = plain_hdf5.text_attribute(root, b"content", where)
            text = plain_hdf5.open_item(root, b"meta", where)
            shape, kind = plain_hdf5.check_dataset(text, plain_hdf5.Budget(len(data)), where, "meta")
            if len(shape) != 1 or kind != np.uint8 or shape[0] > MAX_META_BYTES:
                raise FileFormatError(f"{where} holds a 'meta' that is not JSON text below {MAX_META_BYTES} bytes")
            meta = plain_hdf5.read_dataset(text, budget, where, "meta").tobytes()
            group = plain_hdf5.open_item(root, b"arrays", where)
            if not isinstance(group, h5py.h5g.GroupID):
                raise FileFormatError(f"{where} holds 'arrays', which is not a group")
            arrays = {
                name: plain_hdf5.read_dataset(item, budget, where, name)
                for name, item in plain_hdf5.walk(group, budget, where)
            }
        finally:
            file.close()
        if step < 0 or _content(step, meta, arrays) != content:
            raise FileFormatError(f"{where} is damaged (content and its own hash differ); restore a copy")
        return Checkpoint(step, arrays, _parse_meta(meta, where))


def write(path: str | Path, checkpoint: Checkpoint, *, hash_file: bool = True) -> str:
    """Writes one checkpoint atomically, its hash file first; returns the SHA-256 of the file. StorageError.

    A crash at any point leaves the old or the new file readable: meanwhile the hash file lists both hashes.
    """
    target = Path(path)
    data = encode(checkpoint)
    digest = hashlib.sha256(data).hexdigest()
    if hash_file:
        replaced = _sound_hash(target) - {digest}
        atomic.write_text(hash_path(target), _hash_lines(target, [digest, *replaced]))
    atomic.write_bytes(target, data)
    if hash_file and replaced:
        atomic.write_text(hash_path(target), _hash_lines(target, [digest]))
    return digest


def read(path: str | Path, *, require_hash: bool = True) -> Checkpoint:
    """The verified checkpoint of a file: its hash file first, then format, limits, content hash.

    With require_hash=False the file may come from anywhere: a hash file is optional (but must match when
    there is one), and a child process with limits reads it first. UsageError when it is missing,
    FileFormatError when it cannot be trusted.
    """
    source = Path(path)
    data = _file_bytes(source)
    known = _hashes(source)
    if known or require_hash:
        if not known:
            raise FileFormatError(
                f"{shown(source)} has no readable hash file {hash_path(source).name} beside it; restore it"
            )
        if hashlib.sha256(data).hexdigest() not in known:
            raise FileFormatError(f"{shown(source)} does not match its hash file; it is damaged or was swapped")
    if not require_hash:
        inspect.check_image(data, str(source))
    return decode(data, str(source))


def hash_path(path: Path) -> Path:
    """Where the hash of `path` is kept."""
    return path.with_name(path.name + ".sha256")


class CheckpointStore:
    """The folder checkpoints/ of a run: `ckpt-0000001200.h5` with hash files, and best.json.

    Holds the last `keep` checkpoints and the best. Which one is the best stands in every checkpoint, so that there is
    one commit point for both: the newest sound one tells. best.json says the same to people and programs; it is
    written after the checkpoint, and anew at the next one where it is missing, damaged or behind.

    One process writes (the run's lock); any number may read. `warnings` collects one line for each file that was
    skipped or could not be removed.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self.folder = Path(folder)
        self.run = _run_beside(self.folder)  # those of another run are not believed
        self.keep = keep
        self.warnings: list[str] = []
        self._best: tuple[int, float | None] | None = None  # as the last checkpoint saved here says
        self._saved = False

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is kept."""
        return self.folder / f"ckpt-{step:010d}.h5"

    def steps(self) -> list[int]:
        """The steps that have a file, ascending, damaged ones included."""
        names = [entry.name for entry in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(match[1]) for match in map(_FILE_NAME.fullmatch, names) if match)

    def save(self, checkpoint: Checkpoint, *, best: bool = False, score: float | None = None) -> Path:
        """Commits a checkpoint (StorageError when it cannot), then makes it the best if told, then prunes.

        Whatever fails, and wherever the process is killed, the checkpoints committed before stay readable.
        """
        if score is not None and not math.isfinite(score):
            raise ValueError(f"the score of a checkpoint must be finite, not {score}")
        with atomic.storage_errors("create", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        atomic.sweep(self.folder)  # the lock says that no other writer is at work
        step = int(checkpoint.step)
        named = (step, score) if best else self._best_before(step)
        if named is not None:
            checkpoint = replace(checkpoint, meta={**checkpoint.meta, "best": {"step": named[0], "score": named[1]}})
        target = self.path(step)
        self._saved = False
        write(target, checkpoint)
        self._best, self._saved = named, True
        if named is not None and named != self._best_recorded(warn=False):
            record = {
                "format": "aevb-best",
                "version": 1,
                "file": self.path(named[0]).name,
                "step": named[0],
                "score": named[1],
            }
            atomic.write_text(self._best_path, json.dumps(record) + "\n")
        self._prune(step)
        return target

    def newest(self) -> Checkpoint | None:
        """The newest sound checkpoint; damaged ones are skipped with a line in `warnings`."""
        for _ in range(3):  # a writer may remove old files while a reader looks
            vanished = False
            for step in reversed(self.steps()):
                found = self.load(step)
                if found is not None:
                    return found
                vanished |= not self.path(step).exists()
            if not vanished:
                break
        return None

    def best(self) -> Checkpoint | None:
        """The best checkpoint, or None when none was named or it is damaged (then `warnings` says so)."""
        for _ in range(3):  # a writer may name another one while a reader looks
            named = self.best_score()
            if named is None:
                return None
            path = self.path(named[0])
            found = self.load(named[0])
            if found is not None or path.exists():
                return found
        self._warn(f"{shown(path)}, the best checkpoint, is missing")
        return None

    def best_score(self) -> tuple[int, float | None] | None:
        """Step and score of the best checkpoint, as the newest one says."""
        newest = self.newest()
        if newest is not None and newest.best is not None:
            return newest.best
        return self._best_recorded()  # of a run by a version whose checkpoints do not tell

    def _best_before(self, step: int) -> tuple[int, float | None] | None:
        """The best up to a step: of another beginning, whose files are all damaged, there may be later ones."""
        named = self._best if self._saved else self.best_score()
        return None if named is None or named[0] > step else named

    @property
    def _best_path(self) -> Path:
        return self.folder / "best.json"

    def _warn(self, line: str) -> None:
        if line not in self.warnings:
            self.warnings.append(line)

    def load(self, step: int) -> Checkpoint | None:
        """The checkpoint of a step; None where there is none or it is damaged (then `warnings` says so)."""
        path = self.path(step)
        try:
            found = read(path)
            if found.step != step:
                raise FileFormatError(f"{shown(path)} holds step {found.step}; swapped with another file")
            check_state(found.arrays, shown(path))
            if self.run and (found.meta.get("run") or self.run) != self.run:
                raise FileFormatError(f"{shown(path)} is a checkpoint of another run; restore it from a copy")
        except UsageError:  # removed meanwhile
            return None
        except AevbError as error:
            self._warn(str(error))
            return None
        return found

    def _best_recorded(self, *, warn: bool = True) -> tuple[int, float | None] | None:
        """What best.json says: None when there is none; a damaged one is reported."""
        try:
            record = json.loads(self._best_path.read_bytes())
            if not _names_a_step(record) or record.get("file") != self.path(record["step"]).name:
                raise ValueError("unexpected content")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            if warn:
                self._warn(f"{shown(self._best_path)} is damaged; the best step is unknown until a better one is saved")
            return None
        return record["step"], record.get("score")

    def _prune(self, step: int) -> None:
        """Removes what is neither the best nor among the last `keep` up to `step`; later files stay."""
        if self._best is None and self._best_path.exists():
            return  # which one is the best is not known: remove none
        # Later files stem from before a resume; being counted they would push out what is being written now.
        steps = [known for known in self.steps() if known <= step]
        for old in steps[: -self.keep]:
            if (self._best is None or old != self._best[0]) and self._remove(self.path(old)):
                self._remove(hash_path(self.path(old)))
        for orphan in self.folder.glob("ckpt-*.h5.sha256"):
            if not orphan.with_suffix("").exists():
                self._remove(orphan)

    def _remove(self, path: Path) -> bool:
        """Whether it is gone; a failure that passes is tried again, as nothing is pruned after the last checkpoint."""
        for attempt in range(2):
            try:
                path.unlink(missing_ok=True)
                return True
            except OSError as error:
                if attempt:
                    self._warn(f"cannot remove {shown(path)}: {error.strerror}")
        return False


def _run_beside(folder: Path) -> str:
    """The number of the run whose folder this one lies in; "" where it has none."""
    try:
        record = json.loads((folder.parent / "run.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    return str(record.get("id", "")) if isinstance(record, dict) else ""


def _plain(name: str, array: Array) -> Array:
    """The array in C order and little-endian, if a checkpoint can hold it."""
    if not _ITEM_NAME.fullmatch(name) or any(part in (".", "..") for part in name.split("/")):
        raise ValueError(f"{name!r} cannot name an array of a checkpoint; use letters, digits, _ . + - and /")
    values = np.asarray(array)
    little = values.dtype.newbyteorder("<")
    if little.str.replace("|", "<") not in plain_hdf5.PLAIN:
        raise ValueError(
            f"{name!r} is of type {values.dtype}; a checkpoint holds integers and floats of at most 64 bits"
        )
    return np.asarray(values, little, order="C")


def _content(step: int, meta: bytes, arrays: Mapping[str, Array]) -> str:
    """SHA-256 over step, meta and arrays with names, types, shapes; each part follows its length."""
    digest = hashlib.sha256()

    def add(part: bytes | memoryview) -> None:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    add(f"{FORMAT} {VERSION} {step}".encode())
    add(meta)
    for name in sorted(arrays):
        array = np.asarray(arrays[name], arrays[name].dtype.newbyteorder("<"), order="C")
        add(name.encode())
        add(f"{array.dtype.str} {array.shape}".encode())
        add(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return digest.hexdigest()


def _meta_bytes(meta: Mapping[str, object]) -> bytes:
    def number(value: object) -> object:
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"{type(value).__name__} {value!r}")

    try:
        text = json.dumps(dict(meta), allow_nan=False, default=number).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"meta of a checkpoint must be JSON with finite numbers ({error})") from error
    if len(text) > MAX_META_BYTES:
        raise ValueError(f"meta of a checkpoint has {len(text)} bytes, at most {MAX_META_BYTES} are kept; use arrays")
    return text


def _parse_meta(text: bytes, where: str) -> dict[str, object]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"the constant {constant}")

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a repeated key")
        return found

    try:
        meta = json.loads(text.decode("utf-8"), parse_constant=refuse, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{where} holds a 'meta' that is not strict JSON ({str(error)[:100]})") from error
    if not isinstance(meta, dict):
        raise FileFormatError(f"{where} holds a 'meta' that is not a JSON object")
    return meta


def _file_bytes(path: Path) -> bytes:
    """The whole file, if it is a regular one of acceptable size."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FileFormatError(f"{shown(path)} is not a regular file")
        if status.st_size > plain_hdf5.MAX_FILE_BYTES:
            raise FileFormatError(
                f"{shown(path)} has {status.st_size} bytes, at most {plain_hdf5.MAX_FILE_BYTES} are read"
            )
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"there is no file {shown(path)}; check the path") from None
    except (OSError, ValueError) as error:
        raise atomic.storage_error("read", path, getattr(error, "errno", None), str(error)) from error


def _sound_hash(path: Path) -> set[str]:
    """The hash of a file that matches its hash file; none for any other."""
    known = _hashes(path)
    try:
        return known & {hashlib.sha256(path.read_bytes()).hexdigest()} if known else set()
    except OSError:
        return set()


def _hash_lines(path: Path, digests: list[str]) -> str:
    return "".join(f"{digest}  {path.name}\n" for digest in digests)


def _hashes(path: Path) -> set[str]:
    """The hashes that the hash file lists; none when it is missing or unreadable."""
    try:
        with hash_path(path).open("rb") as file:
            text = file.read(4096)
    except OSError:
        return set()
    return set(re.findall(r"^([0-9a-f]{64})  ", text.decode("ascii", "replace"), re.MULTILINE))
