"""Checkpoints: the same state back, to the bit; which files a store keeps."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from aevb_engine.errors import FileFormatError, UsageError
from aevb_engine.experiment import checkpoint as ckpt
from aevb_engine.experiment.checkpoint import Checkpoint, CheckpointStore


def make(step: int, size: int = 50) -> Checkpoint:
    draw = np.random.default_rng(step)
    arrays = {
        "theta": draw.standard_normal(size).astype(np.float32),
        "optimizer/m": draw.standard_normal(size),
    }
    return Checkpoint(step, arrays, {"seed": step, "lr": 0.1, "name": "é"})


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    arrays = {
        "theta": np.array([0.0, -0.0, np.nan, np.inf, 5e-324]),
        "optimizer/adam/m": np.arange(6, dtype=np.float32).reshape(2, 3),
        "optimizer/t": np.array(7, np.int64),
        "empty": np.empty((0, 4)),
        "codes": np.arange(256, dtype=np.uint8),
        "half": np.array([1.5], np.float16),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">f8"),
    }
    meta = {"b": [1, 2.5, None, True], "a": {"é": "x"}, "n": np.float32(0.5), "i": np.int64(3)}
    digest = ckpt.write(tmp_path / "c.h5", Checkpoint(12, arrays, meta))
    assert digest == hashlib.sha256((tmp_path / "c.h5").read_bytes()).hexdigest()
    found = ckpt.read(tmp_path / "c.h5")
    assert found.step == 12
    assert found.meta == {"b": [1, 2.5, None, True], "a": {"é": "x"}, "n": 0.5, "i": 3}
    assert list(found.meta) == list(meta)
    assert set(found.arrays) == set(arrays)
    for name, array in arrays.items():
        assert found.arrays[name].shape == array.shape
        assert found.arrays[name].dtype == array.dtype.newbyteorder("=")
        assert found.arrays[name].tobytes() == np.asarray(array, array.dtype.newbyteorder("<"), order="C").tobytes()


def test_same_state_gives_same_bytes() -> None:
    first, second = make(3), make(3)
    swapped = Checkpoint(3, dict(reversed(second.arrays.items())), second.meta)
    assert ckpt.encode(first) == ckpt.encode(swapped)
    assert ckpt.encode(first) != ckpt.encode(make(4))


@pytest.mark.parametrize(
    "broken",
    [
        Checkpoint(-1, {}, {}),
        Checkpoint(1, {"../x": np.zeros(1)}, {}),
        Checkpoint(1, {"/x": np.zeros(1)}, {}),
        Checkpoint(1, {"x": np.zeros(1, bool)}, {}),
        Checkpoint(1, {"x": np.zeros(1, complex)}, {}),
        Checkpoint(1, {"x": np.array(["a"])}, {}),
        Checkpoint(1, {"x": np.array([None])}, {}),
        Checkpoint(1, {}, {"x": float("nan")}),
        Checkpoint(1, {}, {"x": {1, 2}}),
        Checkpoint(1, {}, {"x": "y" * (ckpt.MAX_META_BYTES + 1)}),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_refused_before_writing(tmp_path: Path, broken: Checkpoint) -> None:
    with pytest.raises(ValueError, match=r"."):
        ckpt.write(tmp_path / "c.h5", broken)
    assert list(tmp_path.iterdir()) == []


def test_hash_file_can_be_checked_by_sha256sum(tmp_path: Path) -> None:
    digest = ckpt.write(tmp_path / "c.h5", make(1))
    assert (tmp_path / "c.h5.sha256").read_text() == f"{digest}  c.h5\n"


def test_missing_hash_file_needs_consent_and_a_child(tmp_path: Path) -> None:
    ckpt.write(tmp_path / "c.h5", make(1), hash_file=False)
    assert [p.name for p in tmp_path.iterdir()] == ["c.h5"]
    with pytest.raises(FileFormatError, match="no readable hash file"):
        ckpt.read(tmp_path / "c.h5")
    assert ckpt.read(tmp_path / "c.h5", require_hash=False).step == 1


def test_present_hash_file_must_match_even_with_consent(tmp_path: Path) -> None:
    ckpt.write(tmp_path / "c.h5", make(1))
    (tmp_path / "c.h5").write_bytes(ckpt.encode(make(2)))
    for require in (True, False):
        with pytest.raises(FileFormatError, match="does not match its hash file"):
            ckpt.read(tmp_path / "c.h5", require_hash=require)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        ckpt.read(tmp_path / "absent.h5")
    with pytest.raises(FileFormatError, match="not a regular file"):
        ckpt.read(tmp_path)


def test_store_keeps_the_last_three_and_the_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.newest() is None
    assert store.best() is None
    for step in range(100, 900, 100):
        path = store.save(make(step), best=step == 200, score=-float(step))
        assert path.name == f"ckpt-{step:010d}.h5"
    assert store.steps() == [200, 600, 700, 800]
    files = {p.name for p in store.folder.iterdir()}
    assert files == {f"ckpt-{s:010d}.h5{e}" for s in store.steps() for e in ("", ".sha256")} | {"best.json"}
    newest, best = store.newest(), store.best()
    assert newest is not None
    assert best is not None
    assert (newest.step, best.step, store.best_score()) == (800, 200, (200, -200.0))
    store.save(make(900), best=True, score=1.0)
    assert store.steps() == [700, 800, 900]
    assert store.warnings == []


def test_damaged_newest_is_skipped_and_reported(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        store.save(make(step), best=step == 3, score=0.0)
    data = bytearray(store.path(3).read_bytes())
    data[len(data) // 2] ^= 1
    store.path(3).write_bytes(data)
    newest = store.newest()
    assert newest is not None
    assert newest.step == 2
    assert len(store.warnings) == 1
    assert store.path(3).name in store.warnings[0]
    assert store.best() is None


def test_files_left_from_before_a_resume_do_not_push_out_new_ones(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(make(50))
    store.path(60).write_bytes(b"damaged")
    store.save(make(55))
    newest = store.newest()
    assert newest is not None
    assert newest.step == 55
    assert not store.path(50).exists()


def test_swapped_files_are_detected(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        store.save(make(step))
    shutil.copy(store.path(2), store.path(3))  # the hash file stays
    newest = store.newest()
    assert newest is not None
    assert newest.step == 2
    store.save(make(3))
    for suffix in ("", ".sha256"):  # the hash file goes along: the step inside betrays it
        shutil.copy(f"{store.path(2)}{suffix}", f"{store.path(3)}{suffix}")
    newest = store.newest()
    assert newest is not None
    assert newest.step == 2
    assert "swapped" in store.warnings[-1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"step": "1"}',
        '{"step": true, "file": "ckpt-0000000001.h5"}',
        '{"step": -1}',
        "[" * 100_000,
        '{"step": 1, "file": "../ckpt-0000000001.h5"}',
        '{"step": 1, "file": "ckpt-0000000001.h5", "score": "x"}',
        "\xff",
    ],
)
def test_damaged_best_json_is_reported_and_nothing_is_removed(tmp_path: Path, text: str) -> None:
    """Of checkpoints that do not tell which is the best: those of an earlier version."""
    store = CheckpointStore(tmp_path, keep=1)
    ckpt.write(store.path(1), make(1))
    (tmp_path / "best.json").write_bytes(text.encode("latin-1"))
    assert store.best() is None
    assert "best.json is damaged" in store.warnings[0]
    store.save(make(2))
    assert store.steps() == [1, 2]
    store.save(make(3), best=True, score=2.0)
    assert store.steps() == [3]


@pytest.mark.parametrize("text", [None, "{", '{"step": 9, "file": "ckpt-0000000009.h5", "score": 5.0}'])
def test_best_json_is_written_anew_from_the_checkpoints(tmp_path: Path, text: str | None) -> None:
    """Missing, damaged or naming another one: the newest checkpoint tells, also to another process."""
    CheckpointStore(tmp_path, keep=1).save(make(1), best=True, score=1.0)
    sound = (tmp_path / "best.json").read_bytes()
    for step, store in ((2, CheckpointStore(tmp_path, keep=1)), (3, CheckpointStore(tmp_path, keep=1))):
        (tmp_path / "best.json").unlink()
        if text is not None:
            (tmp_path / "best.json").write_text(text)
        assert store.best_score() == (1, 1.0)
        store.save(make(step))
        assert (tmp_path / "best.json").read_bytes() == sound
        assert store.steps() == [1, step]
        assert store.warnings == []


def test_best_json_of_an_earlier_version_counts(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(make(1), best=True, score=1.0)
    ckpt.write(store.path(2), make(2))
    assert CheckpointStore(tmp_path).best_score() == (1, 1.0)
    fresh = CheckpointStore(tmp_path, keep=1)
    fresh.save(make(3))
    newest = fresh.newest()
    assert newest is not None
    assert newest.best == (1, 1.0)
    assert fresh.steps() == [1, 3]


@pytest.mark.parametrize("best", [7, [], {"step": True}, {"step": -1}, {"step": 1, "score": "x"}, {"score": 1.0}])
def test_a_best_that_is_none_is_none(best: object) -> None:
    assert Checkpoint(3, {}, {"best": best}).best is None


def test_scores_must_be_finite_and_keep_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finite"):
        CheckpointStore(tmp_path).save(make(1), best=True, score=float("nan"))
    with pytest.raises(ValueError, match="at least 1"):
        CheckpointStore(tmp_path, keep=0)


def test_best_json_is_plain(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save(make(5), best=True, score=-1.5)
    record = json.loads((tmp_path / "best.json").read_text())
    assert record == {
        "format": "aevb-best",
        "version": 1,
        "file": "ckpt-0000000005.h5",
        "step": 5,
        "score": -1.5,
    }
