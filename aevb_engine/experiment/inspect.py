"""Files that libhdf5 might crash or hang on: a child process with limits of time and memory reads them.

`check_image` lets a child parse the bytes of a foreign checkpoint; `read_metrics` lets it read a metrics log,
live or left by a killed writer. The child is `python -m aevb_engine.experiment.inspect checkpoint|metrics
NAME SECONDS BYTES`; it exits with the exit code of the error it met, the error's line on stderr.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aevb_engine.errors import AevbError, BackendError, FileFormatError, StorageError, UsageError
from aevb_engine.experiment.atomic import shown

MEMORY = 2 << 30  # address space of the child beside the file itself
_ERRORS: dict[int, type[AevbError]] = {kind.exit_code: kind for kind in (UsageError, FileFormatError, StorageError)}


def check_image(data: bytes, name: str, timeout: float = 60.0) -> None:
    """Returns when a child has read the checkpoint in `data` and found it sound; else FileFormatError."""
    _run(("checkpoint", name), data, timeout, MEMORY + 4 * len(data))


def read_metrics(path: Path, timeout: float = 10.0) -> dict[str, tuple[tuple[str, ...], np.ndarray[Any, Any]]]:
    """What log.read(path) returns, read by a child."""
    try:
        size = path.stat().st_size
    except OSError:
        size = 0
    answer = _run(("metrics", os.fspath(path)), b"", timeout, MEMORY + 8 * size)
    head, _, body = answer.partition(b"\n")
    tables: dict[str, tuple[tuple[str, ...], np.ndarray[Any, Any]]] = {}
    offset = 0
    for name, columns, rows in json.loads(head):
        values = np.frombuffer(body, np.float64, rows * len(columns), offset).reshape(rows, len(columns))
        tables[name] = (tuple(columns), values.copy())
        offset += values.nbytes
    return tables


def _run(arguments: Sequence[str], data: bytes, timeout: float, memory: int) -> bytes:
    name = shown(arguments[1])
    command = [
        sys.executable,
        "-P",
        "-m",
        "aevb_engine.experiment.inspect",
        *arguments,
        str(timeout),
        str(memory),
    ]
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        # Its own session: an interrupt meant for this process must not look like a damaged file.
        child = subprocess.run(
            command,
            input=data,
            capture_output=True,
            timeout=timeout,
            env=environment,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FileFormatError(
            f"{name} could not be read within {timeout:g} s; it is damaged or being written"
        ) from None
    except OSError as error:
        raise BackendError(
            f"cannot start a process to read {name}: {error.strerror or error}; free some memory"
        ) from error
    if child.returncode == 0:
        return child.stdout
    lines = child.stderr.decode("utf-8", "replace").strip().splitlines()
    if child.returncode in _ERRORS and lines:
        raise _ERRORS[child.returncode](lines[-1])
    raise FileFormatError(f"{name} is damaged (its reader ended with {child.returncode}); restore it from a copy")


def _limit(seconds: float, memory: int) -> None:
    """Caps this process; what the platform lacks is left out, the parent's time limit always holds."""
    if hasattr(signal, "alarm"):
        signal.alarm(int(seconds) + 5)  # outlives a parent that was killed by no more than this
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if sys.platform == "linux" and (hard == resource.RLIM_INFINITY or hard > memory):
            resource.setrlimit(resource.RLIMIT_AS, (memory, hard))


def main(arguments: Sequence[str]) -> int:
    """The child: reads, answers on stdout, returns the exit code."""
    kind, name, seconds, memory = arguments
    _limit(float(seconds), int(memory))
    output = sys.stdout.buffer
    try:
        if kind == "checkpoint":
            from aevb_engine.experiment import checkpoint

            checkpoint.decode(sys.stdin.buffer.read(), name)
        else:
            from aevb_engine.experiment import log

            tables = log.read(Path(name))
            output.write(json.dumps([[key, columns, len(rows)] for key, (columns, rows) in tables.items()]).encode())
            output.write(b"\n")
            for _, rows in tables.values():
                output.write(rows.tobytes())
            output.flush()
    except AevbError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except MemoryError:
        sys.stderr.write(f"{shown(name)} asks for more memory than a sound file needs; restore it from a copy\n")
        return FileFormatError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
