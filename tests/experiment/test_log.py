"""The metrics log: rows back to the bit, readable while written, cut on resume, clear when the disk is full."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aevb_engine.errors import FileFormatError, StorageError, UsageError
from aevb_engine.experiment import log
from aevb_engine.experiment.log import MetricsLog

TRAIN = ("step", "bound", "kl")
COLUMNS = {"train": TRAIN, "eval": ("step", "bound")}


def rows(first: int, last: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    steps = np.arange(first, last + 1, dtype=np.float64)
    return np.stack([steps, np.sin(steps), steps / 3], 1)


def written(path: Path, last: int) -> None:
    with MetricsLog.create(path, COLUMNS) as metrics:
        metrics.append("train", rows(1, last))
        metrics.append("eval", np.array([[10.0, -1.0], [20.0, np.nan]]))


def test_rows_come_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "metrics.h5"
    expected = rows(1, 777)
    with MetricsLog.create(path, COLUMNS) as metrics:
        assert metrics.columns == COLUMNS
        at = 0
        for size in (1, 1, 49, 50, 51, 1, 0, 200, 3, 421):  # around the block of 50 rows and far beyond
            block = expected[at : at + size]
            metrics.append("train", block[0] if size == 1 else block)
            at += size
            assert metrics.count("train") == at
        metrics.append("eval", (5, np.nan))
    for found in (log.read(path), log.read_safely(path)):
        assert {name: table[0] for name, table in found.items()} == COLUMNS
        assert found["train"][1].tobytes() == expected.tobytes()
        assert np.array_equal(found["eval"][1], [[5.0, np.nan]], equal_nan=True)


def test_file_is_plain_hdf5_with_names(tmp_path: Path) -> None:
    written(tmp_path / "metrics.h5", 60)
    with h5py.File(tmp_path / "metrics.h5", "r", swmr=True) as file:
        assert file.attrs["format"] == b"aevb-metrics"
        assert file.attrs["version"] == 2
        assert [c.decode() for c in file["train"].attrs["columns"]] == [*TRAIN, "check"]
        assert file["train"].shape == (60, 4)
        assert np.array_equal(file["train"][:, :3], rows(1, 60))
        assert file["train"].dtype == np.float64


def test_rows_are_visible_after_fifty_or_a_second_or_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.h5"
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def visible() -> int:
        return len(log.read(path)["train"][1])

    with MetricsLog.create(path, COLUMNS) as metrics:
        for row in rows(1, 50):
            metrics.append("train", row)
        assert visible() == 0
        metrics.append("train", rows(51, 51))
        assert visible() == 50
        now += 1.0
        metrics.append("eval", (1.0, 2.0))  # any append gives all tables to the readers
        assert visible() == 51
        metrics.append("train", rows(52, 53))
        assert visible() == 51
        metrics.commit()
        assert visible() == 53
        metrics.append("train", rows(54, 54))
    assert visible() == 54


def test_commit_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "fdatasync" if hasattr(os, "fdatasync") else "fsync"
    synced: list[int] = []
    with MetricsLog.create(tmp_path / "metrics.h5", COLUMNS) as metrics:
        metrics.append("train", rows(1, 3))
        monkeypatch.setattr(os, name, lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
        metrics.commit()
        assert synced == [(tmp_path / "metrics.h5").stat().st_ino]


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.h5"
    for columns in ({"train": ("bound",)}, {"a/b": ("step",)}, {"train": ("step", "step")}):
        with pytest.raises(ValueError, match="needs a plain name"):
            MetricsLog.create(path, columns)
        assert not path.exists()
    with MetricsLog.create(path, COLUMNS) as metrics:
        with pytest.raises(ValueError, match=r"shape \(1, 2\), expected \(n, 3\)"):
            metrics.append("train", (1, 2))
        with pytest.raises(KeyError):
            metrics.append("other", (1, 2))
    with pytest.raises(StorageError, match="exists already"):
        MetricsLog.create(path, COLUMNS)
    metrics.close()  # again, harmless


def test_two_writers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.h5"
    written(path, 5)
    code = "import sys; from aevb_engine.experiment.log import MetricsLog; MetricsLog(sys.argv[1])"
    with MetricsLog(path) as metrics:
        child = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        assert "StorageError" in child.stderr
        metrics.append("train", rows(6, 8))
    assert len(log.read(path)["train"][1]) == 8


@pytest.mark.parametrize("step", [0, 1, 10, 59, 60, 100])
def test_resume_cuts_to_the_step(tmp_path: Path, step: int) -> None:
    path = tmp_path / "metrics.h5"
    written(path, 60)
    kept = min(step, 60)
    with MetricsLog.resume(path, step) as metrics:
        assert metrics.warnings == []
        assert metrics.count("train") == kept
        assert metrics.count("eval") == sum(s <= step for s in (10, 20))
        metrics.append("train", rows(kept + 1, kept + 70))
    assert log.read(path)["train"][1].tobytes() == rows(1, kept + 70).tobytes()
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.h5"]


def test_resume_rebuilds_what_is_missing_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.h5"
    fallback = {"train": (TRAIN, rows(1, 40)), "eval": (("step", "bound"), np.array([[10.0, -1.0]]))}
    for damage in (None, b"no log at all", b"\x89HDF\r\n\x1a\n" + bytes(500)):
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(FileFormatError, match="no copy of the metrics"):
            MetricsLog.resume(path, 30)
        with MetricsLog.resume(path, 30, fallback) as metrics:
            assert "rebuilt from the checkpoint" in metrics.warnings[0]
        found = log.read(path)
        assert found["train"][1].tobytes() == rows(1, 30).tobytes()
        assert found["eval"][1].tolist() == [[10.0, -1.0]]
        path.unlink()


def test_resume_restores_rows_the_log_lost(tmp_path: Path) -> None:
    path = tmp_path / "metrics.h5"
    written(path, 25)
    with MetricsLog.resume(path, 30, {"train": (TRAIN, rows(1, 40))}) as metrics:
        assert metrics.warnings == ["5 rows of 'train' restored from the checkpoint"]
        assert metrics.count("eval") == 2
    assert log.read(path)["train"][1].tobytes() == rows(1, 30).tobytes()
    with pytest.raises(FileFormatError, match="other columns"):
        MetricsLog.resume(path, 30, {"train": (("step", "x"), np.zeros((1, 2)))})


def test_reader_sees_only_whole_rows_of_a_live_writer(tmp_path: Path) -> None:
    """One process writes without pause, this one reads without pause: row i is always the row i."""
    poll(tmp_path / "metrics.h5", refreshes=400)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_refreshes_of_a_live_writer(tmp_path: Path) -> None:
    poll(tmp_path / "metrics.h5", refreshes=100_000)


def poll(path: Path, refreshes: int) -> None:
    code = textwrap.dedent("""
        import sys, time
        import numpy as np
        from aevb_engine.experiment.log import MetricsLog
        with MetricsLog.create(sys.argv[1], {"train": ("step", "bound", "kl"), "eval": ("step", "bound")}) as metrics:
            print("ready", flush=True)
            step = 0
            while True:
                step += 1
                metrics.append("train", (step, step * 2.0, -step))
                if step % 10 == 0:
                    metrics.append("eval", (step, step / 4))
                if step % 25 == 0:
                    time.sleep(0.001)
                if step % 1000 == 0:
                    metrics.commit()
                if step == 30_000:   # a long poll starts over, as a resumed run does
                    metrics.close()
                    metrics = MetricsLog.resume(sys.argv[1], 100)
                    step = 100
    """)
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        seen, changes = 0, 0
        for _ in range(refreshes):
            found = log.read(path)
            train, evaluation = found["train"][1], found["eval"][1]
            steps = np.arange(1.0, len(train) + 1)
            assert np.array_equal(train, np.stack([steps, steps * 2, -steps], 1))
            steps = np.arange(10.0, 10.0 * len(evaluation) + 1, 10.0)
            assert np.array_equal(evaluation, np.stack([steps, steps / 4], 1))
            assert len(train) >= seen or len(train) >= 100  # never backwards but at a resume
            changes += len(train) != seen
            seen = len(train)
        assert changes > refreshes // 20
        assert child.poll() is None
    finally:
        child.kill()
        child.communicate()


def test_full_disk_is_one_error_and_keeps_the_flushed_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.h5"
    metrics = MetricsLog.create(path, COLUMNS)
    metrics.append("train", rows(1, 60))
    metrics.commit()

    def full(self: Any, values: Any) -> None:
        raise OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')")

    monkeypatch.setattr(log._Table, "write", full)
    metrics.append("train", rows(61, 61))
    with pytest.raises(StorageError, match="No space left on device; free some space") as caught:
        metrics.commit()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(StorageError, match="No space left"):
        metrics.append("train", rows(62, 62))
    metrics.close()
    metrics.close()
    assert log.read(path)["train"][1].tobytes() == rows(1, 60).tobytes()


def test_failing_sync_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "fdatasync" if hasattr(os, "fdatasync") else "fsync"
    metrics = MetricsLog.create(tmp_path / "metrics.h5", COLUMNS)

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(StorageError, match="Input/output error"):
        metrics.commit()
    metrics.close()


def test_error_under_way_is_not_hidden_by_a_failing_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, values: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    def work() -> None:
        with MetricsLog.create(tmp_path / "metrics.h5", COLUMNS) as metrics:
            metrics.append("train", rows(1, 1))
            raise RuntimeError("the real cause")

    monkeypatch.setattr(log._Table, "write", full)
    with pytest.raises(RuntimeError, match="the real cause"):
        work()


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("limit", [80_000, 140_000, 201_000])
def test_real_write_failure_keeps_the_flushed_rows(tmp_path: Path, limit: int) -> None:
    """A limit on the size of the file fails libhdf5's own writes, in the middle of a chunk or of its index."""
    code = textwrap.dedent("""
        import resource, sys
        from aevb_engine.errors import StorageError
        from aevb_engine.experiment.log import MetricsLog
        limit = int(sys.argv[2])
        metrics = MetricsLog.create(sys.argv[1], {"train": ("step", "bound", "kl")})
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        step = flushed = 0
        try:
            with metrics:
                while step < 100_000:
                    step += 1
                    metrics.append("train", (step, step * 2.0, -step))
                    if step % 7 == 0:
                        metrics.flush()
                        flushed = step
        except StorageError as error:
            print(flushed)
            sys.exit(f"{error}")
    """)
    path = tmp_path / "metrics.h5"
    child = subprocess.run(
        [sys.executable, "-c", code, str(path), str(limit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert child.returncode == 1, child.stderr
    assert child.stderr == f"cannot write {path}: File too large; free some space there or choose another place\n"
    flushed = int(child.stdout)
    train = log.read_safely(path)["train"][1]
    assert len(train) >= flushed
    steps = np.arange(1.0, flushed + 1)
    assert np.array_equal(train[:flushed], np.stack([steps, steps * 2, -steps], 1))
    with MetricsLog.resume(path, flushed) as metrics:  # with space again, the run goes on
        metrics.append("train", (flushed + 1, 0, 0))
    assert len(log.read(path)["train"][1]) == flushed + 1


@pytest.mark.parametrize("reader", [log.read, log.read_safely])
def test_unreadable_logs_are_named(tmp_path: Path, reader: Any) -> None:
    with pytest.raises(UsageError, match="there is no metrics log"):
        reader(tmp_path / "absent.h5")
    with pytest.raises(FileFormatError, match="not a regular file"):
        reader(tmp_path)
    (tmp_path / "text.h5").write_text("hello, this is text")
    with pytest.raises(FileFormatError, match="not an HDF5 file"):
        reader(tmp_path / "text.h5")


def foreign(path: Path, build: Any) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["format"] = np.bytes_("aevb-metrics")
        file.attrs["version"] = np.int64(1)
        build(file)


def external(file: h5py.File) -> None:
    file.create_dataset("train", (4, 1), "f8", external=[("secret.txt", 0, 32)])
    file["train"].attrs["columns"] = np.array([b"step"])


def linked(file: h5py.File) -> None:
    file["train"] = h5py.ExternalLink("secret.h5", "/x")


def no_step(file: h5py.File) -> None:
    file["train"] = np.zeros((2, 1))
    file["train"].attrs["columns"] = np.array([b"bound"])


def integers(file: h5py.File) -> None:
    file["train"] = np.zeros((2, 1), np.int32)
    file["train"].attrs["columns"] = np.array([b"step"])


def too_wide(file: h5py.File) -> None:
    file["train"] = np.zeros((2, 2))
    file["train"].attrs["columns"] = np.array([b"step"])


def other(file: h5py.File) -> None:
    file.attrs["format"] = np.bytes_("other")


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (external, "external storage"),
        (linked, "soft or external link"),
        (no_step, "without a column 'step'"),
        (integers, "another shape or type"),
        (too_wide, "another shape or type"),
        (other, "has the format 'other'"),
    ],
)
def test_foreign_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Any, reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_bytes(bytes(32))
    path = tmp_path / "metrics.h5"
    foreign(path, build)
    with pytest.raises(FileFormatError, match=reason):
        log.read(path, patience=0.0)


def test_truncated_logs_never_crash_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "metrics.h5"
    written(path, 60)
    data = path.read_bytes()
    for cut in (60, len(data) // 2):
        path.write_bytes(data[:cut])
        with pytest.raises(FileFormatError, match=r"is damaged|could not be read within") as caught:
            log.read_safely(path, timeout=2.0)
        assert "\n" not in str(caught.value)


def test_no_truncation_goes_unnoticed(tmp_path: Path) -> None:
    """libhdf5 reads zeros beyond the end of a file: a cut inside the rows must not become rows of zeros."""
    path = tmp_path / "metrics.h5"
    written(path, 5000)
    data = path.read_bytes()
    for cut in range(len(data) // 4, len(data), 5003):
        path.write_bytes(data[:cut])
        try:
            found = log.read(path, patience=0.0)
        except FileFormatError as error:
            caught = str(error)
        else:
            assert found["train"][1].tobytes() == rows(1, 5000).tobytes()
            caught = "one line"
        assert "\n" not in caught


def test_a_row_costs_little(tmp_path: Path) -> None:
    """The target is 5 us a row of 16 numbers appended one by one; ten times that would be a mistake in the code."""
    names = ("step", *(f"c{i}" for i in range(15)))
    row = np.zeros(16)
    with MetricsLog.create(tmp_path / "metrics.h5", {"train": names}) as metrics:
        best = np.inf
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(1000):
                metrics.append("train", row)
            best = min(best, (time.perf_counter() - start) / 1000)
    assert best < 50e-6


def image(path: Path, *, live: bool) -> bytes:
    """A log of 120 rows, closed or as a killed writer leaves it."""
    metrics = MetricsLog.create(path, COLUMNS, run="abc")
    metrics.append("train", rows(1, 120))
    metrics.append("eval", np.array([[10.0, -1.0], [20.0, np.nan]]))
    metrics.commit()
    data = path.read_bytes()
    metrics.close()
    return data if live else path.read_bytes()


@pytest.mark.parametrize("live", [False, True])
def test_a_changed_byte_of_a_row_is_damage(tmp_path: Path, live: bool) -> None:
    path = tmp_path / "metrics.h5"
    data = image(path, live=live)
    place = data.index(rows(77, 77).tobytes())
    for at in range(place, place + 32):  # three numbers and the check
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(FileFormatError, match=r"1 of 120 rows of 'train' are not what was written"):
            log.read(path, patience=0.0)
    zeroed = data[:place] + bytes(96) + data[place + 96 :]
    nan = data[: place + 43 * 32] + np.full(8, np.nan).tobytes()[:32] + data[place + 44 * 32 :]
    swapped = data[:place] + data[place + 32 : place + 64] + data[place : place + 32] + data[place + 64 :]
    for damaged, count in ((zeroed, 3), (swapped, 2), *([] if live else [(nan, 1)])):
        path.write_bytes(damaged)
        found = log.find(path)
        assert f"{count} of 120 rows" in found.damage
        assert len(found.tables["train"][1]) == 120 - count


@pytest.mark.parametrize("live", [False, True])
def test_damage_is_told_without_waiting(tmp_path: Path, live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """libhdf5 would read each damaged block a hundred times, with longer and longer waits between."""
    path = tmp_path / "metrics.h5"
    data = image(path, live=live)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for at in (9, 20, 30, 46, 60, 150, 300, 600):
        path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        try:
            found = log.read(path, patience=0.0)
        except FileFormatError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert found["train"][1].tobytes() == rows(1, 120).tobytes()
    assert sum(slept) <= 8 * 0.02 * log._MIN_ATTEMPTS
    assert not (slept and not live)


def test_renamed_columns_and_another_run_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "metrics.h5"
    data = image(path, live=False)
    assert log.read(path, run="abc")["train"][0] == TRAIN
    with pytest.raises(FileFormatError, match="the log of another run"):
        log.read_safely(path, run="abd")
    with pytest.raises(FileFormatError, match="has lost rows: 120 of 121 of 'train'"):
        log.read_safely(path, run="abc", rows={"train": 121})
    with h5py.File(path, "r+") as file:
        file["train"].attrs["columns"] = np.array([b"step", b"kl", b"bound", b"check"])
    with pytest.raises(FileFormatError, match="120 of 120 rows of 'train'"):
        log.read(path)
    path.write_bytes(data)
    with h5py.File(path, "r+") as file:
        file.attrs["run"] = np.bytes_("abd")
    with pytest.raises(FileFormatError, match="another run"):
        log.read(path, run="abc")
    with pytest.raises(FileFormatError, match="are not what was written"):
        log.read(path)


def test_a_log_of_version_1_is_read_and_renewed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["format"], file.attrs["version"] = np.bytes_("aevb-metrics"), np.int64(1)
        file.create_dataset("train", data=rows(1, 9), maxshape=(None, 3), chunks=(16, 3), fillvalue=np.nan)
        file["train"].attrs["columns"] = np.array([name.encode() for name in TRAIN])
    for found in (log.read(path, run="abc"), log.read_safely(path, run="abc")):
        assert found["train"][0] == TRAIN
        assert found["train"][1].tobytes() == rows(1, 9).tobytes()
    with pytest.raises(FileFormatError, match="older version"):
        MetricsLog(path)
    with MetricsLog.resume(path, 7, run="abc") as metrics:
        metrics.append("train", rows(8, 8))
    assert log.read(path, run="abc")["train"][1].tobytes() == rows(1, 8).tobytes()


def test_resume_keeps_a_damaged_log_and_its_sound_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.h5"
    data = image(path, live=True)
    tail = {"train": (TRAIN, rows(101, 120))}
    for number, step in ((1, 77), (2, 110)):
        place = data.index(rows(step, step).tobytes())
        damaged = data[:place] + bytes(8) + data[place + 8 :]
        path.write_bytes(damaged)
        with MetricsLog.resume(path, 120, tail, run="abc") as metrics:
            said = metrics.warnings
        assert said[0].startswith("metrics rebuilt from the checkpoint: ")
        assert said[1] == f"the damaged file is kept as {tmp_path / f'metrics.damaged-{number}.h5'}"
        lost = ["1 rows of 'train' are lost"] if step == 77 else ["1 rows of 'train' restored from the checkpoint"]
        assert said[2:] == lost
        assert (tmp_path / f"metrics.damaged-{number}.h5").read_bytes() == damaged
        kept = [s for s in range(1, 121) if s != 77 or step != 77]
        assert log.read(path)["train"][1][:, 0].tolist() == kept
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("error", [StorageError("no memory"), OSError(5, "x")])
def test_a_log_that_cannot_be_read_now_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = tmp_path / "metrics.h5"
    data = image(path, live=True)
    path.write_bytes(data)

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(log.inspect, "read_metrics", fail)
    with pytest.raises(type(error)):
        MetricsLog.resume(path, 120, {"train": (TRAIN, rows(101, 120))}, run="abc")
    assert path.read_bytes() == data
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.h5"]


def test_a_mark_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "metrics.h5"
    assert not log.is_open(path)
    path.write_bytes(image(tmp_path / "other.h5", live=True))
    assert log.is_open(path)
    with pytest.raises(OSError, match="open for write"):
        h5py.File(path, "r")
    MetricsLog.resume(path, 120).close()
    assert not log.is_open(path)
    with h5py.File(path, "r") as file:
        assert file["train"].shape == (120, 4)
    path.write_bytes(b"\x89HDF\r\n\x1a\n\x03")
    assert not log.is_open(path)
