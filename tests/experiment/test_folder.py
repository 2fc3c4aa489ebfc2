"""Run folders: made whole or not at all, found by name, locked by one process, listed whatever is broken in them."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb_engine.errors import FileFormatError, StorageError, UsageError
from aevb_engine.experiment import folder as folders
from aevb_engine.experiment.folder import RunFolder, is_locked, list_runs


def test_fresh_folder_has_its_layout(tmp_path: Path) -> None:
    run = RunFolder.create("My Run: ü/..", root=tmp_path / "runs")
    assert run.path.parent == tmp_path / "runs"
    assert re.fullmatch(r"\d{8}T\d{6}Z-my-run-[0-9a-f]{6}", run.path.name)
    assert run.checkpoints.is_dir()
    assert run.figures.is_dir()
    assert run.metrics_path == run.path / "metrics.h5"
    record = run.read_record()
    assert (record["format"], record["version"], record["status"]) == ("aevb-run", 1, "created")
    assert RunFolder.create("", root=tmp_path).path.name.split("-")[1] == "run"
    assert len(RunFolder.create("x" * 500, root=tmp_path).path.name) < 100


def test_output_may_be_new_or_empty(tmp_path: Path) -> None:
    assert RunFolder.create("a", tmp_path / "new" / "deep").path == tmp_path / "new" / "deep"
    (tmp_path / "empty").mkdir()
    assert RunFolder.create("a", tmp_path / "empty").record_path.exists()


def test_existing_output_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, reason in (("full", "not empty"), ("file", "not a folder"), ("dangling", "not a folder")):
        with pytest.raises(UsageError, match=reason) as caught:
            RunFolder.create("a", tmp_path / name)
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000])
def test_impossible_paths_are_usage_errors(tmp_path: Path, path: str) -> None:
    for call in (lambda: RunFolder.create("a", tmp_path / path), lambda: RunFolder.open(tmp_path / path)):
        with pytest.raises(UsageError, match=r"is not a path|there is no run") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_output_below_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot create"):
        RunFolder.create("a", tmp_path / "file" / "run")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_place_is_a_storage_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(StorageError, match="make the place writable") as caught:
            RunFolder.create("a", tmp_path / "run")
        assert caught.value.exit_code == 74
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "mkdir"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_failed_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StorageError, match=os.strerror(code)):
            RunFolder.create("a", tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


def test_record_is_replaced_whole(tmp_path: Path) -> None:
    run = RunFolder.create("a", tmp_path / "run")
    run.write_record({"seed": np.int64(3), "bound": float("nan"), "path": Path("x/y"), "list": (1.5, float("inf"))})
    run.update(status="running", seed=4)
    written = json.loads(run.record_path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert re.fullmatch("[0-9a-f]{64}", written.pop("digest"))
    assert written == {
        "format": "aevb-run",
        "version": 1,
        "seed": 4,
        "bound": None,
        "path": "x/y",
        "list": [1.5, None],
        "status": "running",
    }
    assert not [p for p in run.path.iterdir() if p.name.endswith(".tmp")]


def test_failed_update_keeps_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create("a", tmp_path / "run")
    before = run.record_path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(StorageError, match="No space left"):
        run.update(status="done")
    assert run.record_path.read_bytes() == before


def test_updates_of_several_threads_are_all_kept(tmp_path: Path) -> None:
    run = RunFolder.create("a", tmp_path / "run")
    threads = [threading.Thread(target=run.update, kwargs={f"key{i}": i}) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {f"key{i}": i for i in range(12)}.items() <= run.read_record().items()


def test_heartbeat_is_rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(folders.time, "monotonic", lambda: now)
    run = RunFolder.create("a", tmp_path / "run")
    assert run.heartbeat(step=1)
    assert not run.heartbeat(step=2)
    record = run.read_record()
    assert record["step"] == 1
    datetime.fromisoformat(record["heartbeat"])
    now += 5.0
    assert run.heartbeat(step=3)
    assert run.read_record()["step"] == 3


def test_open_by_path_name_and_latest(tmp_path: Path) -> None:
    runs = [RunFolder.create("a", root=tmp_path) for _ in range(5)]  # within one second
    for run in runs:
        assert RunFolder.open(run.path).path == run.path
        assert RunFolder.open(run.path.name, root=tmp_path).path == run.path
    assert RunFolder.open("latest", root=tmp_path).path == runs[-1].path
    runs[-1].record_path.write_text("damaged")
    assert RunFolder.open("latest", root=tmp_path).path == runs[-2].path
    assert [run.path for run in list_runs(tmp_path) if run.record] == [run.path for run in runs[:-1]]


def test_the_newest_of_many_is_found_without_reading_their_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the names that they are given, and by the heads of the records of runs with names of their own."""
    for k in range(40):
        own = RunFolder.create("a", tmp_path / f"own-{k}")
        own.update(created=f"2026-01-01T00:{k:02d}:00.000001+00:00")
        named = RunFolder.create("a", tmp_path / f"20260101T00{k:02d}30Z-a-{k:06x}")
        named.update(created=f"2026-01-01T00:{k:02d}:30.000001+00:00")
    read = []
    whole = RunFolder.read_record

    def count(self: RunFolder, **how: Any) -> dict[str, Any]:
        read.append(self.path.name)
        return whole(self, **how)

    monkeypatch.setattr(RunFolder, "read_record", count)
    assert RunFolder.open("latest", root=tmp_path).path.name == named.path.name
    shutil.rmtree(named.path)
    assert RunFolder.open("latest", root=tmp_path).path.name == "own-39"
    with pytest.raises(UsageError, match="did you mean 'own-39'"):
        RunFolder.open("own-399", root=tmp_path)
    assert len(read) <= 4  # of 80
    assert [run.path for run in list_runs(tmp_path)][-2:] == [tmp_path / "20260101T003830Z-a-000026", own.path]


