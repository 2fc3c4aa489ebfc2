"""The boundary that every error crosses: one line on stderr and the exit code of the kind of error."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import click

from aevb_cli.text import columns, wrap
from aevb_engine.blame import blamed
from aevb_engine.errors import AevbError, BackendError, Stopped, printable, readable

INTERNAL, STORAGE = 70, 74
PLACES = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EMFILE, errno.ENFILE)  # no fault of the program's
debug = False  # --debug of the command under way; tracebacks are shown only then


class Interrupted(AevbError):
    """Stopped by a signal before there was anything to go on from; the exit code follows from the signal."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Signalled(KeyboardInterrupt):
    """A signal that ends a command where it stands; nothing that handles errors handles it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Ended(Exception):
    """Carries what click would not let through to the boundary."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(type(cause).__name__)
        self.cause = cause


def guarded(action: Callable[[], Any]) -> int:
    """Run a command; returns its exit code and never raises."""
    global debug
    debug = False
    try:
        try:
            with blamed():
                result = action()
        except Ended as error:
            raise error.cause from None
        if sys.stdout is not None:
            sys.stdout.flush()
        return result if isinstance(result, int) else 0  # click returns the code of --help and --version
    except click.ClickException as error:
        return _fail(_usage_line(error), error.exit_code)
    except Stopped as error:
        tell(str(error))
        return error.exit_code
    except AevbError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        number = getattr(error.__cause__ or error, "number", signal.SIGINT)  # click aborts because of it
        return _fail("interrupted", 128 + number)
    except MemoryError as error:
        detail = f" ({error})" if str(error) else ""
        return _fail(f"not enough memory{detail}; use a smaller model, batch or data set", 1)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader, such as `head`, has seen enough
            _drop_stdout()
            return 0
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            _drop_stdout()
            return _fail(f"cannot write: {error.strerror}; free some space or choose another place", STORAGE)
        if isinstance(error, PermissionError):
            where = f" for {error.filename}" if error.filename else ""
            return _fail(f"no permission{where}; allow it, or choose another place", STORAGE)
        if error.filename is not None and error.errno in PLACES:
            return _fail(f"cannot use {error.filename}: {error.strerror}; choose another place", STORAGE)
        if isinstance(error, FileNotFoundError) and not _here():
            return _fail("the folder that this was started in is gone; change to another one", STORAGE)
        return _internal(error)
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("aevb_engine", "aevb_cli", "aevb_plugins"):
            return _internal(error)
        mend = "install aevb-engine again, or that package"
        return _fail(f"a package that the engine needs cannot be imported ({error}); {mend}", BackendError.exit_code)
    except Exception as error:  # whatever is left is a defect of the program, or of a plugin
        return _internal(error)


def _here() -> bool:
    """Whether there is still a working folder."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError:
        return False
    return True


def one_line(text: str) -> str:
    """Text in one line, control characters escaped and very long names shortened: names may hold anything."""
    return readable(" ".join(text.split()))


def warn(line: str) -> None:
    """One line on stderr."""
    tell(f"warning: {one_line(line)}")


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of Python or a library as one line; where it comes from only with --debug."""
    warn(f"{message}" + (f" ({category.__name__}, {filename}:{lineno})" if debug else ""))


def unraisable(dropped: Any) -> None:
    """What Python says of an exception that it had to drop, in one line; nothing of a signal, which comes again."""
    if not isinstance(dropped.exc_value, KeyboardInterrupt):
        warn(f"ignored: {type(dropped.exc_value).__name__}: {dropped.exc_value}")
    if debug:
        sys.__unraisablehook__(dropped)


def tell(line: str) -> None:
    """A line on stderr, wrapped on a terminal, where it can be written: a reader that has gone does not end a run."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(wrap(printable(line), columns(sys.stderr)), err=True)


def _fail(line: str, code: int) -> int:
    if debug and sys.exception() is not None:
        traceback.print_exc()
    tell(f"error: {one_line(line)}")
    return code


def _usage_line(error: click.ClickException) -> str:
    """Click's message as one line of our style, with the help that says more."""
    line = readable(error.format_message()).rstrip(".")
    line = line[:1].lower() + line[1:]
    context = getattr(error, "ctx", None)
    return f"{line}; see `{context.command_path} --help`" if context is not None else line


def _internal(error: Exception) -> int:
    """Write the traceback to a file and name it."""
    where = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="aevb-engine-", suffix=".log", delete=False, encoding="utf-8", errors="replace"
        ) as log:
            log.write(f"arguments: {sys.argv[1:]}\n\n{traceback.format_exc()}")
        where = f"; details in {log.name}"
    except OSError:
        where = "; the details could not be written, run again with --debug"
    return _fail(f"internal error ({type(error).__name__}: {str(error)[:200]}){where}", INTERNAL)


def _drop_stdout() -> None:
    """Point stdout at nothing, so that Python does not fail again when it flushes it at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)
