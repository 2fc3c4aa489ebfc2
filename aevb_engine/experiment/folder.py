"""A run folder: where a run keeps its record, metrics, checkpoints and figures, and who may write there.

<root>/<UTC>-<name>-<6 hex>/   run.json  metrics.h5  checkpoints/  figures/  .lock
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aevb_engine.errors import AevbError, FileFormatError, StorageError, UsageError
from aevb_engine.experiment import atomic
from aevb_engine.experiment.atomic import shown

FORMAT, VERSION = "aevb-run", 1
ROOT = Path("runs")
HEARTBEAT_SECONDS = 5.0
_MAX_RECORD_BYTES = 16 << 20
_HEAD = 1024  # bytes of a record that hold when it was made
_CREATED = re.compile(rb'"created": "(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d+)?\+00:00"')
_RUN_NAME = re.compile(r"\d{8}T\d{6}Z-.+-[0-9a-f]{6}")


@dataclass(frozen=True)
class RunInfo:
    """One line of a listing: a run's folder with its record, or the reason why that cannot be read.

    A record that was changed by hand comes with the line that says so.
    """

    path: Path
    record: dict[str, Any] | None
    error: str | None

    @property
    def status(self) -> str:
        """What the record says; "interrupted" when that is "running" and nobody holds the lock; "broken"."""
        if self.record is None:
            return "broken"
        status = str(self.record.get("status", "unknown"))
        return "interrupted" if status == "running" and not is_locked(self.path) else status


class RunFolder:
    """An existing run folder; made by `create` or `open`."""

    def __init__(self, path: Path) -> None:
        """Names a folder without looking at it; use `create` or `open`."""
        self.path = Path(path)
        self._guard = threading.Lock()
        self._beat_at = -math.inf
        self._held: dict[str, Any] | None = None  # the record, while this process holds the lock

    @staticmethod
    def check_free(path: Path) -> None:
        """UsageError when `path` exists and is not an empty folder: known before any data are loaded."""
        with atomic.storage_errors("create", path), _bad_paths(path):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.lstat(path)  # tells what no system call accepts; what `exists` says of that depends on the Python
            if path.exists() or path.is_symlink():
                if not path.is_dir():
                    raise UsageError(f"{shown(path)} exists and is not a folder; choose another output")
                if next(path.iterdir(), None) is not None:
                    raise UsageError(f"{shown(path)} exists and is not empty; choose another output or remove it")

    @classmethod
    def check_place(cls, output: Path | None, root: Path = ROOT) -> None:
        """What `create` would refuse, and a place that cannot be written: known before any data are loaded.

        UsageError or StorageError. It is tried: a folder is made there and removed again.
        """
        place = Path(root) if output is None else Path(output)
        if output is not None:
            cls.check_free(place)
        with atomic.storage_errors("create", place), _bad_paths(place):
            existing = next(folder for folder in (place, *place.parents) if folder.exists())
            trial = existing / f".aevb-{os.getpid()}-{secrets.token_hex(4)}"
            reason = "" if existing.is_dir() else f"{shown(existing)} is not a folder"
            try:
                if not reason:
                    trial.mkdir()
                    trial.rmdir()
            except FileNotFoundError:  # a file system of the kernel's
                reason = f"nothing can be made in {shown(existing)}"
            if reason:
                raise StorageError(f"cannot create {shown(place)}: {reason}; choose another place")

    @classmethod
    def create(cls, name: str, output: Path | None = None, root: Path = ROOT) -> RunFolder:
        """A new folder with a first run.json: `output` itself when given, else a fresh name below `root`.

        UsageError when `output` exists and is not an empty folder, StorageError when it cannot be written;
        then nothing is left.
        """
        now = datetime.now(UTC)
        if output is None:
            path = Path(root) / f"{now:%Y%m%dT%H%M%SZ}-{_slug(name)}-{secrets.token_hex(3)}"
        else:
            path = Path(output)
        cls.check_free(path)
        with atomic.storage_errors("create", path), _bad_paths(path):
            missing = atomic.make_folder(path)
        folder = cls(path)
        try:
            folder.checkpoints.mkdir()  # which one process of several can
        except FileExistsError:
            raise UsageError(f"{shown(path)} has just been taken by another run; choose another folder") from None
        except OSError as error:
            atomic.remove_empty(missing)
            raise atomic.storage_error("create", path, error.errno, str(error)) from error
        try:
            first = {"name": name, "id": secrets.token_hex(8), "created": now.isoformat(), "status": "created"}
            folder.write_record(first)
            with atomic.storage_errors("create", path):
                folder.figures.mkdir()
                for made in (path, *(m.parent for m in missing)):  # a crash of the machine keeps names that are synced
                    atomic.sync_folder(made)
        except BaseException:
            with contextlib.suppress(OSError):
                folder.record_path.unlink()
            atomic.remove_empty([folder.figures, folder.checkpoints, *missing])
            raise
        return folder

    @classmethod
    def open(cls, path: str | Path, root: Path = ROOT, *, changed: bool = False) -> RunFolder:
        """The run at a path, or with that name below `root`, or the newest one for "latest".

        UsageError when there is none (near names are suggested), FileFormatError when it is not a sound run
        folder; with `changed` a record changed by hand will do, as in `read_record`.
        """
        wanted = str(path)
        with atomic.storage_errors("open", wanted), _bad_paths(wanted):
            if wanted == "latest" and not Path(wanted).exists():
                latest = cls._latest(root)
                latest.read_record(changed=changed)
                return latest
            found = next((place for place in (Path(wanted), Path(root) / wanted) if place.exists()), None)
        if found is None:
            raise UsageError(f"there is no run {shown(wanted)}; {_near(wanted, root)}")
        if not found.is_dir():
            raise FileFormatError(f"{shown(found)} is not a run folder but a file; name the folder of a run")
        folder = cls(found)
        if not folder.record_path.exists():
            inside = sorted(record.parent for record in found.glob("*/run.json"))
            if inside:
                such = f"such as {shown(inside[0])}"
                raise FileFormatError(f"{shown(found)} is no run but holds {len(inside)}, {such}; name one of them")
            raise FileFormatError(f"{shown(found)} is not a run folder (it has no run.json); name the folder of a run")
        folder.read_record(changed=changed)
        return folder

    @classmethod
    def _latest(cls, root: Path) -> RunFolder:
        for paths in reversed(_by_second(Path(root)).values()):
            sound = [run for run in map(_info, paths) if run.record is not None]
            if sound:
                return cls(max(sound, key=_age).path)
        raise UsageError(f"there is no run in {shown(root)}; start one with `aevb-engine run`")

    @property
    def record_path(self) -> Path:
        """run.json"""
        return self.path / "run.json"

    @property
    def metrics_path(self) -> Path:
        """metrics.h5"""
        return self.path / "metrics.h5"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        """The folder of the figures."""
        return self.path / "figures"

    def read_record(self, *, changed: bool = False) -> dict[str, Any]:
        """run.json; FileFormatError when it is damaged, of another format, or not as a run has written it.

        With `changed` the latter will do, for what only shows it; `altered` tells. Older versions kept no digest: their
        records are taken as they are.
        """
        path = self.record_path
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_RECORD_BYTES:
                raise FileFormatError(f"{shown(path)} is not a plain file of acceptable size; restore it from a copy")
            record = json.loads(path.read_bytes().decode("utf-8"))
        except FileNotFoundError:
            raise FileFormatError(f"{shown(self.path)} is not a run folder (it has no run.json)") from None
        except OSError as error:
            raise atomic.storage_error("read", path, error.errno, str(error)) from error
        except (ValueError, RecursionError) as error:
            raise FileFormatError(f"{shown(path)} is damaged (not JSON); restore it from a copy") from error
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise FileFormatError(f"{shown(path)} is not the record of a run; name the folder of a run")
        version = record.get("version")
        if type(version) is not int or not 1 <= version <= VERSION:
            raise FileFormatError(f"{shown(path)} has version {str(version)[:40]}, known: 1 to {VERSION}; upgrade")
        for name in ("config", "data", "environment", "result"):
            if not isinstance(record.get(name), dict | None):
                raise FileFormatError(f"{shown(path)} is damaged ('{name}' is no table); restore it from a copy")
        line = self.altered(record)
        if line and not changed:
            raise FileFormatError(line)
        return record

    def altered(self, record: Mapping[str, Any]) -> str:
        """The line that says that a record is not the one that a run has written; "" where it is."""
        if "id" not in record and "digest" not in record:  # of an older version
            return ""
        with contextlib.suppress(RecursionError):
            if record.get("digest") == _digest(record):
                return ""
        return (
            f"{shown(self.record_path)} was changed after the run wrote it (its digest differs); restore it from a "
            "copy, or remove its lines 'id' and 'digest' if you mean it so"
        )

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Replaces run.json atomically, format, version and digest added; NaN and infinity become null."""
        whole = {
            "format": FORMAT,
            "version": VERSION,
            **{key: value for key, value in record.items() if key not in ("format", "version", "digest")},
        }
        plain = json.loads(_text(_finite(whole)))  # as it will be read
        plain["digest"] = _digest(plain)
        atomic.write_bytes(self.record_path, _text(plain) + b"\n")
        if self._held is not None:
            self._held = plain

    def update(self, **fields: Any) -> None:
        """Changes some fields of run.json; whoever holds the lock knows the others, whatever is in the file now."""
        with self._guard:
            self.write_record({**(self._held or self.read_record()), **fields})

    def heartbeat(self, **fields: Any) -> bool:
        """Writes the time (and `fields`) into run.json, at most every 5 seconds; True when it did."""
        if time.monotonic() - self._beat_at < HEARTBEAT_SECONDS:
            return False
        self._beat_at = time.monotonic()
        self.update(heartbeat=datetime.now(UTC).isoformat(timespec="seconds"), **fields)
        return True

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the run for this process: whoever trains or resumes here. StorageError when another does."""
        path = self.path / ".lock"
        with atomic.storage_errors("lock", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            if not _flock(descriptor):
                holder = os.pread(descriptor, 100, 0).decode("ascii", "replace").strip() if hasattr(os, "pread") else ""
                by = f"process {holder}" if holder else "another process"
                raise StorageError(f"{shown(self.path)} is in use by {by}; wait for it or stop it")
            with atomic.storage_errors("lock", path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode("ascii", "replace"))
            for place in (self.path, self.checkpoints, self.figures):
                atomic.sweep(place, older_than=3600.0)  # a living process may draw or report beside the run
            self._held = {}
            try:
                yield
            finally:
                self._held = None
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)  # releases the lock; the file stays, removing it would race with the next holder


def _digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of what a record says, whatever the order and the white space; but for the digest itself."""
    plain = {key: value for key, value in record.items() if key != "digest"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _text(record: Any) -> bytes:
    return json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False).encode("utf-8", "replace")


