"""Files that are old or new, never half of each: temporary file, fsync, replace, fsync of the folder.

Every failure of the operating system becomes a StorageError of one line: what, which path, why, the mend.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shlex
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from aevb_engine.errors import StorageError, printable, shortened

_PREFIX, _SUFFIX = ".aevb-", ".tmp"
_UNSUPPORTED = {
    errno.EINVAL,
    errno.EBADF,
    errno.ENOSYS,
    getattr(errno, "ENOTSUP", errno.EINVAL),
    errno.EOPNOTSUPP,
}
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def shown(path: str | os.PathLike[str]) -> str:
    """The path as a printable part of a line, without its middle where it is very long."""
    return shortened(printable(os.fspath(path)))


def quoted(path: str | os.PathLike[str]) -> str:
    """The whole path as an argument of a command that can be typed; what is not printable as bash and zsh read it."""
    line = os.fspath(path)
    line = f"./{line}" if line.startswith("-") else line
    if line.isprintable():
        return shlex.quote(line)
    return f"$'{''.join(map(_escaped, line))}'"


def _escaped(c: str) -> str:
    if c in "\\'":
        return f"\\{c}"
    return c if c.isprintable() else "".join(f"\\x{byte:02x}" for byte in c.encode("utf-8", "surrogateescape"))


def storage_error(action: str, path: str | os.PathLike[str], code: int | None, detail: str = "") -> StorageError:
    """One line for a failed write: what was tried, the path, the system's reason, the mend that fits it."""
    reason = os.strerror(code) if code else (detail or "unknown error")
    if code in _FULL:
        mend = "free some space there or choose another place"
    elif code in _FORBIDDEN:
        mend = "make the place writable or choose another one"
    elif code == errno.ENOENT:
        mend = "create the folder first"
    else:
        mend = "check the path and the disk"
    return StorageError(f"cannot {action} {shown(path)}: {reason}; {mend}")


@contextlib.contextmanager
def storage_errors(action: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an OSError of the block into the StorageError that names `action` and `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(action, path, error.errno, str(error)) from error


def write_bytes(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Makes `data` the content of `path`: after a crash at any point the file is whole, old or new.

    Raises StorageError, and then leaves no temporary file; the old content stays unless only the last fsync
    failed. A link stays one: what it leads to is written. Only plain files are replaced.
    """
    target = Path(path)
    with storage_errors("write", target):
        if target.is_symlink():
            target = target.resolve()
        if target.exists() and not (target.is_file() or target.is_dir()):  # a folder is refused by its replacement
            raise StorageError(f"cannot write {shown(path)}: it is a device or a pipe; name a file")
        temporary = target.parent / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o666)
        try:
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(target.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """`write_bytes` of the text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def make_folder(path: Path) -> list[Path]:
    """Makes a folder and those above it, however many; returns the new ones, deepest first.

    OSError where one cannot be made; then none is left.
    """
    missing = []
    for folder in (path, *path.parents):
        if folder.exists():
            break
        missing.append(folder)
    try:
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
        path.mkdir(exist_ok=True)  # FileExistsError where it is a file
    except OSError:
        remove_empty(missing)
        raise
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those that are empty; never fails."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable; does nothing where folders cannot be opened or synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows, or a folder that may be written but not listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def sweep(folder: Path, older_than: float = 0.0) -> None:
    """Removes temporary files of killed writers; never fails.

    Those whose process is still there (or whose number another process has by now) only where they are at least
    `older_than` seconds old.
    """
    with contextlib.suppress(OSError):
        for path in list(folder.glob(f"{_PREFIX}*{_SUFFIX}")):
            with contextlib.suppress(OSError):
                if not _writer_lives(path.name) or time.time() - path.stat().st_mtime >= older_than:
                    path.unlink()


def _writer_lives(name: str) -> bool:
    """Whether another process that made a temporary file may still write it; True where that cannot be known."""
    number = name.removeprefix(_PREFIX).partition("-")[0]
    if number == str(os.getpid()):  # in containers every run may have the same number
        return False
    if os.name != "posix" or not number.isdecimal():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        written = os.write(descriptor, rest)
        if not written:  # a broken file system: it would be asked for ever
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rest = rest[written:]
