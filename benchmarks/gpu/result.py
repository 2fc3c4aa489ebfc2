"""What a proof finds: a record that is on disk after every entry, and the checks that it promises.

The file is old or new, never half of each, so that a stop at any moment loses only what was not yet measured.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """The value as JSON can hold it: NumPy numbers as Python's, what is not finite as text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def write_json(path: Path, data: Any) -> None:
    """Replace the file by one that is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(plain(data), file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def say(text: str) -> None:
    """Progress, as plain text."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Record:
    """One section's findings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = {"checks": {}, "findings": {}}

    def note(self, **findings: Any) -> None:
        """Findings by name; a name given again is replaced."""
        self.found["findings"].update(findings)
        write_json(self.path, self.found)

    def check(self, name: str, passed: bool, value: Any, limit: Any = None) -> None:
        """A promise and whether it holds. A value that is not a number never passes."""
        self.found["checks"][name] = {"passed": bool(passed), "value": value, "limit": limit}
        write_json(self.path, self.found)
        say(f"  {'ok  ' if passed else 'FAIL'} {name}: {plain(value)}" + ("" if limit is None else f" (limit {limit})"))

    def attempt(self, name: str, question: Callable[[], Any]) -> None:
        """Note what ``question`` returns, or how it failed; the rest goes on."""
        try:
            self.note(**{name: question()})
        except Exception as error:
            say(f"  {name} failed: {type(error).__name__}: {error}")
            self.note(**{name: {"error": "".join(traceback.format_exception(error))}})

    def failed(self, error: BaseException) -> None:
        """The whole section ended by an error."""
        self.found["error"] = "".join(traceback.format_exception(error))
        write_json(self.path, self.found)
