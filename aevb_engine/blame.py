"""Which plugin an exception came out of, told by its traceback: an error with the plugin's name in place of a defect's.

Whatever the engine calls of a plugin may fail in any way, in any thread and from any depth. So nothing is caught where
it is called; where errors leave (the record of a run, the command line, the public Python interface) ``blamed`` looks
at whose code was running. What a plugin returns is checked where it is used, and told by ``fault``.
"""

from __future__ import annotations

import contextlib
import errno
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from aevb_engine.errors import AevbError, BackendError

GROUP = "aevb_engine.{}s"  # of entry points, by kind
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EPIPE)  # nobody's fault
OWN = "aevb_engine"  # whose errors are its own, the built-in objectives' too
LONGEST = 300  # characters of what a plugin's exception says


@dataclass(frozen=True)
class Origin:
    """Where a plugin comes from: its kind and name, and what its entry point says; nothing for an object of a user."""

    kind: str
    name: str
    target: str = ""

    def __str__(self) -> str:
        if not self.target:
            return f"{self.kind} {self.name}"
        return f"{self.kind} plugin '{self.name}' ({self._distribution()}{self.target})"

    def _distribution(self) -> str:
        with contextlib.suppress(Exception):  # lists of others may be broken
            from importlib.metadata import entry_points

            for point in entry_points(group=GROUP.format(self.kind), name=self.name):
                if point.value == self.target and point.dist is not None:
                    return f"{point.dist.name} {point.dist.version}, "
        return ""


_classes: dict[type, Origin] = {}
_modules: dict[str, list[Origin]] = {}  # of those found by name


def remember(made: Any, origin: Origin) -> None:
    """Whose code the methods of ``made`` are, and what else its module holds where it was found by name."""
    kind = type(made)
    if kind.__module__.split(".")[0] == OWN:
        return
    _classes[kind] = origin
    if origin.target:
        for module in (kind.__module__, origin.target.partition(":")[0].strip()):
            known = _modules.setdefault(module, [])
            if origin not in known:
                known.append(origin)


@contextlib.contextmanager
def blamed() -> Iterator[None]:
    """BackendError with the plugin's name for what comes out of a plugin; errors for users pass as they are."""
    try:
        yield
    except (Exception, SystemExit) as error:
        named = of(error)
        if named is None:
            raise
        raise named from error


def of(error: BaseException) -> BackendError | None:
    """The error that names the plugin whose code failed; None where none did, or the machine's limits are reached."""
    passing = isinstance(error, (AevbError, MemoryError, KeyboardInterrupt, GeneratorExit))
    if passing or (isinstance(error, OSError) and error.errno in OF_THE_DISK):
        return None
    origins: list[Origin] = []
    method = ""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):  # the innermost first
        found = [o for o in _origins(frame) if not origins or o in origins]
        if found:
            origins, method = found, _method(frame)
        elif origins and frame.f_globals.get("__name__", "").split(".")[0] == OWN:
            break  # which has called the method
    if not origins:
        return None
    return _told(f"{' or '.join(map(str, origins))} failed in {method}: {said(error)}", "shows where")


def fault(plugin: Any, what: str) -> BackendError:
    """The error for a plugin that gives something wrong: ``what`` it does, such as "load returns a tuple"."""
    return _told(f"{name(plugin)}: {what}", "")


def name(plugin: Any) -> str:
    """What a plugin is called, and where it comes from."""
    return str(next((_classes[c] for c in type(plugin).__mro__ if c in _classes), type(plugin).__name__))


def said(error: BaseException) -> str:
    """An exception in one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # the code of a plugin, too
        text = ""
    return f"{type(error).__name__}: {text[:LONGEST]}" if text else type(error).__name__


def _told(line: str, shows: str) -> BackendError:
    """With the mend, which is the plugin's author's."""
    line = f"{line}; correct the plugin, or use another"
    if not shows:
        return BackendError(line)
    return BackendError(f"{line} (--debug {shows})", python=f"{line} (the exception above {shows})")


def _origins(frame: FrameType) -> list[Origin]:
    """The plugin whose method, or function of a method, this is; of another function, those that its module holds."""
    found = _classes.get(type(frame.f_locals.get("self")))
    if found is not None:
        return [found]
    module, owner = frame.f_globals.get("__name__", ""), frame.f_code.co_qualname.partition(".")[0]
    by_name = {o: None for c, o in _classes.items() if (c.__module__, c.__qualname__) == (module, owner)}
    return list(by_name) or _modules.get(module, [])


def _method(frame: FrameType) -> str:
    """The method, or the function, that a frame runs in: of one that a method has made, that method."""
    return frame.f_code.co_qualname.partition(".<locals>")[0].rpartition(".")[2]