def is_locked(path: Path) -> bool:
    """Whether a process holds the run folder now; False where that cannot be known."""
    try:
        descriptor = os.open(Path(path) / ".lock", os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return False
    try:
        return not _flock(descriptor)
    finally:
        os.close(descriptor)


def list_runs(root: Path = ROOT) -> list[RunInfo]:
    """Every run below `root`, oldest first; a broken one is listed with its error. An absent root has none."""
    found = _by_second(Path(root))
    return sorted((_info(path) for paths in found.values() for path in paths), key=_age)


def _by_second(base: Path) -> dict[str, list[Path]]:
    """The runs of a folder by the second of their creation, in order: by their names, or the heads of their records."""
    try:
        with os.scandir(base) as listing:
            entries = sorted(entry.name for entry in listing)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise atomic.storage_error("list", base, error.errno, str(error)) from error
    found: dict[str, list[Path]] = {}
    for name in entries:
        path = base / name
        second = name[:15] if _RUN_NAME.fullmatch(name) and os.path.isdir(path) else _second(path)  # noqa: PTH112
        if second is not None:
            found.setdefault(second, []).append(path)
    return dict(sorted(found.items()))


def _second(path: Path) -> str | None:
    """When the run of that folder was made, without reading all of its record; None where there is none."""
    record = path / "run.json"
    if not os.path.exists(record):  # noqa: PTH110 # which never raises
        return None
    if record.is_file():
        with contextlib.suppress(OSError), record.open("rb") as file:
            if made := _CREATED.search(file.read(_HEAD)):
                return "{}{}{}T{}{}{}".format(*(part.decode() for part in made.groups()))
    return _age(_info(path))[0][:15]


def _info(path: Path) -> RunInfo:
    """A run with its record, or with the reason why that cannot be read."""
    folder = RunFolder(path)
    try:
        record = folder.read_record(changed=True)
        return RunInfo(path, record, folder.altered(record) or None)
    except AevbError as error:
        return RunInfo(path, None, str(error))
    except OSError as error:
        return RunInfo(path, None, f"cannot read {shown(path)}: {error.strerror}")


def _age(run: RunInfo) -> tuple[str, str]:
    """By the moment of creation: records know microseconds, the name of a broken run only seconds."""
    created = (run.record or {}).get("created")
    try:
        moment = f"{datetime.fromisoformat(str(created)).astimezone(UTC):%Y%m%dT%H%M%S.%f}"
    except (TypeError, ValueError, OverflowError, OSError):
        moment = run.path.name[:15]
    return moment, run.path.name


def _flock(descriptor: int) -> bool:
    """Takes the lock of an open file; False when it is held. Without lock support always True."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)
    return True


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-") or "run"


def _near(wanted: str, root: Path) -> str:
    names = [path.name for paths in _by_second(Path(root)).values() for path in paths]
    if not names:
        return f"{shown(root)} holds none"
    near = difflib.get_close_matches(Path(wanted).name, names, n=3, cutoff=0.5) or names[-3:][::-1]
    return f"did you mean {' or '.join(map(repr, map(shown, near)))}, or 'latest'?"


def _finite(value: Any) -> Any:
    """The value as JSON can hold it: NumPy numbers as Python's, paths as text, non-finite as None."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextlib.contextmanager
def _bad_paths(path: str | os.PathLike[str]) -> Iterator[None]:
    """A path that no system call accepts (a null byte, too long a name) is a usage error."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        raise UsageError(f"{shown(path)[:200]} is not a path ({error.strerror}); choose another one") from error
    except ValueError as error:
        raise UsageError(f"{shown(path)[:200]} is not a path ({error}); choose another one") from error
