"""Files that libhdf5 might crash or hang on: a child process with limits of time and memory reads them.

`check_image` lets a child parse the bytes of a foreign checkpoint; `read_metrics` lets it read a metrics log, live or
left by a killed writer. A file is called damaged only where the child says so, or where reading it crashes the child
twice. A child that was killed, was short of time or memory or could not even begin proves nothing of the file: that is
a StorageError, to be tried again.

The child gets a line of JSON on stdin. It answers on stdout in frames that begin with a number drawn for it, and sends
whatever else anybody prints there to stderr, so that nothing but its own answer is taken for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aevb_engine.errors import AevbError, BackendError, FileFormatError, StorageError, UsageError
from aevb_engine.experiment.atomic import shown

MEMORY = 2 << 30  # address space of the child beside the file itself
CRASHES = {
    getattr(signal, name) for name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL") if hasattr(signal, name)
}
_ERRORS: dict[int, type[AevbError]] = {kind.exit_code: kind for kind in (UsageError, FileFormatError, StorageError)}
_BEGUN, _ANSWER = b" begun\n", b" answer "
# The path of this process is the child's, too, and this very package, however it was found.
_CHILD = (
    "import importlib.util as util, json, sys; request = json.loads(sys.stdin.buffer.readline()); "
    "sys.path[:] = request['path']; spec = util.spec_from_file_location('aevb_engine', request['package']); "
    "sys.modules['aevb_engine'] = package = util.module_from_spec(spec); spec.loader.exec_module(package); "
    "from aevb_engine.experiment import inspect; sys.exit(inspect.main(request))"
)
_PACKAGE = str(Path(__file__).resolve().parents[1] / "__init__.py")
_STEERING = ("PYTHONINSPECT", "PYTHONWARNINGS", "PYTHONSTARTUP")  # for the user's own programs

Tables = dict[str, tuple[tuple[str, ...], np.ndarray[Any, Any]]]


class _Crashed(Exception):
    """The child died of the file."""


def check_image(data: bytes, name: str, timeout: float = 60.0) -> None:
    """Returns when a child has read the checkpoint in `data` and found it sound.

    FileFormatError where it is not, StorageError where that cannot be told now.
    """
    _ask({"kind": "checkpoint", "name": name}, data, timeout, MEMORY + 4 * len(data))


def read_metrics(path: Path, timeout: float = 10.0, run: str = "") -> tuple[Tables, str]:
    """What log.find_here(path, run=run) finds, read by a child: the tables, and what is damaged."""
    try:
        size = path.stat().st_size
    except OSError:
        size = 0
    answer = _ask({"kind": "metrics", "name": os.fspath(path), "run": run}, b"", timeout, MEMORY + 8 * size)
    line, _, body = answer.partition(b"\n")
    head = json.loads(line)
    tables: Tables = {}
    offset = 0
    for name, columns, rows in head["tables"]:
        values = np.frombuffer(body, np.float64, rows * len(columns), offset).reshape(rows, len(columns))
        tables[name] = (tuple(columns), values.copy())
        offset += values.nbytes
    return tables, head["damage"]


def _ask(request: Mapping[str, Any], data: bytes, timeout: float, memory: int) -> bytes:
    """The answer's JSON line and what follows it; the AevbError that the child met."""
    name = shown(request["name"])
    for _ in range(2):  # what crashes two of them is the file
        try:
            answer = _run(request, data, timeout, memory, name)
            break
        except _Crashed:
            continue
    else:
        raise FileFormatError(f"{name} is damaged (it crashes its reader); restore it from a copy")
    head = json.loads(answer.partition(b"\n")[0])
    if head.get("memory"):
        raise _not_now(name, f"it asks for more than the {memory >> 20} MB that its reader has")
    if head.get("error"):
        code, line = head["error"]
        raise _ERRORS.get(code, FileFormatError)(line)
    return answer


def _run(request: Mapping[str, Any], data: bytes, timeout: float, memory: int, name: str) -> bytes:
    nonce = secrets.token_hex(16)
    path = [entry for entry in sys.path if isinstance(entry, str) and entry]  # as the import system, which skips others
    asked = {**request, "nonce": nonce, "seconds": timeout, "memory": memory, "path": path, "package": _PACKAGE}
    environment = {key: value for key, value in os.environ.items() if key not in _STEERING}
    environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        # Its own session: an interrupt meant for this process must not look like a damaged file.
        child = subprocess.run(
            [sys.executable or "python3", "-P", "-c", _CHILD],
            input=json.dumps(asked).encode() + b"\n" + data,
            capture_output=True,
            timeout=timeout,
            env=environment,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _not_now(name, f"it could not be read within {timeout:g} s") from None
    except OSError as error:
        raise BackendError(
            f"cannot start a process to read {name}: {error.strerror or error}; free some memory"
        ) from error
    begun, answer = _frames(child.stdout, nonce.encode())
    if answer is not None:
        return answer
    if begun and -child.returncode in CRASHES:
        raise _Crashed
    if child.returncode < 0:
        raise _not_now(name, f"its reader was ended by signal {-child.returncode}")
    lines = child.stderr.decode("utf-8", "replace").strip().splitlines()
    raise _not_now(name, f"its reader ended without an answer{': ' + shown(lines[-1])[:200] if lines else ''}")


def _not_now(name: str, why: str) -> StorageError:
    return StorageError(
        f"{name} cannot be read now ({why}); nothing was changed: try again with more memory and time, "
        "or move that file away if it stays so"
    )


def _frames(output: bytes, nonce: bytes) -> tuple[bool, bytes | None]:
    """Whether the child came to the file, and its answer, if it is there to the last byte."""
    begun = nonce + _BEGUN in output
    _, found, rest = output.partition(nonce + _ANSWER)
    digest, answer = rest[:32], rest[32:]
    return begun, answer if found and hashlib.sha256(answer).digest() == digest else None


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


def main(request: Mapping[str, Any]) -> int:
    """The child: reads, and answers where stdout was; 0."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed from now on is no answer
    from aevb_engine.experiment import checkpoint, log  # an import that fails proves nothing of the file

    nonce, name = request["nonce"].encode(), request["name"]
    data = sys.stdin.buffer.read()
    _limit(request["seconds"], request["memory"])
    output.write(nonce + _BEGUN)
    output.flush()
    head: dict[str, Any] = {}
    body = b""
    try:
        if request["kind"] == "checkpoint":
            checkpoint.decode(data, name)
        else:
            found = log.find_here(Path(name), run=request["run"])
            tables = found.tables
            head = {"tables": [[key, columns, len(rows)] for key, (columns, rows) in tables.items()]}
            head["damage"] = found.damage
            body = b"".join(rows.tobytes() for _, rows in tables.values())
    except AevbError as error:
        cause = error.__cause__  # libhdf5 says in words that it had no memory
        short = isinstance(cause, MemoryError) or (request["kind"] == "metrics" and "alloc" in str(cause).lower())
        head = {"memory": True} if short else {"error": [error.exit_code, str(error)]}
    except MemoryError:
        head = {"memory": True}
    answer = json.dumps(head).encode() + b"\n" + body
    output.write(nonce + _ANSWER + hashlib.sha256(answer).digest())
    output.write(answer)
    output.close()
    return 0