def test_missing_run_suggests_near_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds none"):
        RunFolder.open("x", root=tmp_path / "absent")
    with pytest.raises(UsageError, match=r"no run in .*aevb-engine run"):
        RunFolder.open("latest", root=tmp_path / "absent")
    run = RunFolder.create("glyphs", root=tmp_path)
    for wanted in (run.path.name[:-2], str(tmp_path / run.path.name[:-2]), "nothing-like-it"):
        with pytest.raises(UsageError, match=f"did you mean '{run.path.name}'") as caught:
            RunFolder.open(wanted, root=tmp_path)
        assert "\n" not in str(caught.value)


RECORDS = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"{}",
    b'{"format": "x"}',
    b'{"format": "aevb-run"}',
    b'{"format": "aevb-run", "version": 99}',
    b'{"format": "aevb-run", "version": "1"}',
    b"\xff\xfe",
    b"[" * 200_000,
    b'{"format": "aevb-run", "version": 1',
]


@pytest.mark.parametrize("record", RECORDS)
def test_broken_record_is_a_format_error(tmp_path: Path, record: bytes) -> None:
    (tmp_path / "run.json").write_bytes(record)
    with pytest.raises(FileFormatError) as caught:
        RunFolder.open(tmp_path)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_what_is_not_a_run_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="not a run folder"):
        RunFolder.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileFormatError, match="not a run folder but a file"):
        RunFolder.open(tmp_path / "file")


def test_one_broken_run_never_breaks_a_listing(tmp_path: Path) -> None:
    sound = RunFolder.create("sound", root=tmp_path)
    for index, record in enumerate(RECORDS):
        broken = tmp_path / f"20200101T0000{index:02d}Z-broken-00000{index % 10}"
        broken.mkdir()
        (broken / "run.json").write_bytes(record)
    (tmp_path / "20200101T000000Z-without-aaaaaa").mkdir()
    folder_as_record = tmp_path / "20200101T000000Z-folder-aaaaaa"
    (folder_as_record / "run.json").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    odd = RunFolder.create("odd", root=tmp_path)
    odd.update(created=17, status=None)
    runs = list_runs(tmp_path)
    assert {run.path for run in runs if run.record} == {sound.path, odd.path}
    broken_runs = [run for run in runs if run.record is None]
    assert len(broken_runs) == len(RECORDS) + 2
    assert all(run.error and "\n" not in run.error and run.status == "broken" for run in broken_runs)
    assert list_runs(tmp_path / "absent") == []


HOLDER = textwrap.dedent("""
    import sys
    from aevb_engine.experiment.folder import RunFolder
    with RunFolder.open(sys.argv[1]).lock():
        print("held", flush=True)
        sys.stdin.read()  # until it is killed
""")


