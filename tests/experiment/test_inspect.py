"""The child that reads files for its parent: only its own answer counts, and only what it proves is damaged."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb_engine.errors import FileFormatError, StorageError
from aevb_engine.experiment import checkpoint, inspect, log
from aevb_engine.experiment.checkpoint import Checkpoint
from aevb_engine.experiment.log import MetricsLog

ROWS = np.array([[1.0, -3.5], [2.0, -3.25]])
IMAGE = checkpoint.encode(Checkpoint(3, {"theta": np.arange(4.0)}, {}))
ALONE = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "metrics.h5"
    with MetricsLog.create(place, {"train": ("step", "bound")}) as metrics:
        metrics.append("train", ROWS)
    return place


def before(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """`code` runs in the child as soon as it has come to the file."""
    lines = [
        "import os, signal",
        "from aevb_engine.errors import FileFormatError",
        "from aevb_engine.experiment import log",
        "def find_here(*given, real=log.find_here, **named):",
        *(f"    {line}" for line in code.splitlines()),
        "    return real(*given, **named)",
        "log.find_here = find_here",
    ]
    start = inspect._CHILD.replace("sys.exit(", f"exec({chr(10).join(lines)!r}); sys.exit(")
    monkeypatch.setattr(inspect, "_CHILD", start)


def test_what_others_print_is_not_the_answer(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site of the user's prints before, a module while the file is read, both at the end."""
    place = tmp_path / "site"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        "import atexit, sys\n"
        'print(\'[["train", ["step"], 1]]\', flush=True)\n'
        "print('left in the buffer')\n"
        "print('error: of its own', file=sys.stderr)\n"
        "atexit.register(print, 'good bye')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(place))
    assert np.array_equal(log.read_safely(path)["train"][1], ROWS)
    inspect.check_image(IMAGE, "model.h5")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(FileFormatError, match=r"metrics\.h5"):
        log.read_safely(path)
    (place / "sitecustomize.py").write_text("import sys\nprint('x')\nsys.stdout.flush()\nimport os\nos._exit(4)\n")
    with pytest.raises(StorageError, match="ended without an answer"):
        log.read_safely(path)


@pytest.mark.parametrize("entry", [Path("/tmp"), b"/tmp", 3, None, "", "/nowhere:/else", "/with\udc80byte"])
def test_strange_entries_of_the_path(path: Path, monkeypatch: pytest.MonkeyPatch, entry: Any) -> None:
    monkeypatch.setattr(sys, "path", [entry, *sys.path, entry])
    assert np.array_equal(log.read_safely(path)["train"][1], ROWS)
    inspect.check_image(IMAGE, "model.h5")


def test_variables_of_the_users_own_programs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PYTHONINSPECT", "1"), ("PYTHONWARNINGS", "error"), ("PYTHONVERBOSE", "1")):
        monkeypatch.setenv(name, value)
    assert np.array_equal(log.read_safely(path)["train"][1], ROWS)


def test_the_package_is_found_wherever_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported through '' or a finder of its own, it is on no path."""
    root = str(Path(inspect.__file__).parents[2])
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != root])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(path.parent)
    assert np.array_equal(log.read_safely(path)["train"][1], ROWS)


@ALONE
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGALRM"])
def test_a_killed_child_proves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before(monkeypatch, f"os.kill(os.getpid(), signal.{name})")
    with pytest.raises(StorageError, match=r"cannot be read now .*ended by signal") as caught:
        log.read_safely(path)
    assert (caught.value.exit_code, str(caught.value).count("\n")) == (74, 0)


@ALONE
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT"])
def test_a_file_that_crashes_its_reader_twice_is_damaged(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    mark = tmp_path / "crashed"
    once = f"if not os.path.exists({str(mark)!r}):\n    open({str(mark)!r}, 'w').close()\n    "
    with monkeypatch.context() as patch:
        before(patch, once + f"os.kill(os.getpid(), signal.{name})")
        assert np.array_equal(log.read_safely(path)["train"][1], ROWS)
        assert mark.exists()
    before(monkeypatch, f"os.kill(os.getpid(), signal.{name})")
    with pytest.raises(FileFormatError, match="is damaged"):
        log.read_safely(path)


@ALONE
def test_a_child_that_crashes_before_it_comes_to_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a library does that finds no memory."""
    monkeypatch.setattr(inspect, "_CHILD", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(StorageError, match="cannot be read now"):
        log.read_safely(path)


@pytest.mark.parametrize(
    "code",
    [
        "raise MemoryError",
        "raise FileFormatError('damaged') from MemoryError()",
        "raise FileFormatError('damaged') from OSError('memory allocation failed for raw data chunk')",
    ],
)
def test_no_memory_is_no_damage(path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    before(monkeypatch, code)
    with pytest.raises(StorageError, match=r"cannot be read now \(it asks for more than the 2048 MB"):
        log.read_safely(path)


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_a_child_without_the_memory_to_begin_proves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little = "import resource; resource.setrlimit(resource.RLIMIT_AS, (60 << 20, 60 << 20)); "
    monkeypatch.setattr(inspect, "_CHILD", little + inspect._CHILD)
    with pytest.raises(StorageError, match="cannot be read now"):
        log.read_safely(path)


def test_an_answer_that_was_cut_is_none() -> None:
    body = b'{"tables": []}\n'
    whole = b"noise" + b"n" * 32 + inspect._ANSWER + hashlib.sha256(body).digest() + body
    assert inspect._frames(whole, b"n" * 32) == (False, body)
    assert inspect._frames(whole[:-1], b"n" * 32) == (False, None)
    assert inspect._frames(whole + b"more", b"n" * 32) == (False, None)
    assert inspect._frames(whole, b"m" * 32) == (False, None)
