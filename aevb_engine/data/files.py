"""Find a file of a data set, or download it: verified by the hash of its content, stored all or not at all.

Folders are searched in order: the one asked for (``--data-dir``), ``AEVB_DATA_DIR``, the user's cache. A
download goes to the first of them that is set; of the first two, one that does not exist is an error. Files found in
the user's own folders are never changed; a damaged one in the cache is replaced.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aevb_engine.data.dataset import DataRequest, Progress
from aevb_engine.errors import DataError, StorageError

if TYPE_CHECKING:
    from aevb_engine.data.download import Opener

VARIABLE = "AEVB_DATA_DIR"
_SLACK = 65536  # bytes that a container may add to its content


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set: where it may lie, where it comes from, and what it must contain.

    ``names`` are the accepted file names, a download is stored under the first; ``folder`` is the data set's
    subfolder, ``others`` are those where other programs keep the file. ``decode`` turns the bytes of the file into its
    content (ValueError: it is not such a file), of ``size`` bytes with SHA-256 ``sha256``.
    """

    folder: str
    names: tuple[str, ...]
    urls: tuple[str, ...]
    sha256: str
    size: int
    decode: Callable[[bytes], bytes]
    others: tuple[str, ...] = ()

    @property
    def most(self) -> int:
        """The most bytes that the file itself may have."""
        return self.size + _SLACK

    def places(self, base: Path) -> list[Path]:
        """Where it may lie in a folder of data files: each name in the subfolder, in ``base`` itself, in the others."""
        return [base / sub / name for sub in (self.folder, "", *self.others) for name in self.names]

    def found(self, base: Path) -> Iterator[Path]:
        """Those of the places where a file is; DataError where the folder cannot be looked into."""
        for path in self.places(base):
            try:
                if path.is_file():
                    yield path
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:  # no file has such a name
                    raise DataError(f"{base} cannot be looked into ({error.strerror or error}); allow it") from error


@dataclass(frozen=True)
class Content:
    """Verified content and the file that holds it."""

    data: bytes
    path: Path


@dataclass(frozen=True)
class Folder:
    """A place to search; ``own`` when it is the program's cache and not a folder of the user."""

    path: Path
    own: bool = False


def content(file: RemoteFile, request: DataRequest, opener: Opener | None = None) -> Content:
    """The verified content of ``file``: found in a folder, else downloaded unless the request is offline.

    ``opener`` opens a mirror's address (default: https only).
    Raises DataError (wrong or missing file, failed download, with where to put it) or StorageError.
    """
    folders = search_folders(request.data_dir, request.asked)
    target = folders[0].path / file.folder / file.names[0]
    damaged = ""
    for folder, path in _candidates(file, folders):
        try:
            return Content(_verified(file, _read(file, path)), path)
        except ValueError as error:
            if not folder.own:
                raise DataError(f"{path}: {error}; replace or remove this file") from None
            damaged, target = f" (the file there is damaged: {error})", path
    place = f"put the file from {file.urls[0]} at {target}{damaged}"
    if request.offline:
        looked = ", ".join(str(folder.path) for folder in folders)
        raise DataError(
            f"{file.folder}: {file.names[0]} is missing in {looked}, and --offline forbids the download; {place}"
        )
    return Content(_download(file, target, place, request.progress, opener), target)


def search_folders(data_dir: Path | None, asked: str = "--data-dir") -> list[Folder]:
    """Where data files are searched, first to last; never empty. DataError where the one asked for is not there.

    ``asked`` is what gave ``data_dir``, for errors. The command line gives the variable's folder as ``data_dir``, too;
    an option that names another counts more.
    """
    folders = []
    variable = os.environ.get(VARIABLE)
    named = at_home(variable, VARIABLE) if variable else None
    given = at_home(data_dir, asked) if data_dir is not None else None
    if given is not None and (named is None or given.absolute() != named.absolute()):
        folders.append(Folder(_there(given, asked)))
        if named is not None:
            with suppress(DataError):
                folders.append(Folder(_there(named, VARIABLE)))
    elif named is not None:
        folders.append(Folder(_there(named, VARIABLE)))
    try:
        folders.append(Folder(cache_folder(), own=True))
    except RuntimeError:
        if not folders:
            raise DataError(f"no home folder for a cache of data files; give a folder with {asked}") from None
    return folders