def test_lock_of_another_process_is_named_and_ends_with_it(tmp_path: Path) -> None:
    run = RunFolder.create("a", tmp_path / "run")
    run.update(status="running")
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert is_locked(run.path)
        assert list_runs(tmp_path)[0].status == "running"
        with pytest.raises(StorageError, match=f"in use by process {child.pid} ") as caught, run.lock():
            pytest.fail("locked twice")
        assert caught.value.exit_code == 74
    finally:
        child.kill()
        child.communicate()
    assert not is_locked(run.path)
    assert list_runs(tmp_path)[0].status == "interrupted"
    with run.lock():
        assert is_locked(run.path)
    assert not is_locked(run.path)


def test_lock_excludes_the_same_process_too_and_is_freed_by_errors(tmp_path: Path) -> None:
    run = RunFolder.create("a", tmp_path / "run")
    with run.lock(), pytest.raises(StorageError, match=f"process {os.getpid()} "), run.lock():
        pytest.fail("locked twice")
    with pytest.raises(KeyError), run.lock():
        raise KeyError
    with run.lock():
        pass


def test_lock_clears_what_killed_writers_left(tmp_path: Path) -> None:
    """However fresh, in every folder of the run: the process that made them is gone, or had this one's number."""
    run = RunFolder.create("a", tmp_path / "run")
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    places = (run.path, run.checkpoints, run.figures)
    left = [place / f".aevb-{pid}-0a1b.tmp" for place in places for pid in (int(child.stdout), os.getpid())]
    living = [place / f".aevb-{os.getppid()}-0a1b.tmp" for place in places]
    for path in (*left, *living):
        path.touch()
    with run.lock():
        assert [path.exists() for path in left] == [False] * 6
        assert [path.exists() for path in living] == [True] * 3


def test_lock_clears_old_temporary_files_only(tmp_path: Path) -> None:
    run = RunFolder.create("a", tmp_path / "run")
    old, fresh = run.path / ".aevb-1-old.tmp", run.path / ".aevb-1-fresh.tmp"
    for path in (old, fresh):
        path.touch()
    os.utime(old, (0, 0))
    with run.lock():
        assert not old.exists()
        assert fresh.exists()


def test_a_record_changed_by_hand_is_told(tmp_path: Path) -> None:
    run = RunFolder.create("a", tmp_path / "a")
    run.update(status="done", result={"test_bound": -123.5, "note": "\udce4 \u00fc \u2028"}, config={"hidden": (1, 2)})
    record, text = run.read_record(), run.record_path.read_text()
    assert run.altered(record) == ""
    run.record_path.write_text(json.dumps(record))  # other white space, the same words
    assert run.read_record() == record
    for old, new in (("-123.5", "-23.5"), ('"done"', '"stopped"'), ('"digest"', '"digesu"'), (record["id"], "0" * 16)):
        run.record_path.write_text(text.replace(old, new))
        for read in (run.read_record, lambda: run.update(step=3), lambda: RunFolder.open(run.path)):
            with pytest.raises(FileFormatError, match="changed after the run wrote it") as caught:
                read()
            assert "\n" not in str(caught.value)
        assert run.read_record(changed=True)["name"] == "a"
        assert RunFolder.open(run.path, changed=True).path == run.path
        (listed,) = list_runs(tmp_path)
        assert listed.record is not None
        assert "changed after" in str(listed.error)
    plain = {key: value for key, value in record.items() if key not in ("id", "digest")}  # as older versions wrote it
    run.record_path.write_text(json.dumps(plain))
    assert run.read_record() == plain


def test_whoever_holds_the_lock_knows_the_record(tmp_path: Path) -> None:
    """What happens to the file meanwhile does not end a run, and is not taken over."""
    run = RunFolder.create("a", tmp_path / "a")
    with run.lock():
        run.update(status="running", step=1)
        text = run.record_path.read_text()
        for broken in (text.replace('"step": 1', '"step": 7'), "{", None):
            run.record_path.unlink() if broken is None else run.record_path.write_text(broken)
            run.update(status="running")
            assert run.record_path.read_text() == text
    run.record_path.write_text(text.replace('"step": 1', '"step": 7'))
    with pytest.raises(FileFormatError, match="changed after"):
        run.update(step=2)
