"""One section of the proof, in a process of its own: ``section.py NAME FILE [options]``.

A process of its own, because an error on the device makes the rest of the process useless, and because a hang can be
ended from outside. Exit codes: 0 done, 1 the section failed, 5 the GPU cannot be used.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from result import Record, say


@dataclass(frozen=True)
class Options:
    """What every section is told."""

    small: bool  # tiny sizes: exercises the code, its figures mean nothing
    data: Path | None  # the folder with the original data sets
    work: Path  # a temporary folder
    deadline: float  # time.monotonic() at which the section is ended from outside

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("file", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    record = Record(given.file)
    options = Options(given.small, given.data_dir, given.work, time.monotonic() + given.seconds)
    try:
        importlib.import_module(given.name).run(record, options)
    except Exception as error:
        from aevb_engine.errors import BackendError

        record.failed(error)
        if isinstance(error, BackendError):
            say(str(error))
            return 5
        say(f"  {given.name} failed: {type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
