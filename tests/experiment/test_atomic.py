"""Atomic files: old or new, one clear error, nothing left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aevb_engine.errors import StorageError
from aevb_engine.experiment import atomic


def test_content_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic.write_text(path, "old")
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_bytes(b"")
    atomic.write_bytes(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_failure_is_one_line_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "a"
    atomic.write_bytes(path, b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StorageError) as caught:
            atomic.write_bytes(path, b"new")
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert os.strerror(code) in message
    assert "; " in message
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    atomic.write_bytes(tmp_path / "a", bytes(range(100)))
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


def test_folder_without_fsync_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if os.fstat(descriptor).st_mode & 0o040000:
            raise OSError(errno.EINVAL, "unsupported")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    atomic.write_bytes(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_content_is_synced_before_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        calls.append("folder" if os.fstat(descriptor).st_mode & 0o040000 else "file")
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    atomic.write_bytes(tmp_path / "a", b"x")
    assert calls == ["file", "replace", "folder"]


def test_a_write_that_gets_nowhere_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", lambda *_: 0)
    with pytest.raises(StorageError, match="cannot write"):
        atomic.write_bytes(tmp_path / "a", b"content")
    assert list(tmp_path.iterdir()) == []


def test_sweep_removes_only_old_temporary_files(tmp_path: Path) -> None:
    for name in (".aevb-1-aa.tmp", "keep.tmp", "a.h5"):
        (tmp_path / name).touch()
    atomic.sweep(tmp_path, older_than=1000)
    assert len(list(tmp_path.iterdir())) == 3
    atomic.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "keep.tmp"]
    atomic.sweep(tmp_path / "absent")


def test_odd_path_is_shown_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        atomic.write_bytes(tmp_path / "no\nfolder" / "a", b"")
    assert "\n" not in str(caught.value)


def test_imports_stay_light() -> None:
    code = (
        "import sys\n"
        "import aevb_engine.experiment.atomic, aevb_engine.experiment.checkpoint, aevb_engine.experiment.log\n"
        "import aevb_engine.experiment.folder\n"
        "assert not {'h5py', 'matplotlib', 'cupy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
