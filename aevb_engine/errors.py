"""Every error a user may meet: one line with what is wrong, the value, and the mend; each with its exit code."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LONGEST = 300  # characters of a name or a path in a message


class AevbError(Exception):
    """Base of all errors meant for the user: the message is one line and needs no traceback.

    The message speaks of the command line (``--batch-size 300``); the Python interface translates it
    (``batch_size=300``), or says ``python`` where the mend is another one there.
    """

    exit_code = 1

    def __init__(self, message: str = "", *, python: str | None = None) -> None:
        super().__init__(readable(message))
        self.python = None if python is None else readable(python)


class TrainingError(AevbError):
    """The work failed: the run diverged, or a check did not hold."""

    exit_code = 1


class UsageError(AevbError):
    """An unknown name or an impossible option."""

    exit_code = 2


class DataError(AevbError):
    """Data or a configuration file that cannot be used: wrong shape, outside the support, missing, damaged download."""

    exit_code = 3


class FileFormatError(AevbError):
    """A file that is corrupt, foreign, or does not belong to this run."""

    exit_code = 4


class BackendError(AevbError):
    """A backend, a plugin or a library that cannot be used here."""

    exit_code = 5


class StorageError(AevbError):
    """The disk is full, the place cannot be written, or another process holds the lock."""

    exit_code = 74


class Stopped(AevbError):
    """Stopped on request; the run can be resumed. Its message ends with the command, which stays whole."""

    exit_code = 75

    def __init__(self, message: str = "", *, python: str | None = None) -> None:
        super().__init__(message, python=python)
        self.args = (printable(message),)


class ResultWarning(UserWarning):
    """What is amiss with a model that was trained: idle latent units, a bound below a simpler model's, and the like."""


def suggest(name: str, known: Iterable[str]) -> str:
    """A closing clause for an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(names)}" if names else "none is known"


def printable(text: str) -> str:
    r"""The text in one line that a terminal shows as it stands: what moves the cursor, breaks the line or turns the
    direction of writing is escaped as in Python (``\n``, ``\x1b``, ``\u202e``)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str) -> str:
    """A name as it is, or without its middle where it is longer than LONGEST."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:180]}...({len(text) - 240:,} more)...{text[-60:]}"


def readable(text: str) -> str:
    """A message in one printable line, each name in it of acceptable length."""
    line = printable(text)
    return line if len(line) <= LONGEST else re.sub(r"\S+", lambda word: shortened(word.group()), line)
