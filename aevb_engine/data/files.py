"""Find a file of a data set, or download it: verified by the hash of its content, stored all or not at all.

Folders are searched in order: the one asked for (``--data-dir``), ``AEVB_DATA_DIR``, the user's cache. A
download goes to the first of them that is set. Files found in the user's own folders are never changed; a
damaged one in the cache is replaced.
"""

from __future__ import annotations

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

_SLACK = 65536  # bytes that a container may add to its content


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set: where it may lie, where it comes from, and what it must contain.

    ``names`` are the accepted file names, a download is stored under the first; ``folder`` is the data set's
    subfolder. ``decode`` turns the bytes of the file into its content (ValueError: it is not such a file), of
    ``size`` bytes with SHA-256 ``sha256``.
    """

    folder: str
    names: tuple[str, ...]
    urls: tuple[str, ...]
    sha256: str
    size: int
    decode: Callable[[bytes], bytes]

    @property
    def most(self) -> int:
        """The most bytes that the file itself may have."""
        return self.size + _SLACK


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
    folders = search_folders(request.data_dir)
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
        raise DataError(f"{file.folder}: {file.names[0]} is missing and --offline forbids the download; {place}")
    return Content(_download(file, target, place, request.progress, opener), target)


def search_folders(data_dir: Path | None) -> list[Folder]:
    """Where data files are searched, first to last; never empty."""
    folders = []
    if data_dir is not None:
        folders.append(Folder(Path(data_dir).expanduser()))
    if os.environ.get("AEVB_DATA_DIR"):
        folders.append(Folder(Path(os.environ["AEVB_DATA_DIR"]).expanduser()))
    for folder in folders:
        if folder.path.exists() and not folder.path.is_dir():
            raise DataError(f"data folder {folder.path} is not a folder; give one with --data-dir")
    try:
        folders.append(Folder(cache_folder(), own=True))
    except RuntimeError:
        if not folders:
            raise DataError("no home folder for a cache of data files; give a folder with --data-dir") from None
    return folders


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
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}; free space or give another --data-dir"
        ) from error


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
        for place in (folder.path / file.folder, folder.path):
            for name in file.names:
                path = place / name
                if path.is_file():
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