def at_home(path: str | Path, asked: str) -> Path:
    """The path with ``~`` and ``~user`` written out; DataError where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(f"{asked}: {path} names no home folder; write the path out") from None


def _there(path: Path, asked: str) -> Path:
    """The folder that an option or a variable names; DataError where it is none."""
    try:
        if path.is_dir():
            return path
        there = path.exists()
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"{asked}: {path} cannot be looked into ({why}); give a folder with {asked}") from error
    if there:
        raise DataError(f"{asked}: {path} is not a folder; give one with {asked}")
    raise DataError(f"{asked}: there is no folder {path}; create it, or give another one with {asked}")


def cache_folder(platform: str = sys.platform, environment: Mapping[str, str] = os.environ) -> Path:
    """The user's cache folder for data files on this platform; RuntimeError when there is no home folder."""
    if platform == "win32":
        base = environment.get("LOCALAPPDATA", "")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "aevb-engine" / "Cache"
    if platform == "darwin":
        return Path.home() / "Library" / "Caches" / "aevb-engine"
    base = environment.get("XDG_CACHE_HOME", "")
    absolute = base.startswith("/")  # the XDG specification: relative paths are ignored
    return (Path(base) if absolute else Path.home() / ".cache") / "aevb-engine"


def store(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, whatever happens; StorageError if impossible.

    Any number of processes may store the same file at once. A crash leaves at most a hidden ``.part`` file.
    """
    part = path.parent / f".{path.name}.{secrets.token_hex(8)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            part.replace(path)
        except BaseException:  # also when interrupted by the user
            with suppress(OSError):
                part.unlink()
            raise
        _sync_folder(path.parent)
    except (OSError, RecursionError) as error:  # the folders above are made one within the other
        why = getattr(error, "strerror", None) or error
        raise StorageError(f"{path} cannot be written: {why}; free space or give another --data-dir") from error


def _sync_folder(path: Path) -> None:
    """Make a rename in the folder survive a power cut, where the platform can."""
    if os.name == "posix":
        with suppress(OSError):  # some network file systems refuse it; the file itself is safe
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _candidates(file: RemoteFile, folders: list[Folder]) -> Iterator[tuple[Folder, Path]]:
    for folder in folders:
        for path in file.found(folder.path):
            yield folder, path


def _read(file: RemoteFile, path: Path) -> bytes:
    try:
        with path.open("rb") as source:
            data = source.read(file.most + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; make it readable") from error
    if len(data) > file.most:
        raise ValueError(f"larger than the {file.most} bytes that it may have")
    return data


def _verified(file: RemoteFile, data: bytes) -> bytes:
    """The content in the file's bytes; ValueError when it is not the expected one."""
    found = file.decode(data)
    digest = hashlib.sha256(found).hexdigest()
    if digest != file.sha256:
        raise ValueError(f"its content has sha256 {digest[:12]}..., expected {file.sha256[:12]}...")
    return found


def _download(file: RemoteFile, target: Path, place: str, progress: Progress | None, opener: Opener | None) -> bytes:
    """Try the mirrors in order; store and return the first verified content."""
    from aevb_engine.data.download import (
        DownloadError,
        fetch,
        open_https,
    )  # 40 ms, spared when files are found

    causes = []
    for url in file.urls:
        try:
            data = fetch(url, file.most, f"downloading {file.names[0]}", progress, opener or open_https)
            found = _verified(file, data)
        except (DownloadError, ValueError) as error:
            causes.append(f"{url.split('/')[2]}: {error}")
            continue
        store(target, data)
        return found
    why = "; ".join(causes)
    raise DataError(f"{file.folder}: {file.names[0]} could not be downloaded ({why}); {place}")
