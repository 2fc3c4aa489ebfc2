"""Damaged and hostile checkpoint files: each is detected, none crashes its reader or shows it other files."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aevb_engine.errors import FileFormatError, StorageError
from aevb_engine.experiment import checkpoint as ckpt
from aevb_engine.experiment import inspect, plain_hdf5
from aevb_engine.experiment.checkpoint import Checkpoint

SAMPLE = Checkpoint(7, {"theta": np.arange(300.0), "optimizer/m": np.ones(40, np.float32)}, {"seed": 1})


def mutant(data: bytes, seed: int) -> bytes:
    """A copy with flipped bits, a cut, or a part overwritten or moved; half of the changes hit the first 4 KiB."""
    draw = random.Random(seed)
    image = bytearray(data)
    end = len(image) if draw.random() < 0.5 else min(len(image), 4096)
    kind = draw.randrange(4)
    if kind == 0:
        for _ in range(draw.choice((1, 1, 3, 20))):
            image[draw.randrange(end)] ^= 1 << draw.randrange(8)
    elif kind == 1:
        del image[draw.randrange(len(image)) :]
    elif kind == 2:
        start = draw.randrange(end)
        length = min(draw.choice((1, 4, 8, 64)), len(image) - start)
        image[start : start + length] = draw.choice((bytes(length), b"\xff" * length, draw.randbytes(length)))
    else:
        first, second = draw.randrange(end), draw.randrange(end)
        image[first : first + 8], image[second : second + 8] = (
            image[second : second + 8],
            image[first : first + 8],
        )
    return bytes(image)


def test_every_mutant_of_a_hashed_file_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    ckpt.write(path, SAMPLE)
    data = path.read_bytes()
    for seed in range(2000):
        changed = mutant(data, seed)
        if changed == data:
            continue
        path.write_bytes(changed)
        with pytest.raises(FileFormatError) as caught:
            ckpt.read(path)
        assert "\n" not in str(caught.value)


# Decodes mutants without a hash file until one kills it; prints the seed of each mutant before it is tried.
DECODER = textwrap.dedent("""
    import importlib.util, signal, sys
    import numpy as np
    from aevb_engine.errors import FileFormatError
    from aevb_engine.experiment import checkpoint as ckpt
    spec = importlib.util.spec_from_file_location("damage", sys.argv[1])
    damage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(damage)
    data = ckpt.encode(damage.SAMPLE)
    for seed in range(int(sys.argv[2]), int(sys.argv[3])):
        print(seed, flush=True)
        signal.alarm(10)
        try:
            found = ckpt.decode(damage.mutant(data, seed), "mutant")
        except FileFormatError as error:
            assert "\\n" not in str(error), error
            continue
        # What was changed carries no meaning (padding, unused space): then everything is as it was.
        assert (found.step, found.meta) == (damage.SAMPLE.step, damage.SAMPLE.meta), seed
        assert set(found.arrays) == set(damage.SAMPLE.arrays), seed
        for name, array in damage.SAMPLE.arrays.items():
            assert found.arrays[name].dtype == array.dtype, seed
            assert np.array_equal(found.arrays[name], array), seed
""")


def decode_mutants(first: int, last: int) -> int:
    """Tries mutants in children; returns how many killed the child (a signal or the alarm), which a parent survives."""
    deaths = 0
    while first < last:
        child = subprocess.run(
            [sys.executable, "-c", DECODER, __file__, str(first), str(last)],
            capture_output=True,
            text=True,
            check=False,
        )
        if child.returncode == 0:
            break
        assert child.returncode < 0, child.stderr
        deaths += 1
        first = int(child.stdout.split()[-1]) + 1
    return deaths


def test_no_mutant_without_hash_file_returns_other_data() -> None:
    assert decode_mutants(0, 1500) < 15


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_mutant_of_many_returns_other_data() -> None:
    assert decode_mutants(10_000, 60_000) < 500


def test_foreign_mutants_are_refused_through_the_child(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    data = ckpt.encode(SAMPLE)
    for seed in range(4):
        path.write_bytes(mutant(data, seed))
        try:
            found = ckpt.read(path, require_hash=False)
        except FileFormatError:
            continue
        assert np.array_equal(found.arrays["theta"], SAMPLE.arrays["theta"])


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Makes the inspecting child run a shell line instead."""
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_hang_of_the_child_proves_nothing_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "exec sleep 60")
    with pytest.raises(StorageError, match=r"cannot be read now .*within 0.3 s.*try again"):
        inspect.check_image(ckpt.encode(SAMPLE), "c.h5", timeout=0.3)


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_memory_of_the_child_is_limited() -> None:
    code = textwrap.dedent("""
        from aevb_engine.experiment import inspect
        inspect._limit(30.0, 2 << 30)
        try:
            bytearray(3 << 30)
        except MemoryError:
            print("limited")
    """)
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "limited\n"


def hostile(build: Callable[[h5py.File, h5py.Group], None], libver: str | None = None) -> bytes:
    """A file that looks like a checkpoint but for what `build` does to it."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=libver) as file:
        file.attrs["format"] = np.bytes_("aevb-checkpoint")
        file.attrs["version"] = np.int64(1)
        file.attrs["step"] = np.int64(1)
        file.attrs["content"] = np.bytes_("0" * 64)
        file["meta"] = np.frombuffer(b"{}", np.uint8)
        build(file, file.create_group("arrays"))
    return buffer.getvalue()


def soft_link(file: h5py.File, arrays: h5py.Group) -> None:
    arrays["x"] = h5py.SoftLink("/meta")


def external_link(file: h5py.File, arrays: h5py.Group) -> None:
    arrays["x"] = h5py.ExternalLink("secret.h5", "/x")


def external_link_for_meta(file: h5py.File, arrays: h5py.Group) -> None:
    del file["meta"]
    file["meta"] = h5py.ExternalLink("secret.h5", "/x")


def external_storage(file: h5py.File, arrays: h5py.Group) -> None:
    arrays.create_dataset("x", (10,), "u1", external=[("secret.txt", 0, 10)])


def virtual(file: h5py.File, arrays: h5py.Group) -> None:
    layout = h5py.VirtualLayout((10,), "f8")
    layout[:] = h5py.VirtualSource("secret.h5", "x", (10,))
    arrays.create_virtual_dataset("x", layout)


def huge_contiguous(file: h5py.File, arrays: h5py.Group) -> None:
    arrays.create_dataset("x", (1 << 40,), "f8")


def huge_chunked(file: h5py.File, arrays: h5py.Group) -> None:
    arrays.create_dataset("x", (1 << 40,), "f8", chunks=(1024,))


def huge_compressed(file: h5py.File, arrays: h5py.Group) -> None:
    arrays.create_dataset("x", (1 << 28,), "f8", chunks=(1 << 20,), compression="gzip")


def huge_by_wrap_around(file: h5py.File, arrays: h5py.Group) -> None:
    arrays.create_dataset("x", (1 << 31, 1 << 31, 4), "u1", chunks=(16, 16, 4))


def huge_chunk(file: h5py.File, arrays: h5py.Group) -> None:
    arrays.create_dataset("x", (1,), "f8", chunks=(1 << 28,), maxshape=(None,))


def many_names_for_one(file: h5py.File, arrays: h5py.Group) -> None:
    arrays["x0"] = np.zeros(100_000)
    for index in range(1, 100):
        arrays[f"x{index}"] = arrays["x0"]


def many_items(file: h5py.File, arrays: h5py.Group) -> None:
    for index in range(plain_hdf5.MAX_ITEMS + 1):
        arrays.create_group(str(index))


def loop(file: h5py.File, arrays: h5py.Group) -> None:
    arrays["again"] = arrays


def objects(file: h5py.File, arrays: h5py.Group) -> None:
    arrays.create_dataset("x", data=["a", "b"], dtype=h5py.string_dtype())


def ragged(file: h5py.File, arrays: h5py.Group) -> None:
    arrays.create_dataset("x", (2,), h5py.vlen_dtype(np.int32))


def references(file: h5py.File, arrays: h5py.Group) -> None:
    arrays.create_dataset("x", (2,), h5py.ref_dtype)


def records(file: h5py.File, arrays: h5py.Group) -> None:
    arrays["x"] = np.zeros(2, [("a", "f8"), ("b", "i4")])


def truth(file: h5py.File, arrays: h5py.Group) -> None:
    arrays["x"] = np.zeros(2, bool)


def no_extent(file: h5py.File, arrays: h5py.Group) -> None:
    arrays["x"] = h5py.Empty("f8")


def named_type(file: h5py.File, arrays: h5py.Group) -> None:
    arrays["x"] = np.dtype("f8")


def other_filter(file: h5py.File, arrays: h5py.Group) -> None:
    arrays.create_dataset("x", data=np.zeros(100), compression="lzf")


def checksum_filter(file: h5py.File, arrays: h5py.Group) -> None:
    arrays.create_dataset("x", data=np.zeros(100), chunks=(10,), fletcher32=True)


def arrays_is_data(file: h5py.File, arrays: h5py.Group) -> None:
    del file["arrays"]
    file["arrays"] = np.zeros(3)


def meta_is_group(file: h5py.File, arrays: h5py.Group) -> None:
    del file["meta"]
    file.create_group("meta")


def meta_is_floats(file: h5py.File, arrays: h5py.Group) -> None:
    del file["meta"]
    file["meta"] = np.zeros(3)


def no_meta(file: h5py.File, arrays: h5py.Group) -> None:
    del file["meta"]


def no_format(file: h5py.File, arrays: h5py.Group) -> None:
    del file.attrs["format"]


def other_format(file: h5py.File, arrays: h5py.Group) -> None:
    file.attrs["format"] = np.bytes_("something")


def format_as_number(file: h5py.File, arrays: h5py.Group) -> None:
    file.attrs["format"] = np.int64(3)


def format_as_variable_text(file: h5py.File, arrays: h5py.Group) -> None:
    file.attrs["format"] = "aevb-checkpoint"


def newer_version(file: h5py.File, arrays: h5py.Group) -> None:
    file.attrs["version"] = np.int64(99)


def version_as_array(file: h5py.File, arrays: h5py.Group) -> None:
    file.attrs["version"] = np.ones(3, np.int64)


def wrong_content(file: h5py.File, arrays: h5py.Group) -> None:
    arrays["x"] = np.zeros(3)


HOSTILE: list[tuple[Callable[[h5py.File, h5py.Group], None], str]] = [
    (soft_link, "soft or external link"),
    (external_link, "soft or external link"),
    (external_link_for_meta, "soft or external link"),
    (external_storage, "external storage"),
    (virtual, "virtual storage"),
    (huge_contiguous, "claimed size 8796093022208 bytes"),
    (huge_chunked, "claimed size 8796093022208 bytes"),
    (huge_compressed, "claimed size 2147483648 bytes"),
    (huge_by_wrap_around, "claimed size 18446744073709551616 bytes"),
    (huge_chunk, "in chunks of"),
    (many_names_for_one, "claimed size"),
    (many_items, "more than 4096 items"),
    (loop, "nests deeper"),
    (objects, "not a plain number"),
    (ragged, "not a plain number"),
    (references, "not a plain number"),
    (records, "not a plain number"),
    (truth, "not a plain number"),
    (no_extent, "without a plain shape"),
    (named_type, "neither a group nor a data set"),
    (other_filter, "unknown filter"),
    (checksum_filter, "unknown filter"),
    (arrays_is_data, "not a group"),
    (meta_is_group, "not a data set"),
    (meta_is_floats, "not JSON text"),
    (no_meta, "has no item 'meta'"),
    (no_format, "no attribute 'format'"),
    (other_format, "has the format 'something'"),
    (format_as_number, "not plain text"),
    (format_as_variable_text, "not plain text"),
    (newer_version, "version 99"),
    (version_as_array, "not one integer"),
    (wrong_content, "own hash differ"),
]


@pytest.mark.parametrize(("build", "reason"), HOSTILE, ids=[build.__name__ for build, _ in HOSTILE])
@pytest.mark.parametrize("libver", [None, "latest"])
def test_hostile_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Any, reason: str, libver: str | None
) -> None:
    monkeypatch.chdir(tmp_path)  # so that the names of other files in it would be found
    (tmp_path / "secret.txt").write_text("a secret of mine")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.arange(10.0)
    with pytest.raises(FileFormatError, match=reason) as caught:
        ckpt.decode(hostile(build, libver), "foreign.h5")
    assert "\n" not in str(caught.value)
    assert "foreign.h5" in str(caught.value)


@pytest.mark.parametrize("build", [external_storage, huge_contiguous, many_items])
def test_hostile_file_is_refused_by_the_child_with_its_reason(tmp_path: Path, build: Any) -> None:
    (tmp_path / "foreign.h5").write_bytes(hostile(build))
    reason = dict(HOSTILE)[build]
    with pytest.raises(FileFormatError, match=reason):
        ckpt.read(tmp_path / "foreign.h5", require_hash=False)


def test_compressed_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def bomb(file: h5py.File, arrays: h5py.Group) -> None:
        arrays.create_dataset("x", data=np.zeros(1 << 20), chunks=(1 << 18,), compression="gzip")
        arrays.create_dataset("y", data=np.zeros(1 << 20), chunks=(1 << 18,), compression="gzip")

    monkeypatch.setattr(plain_hdf5, "MAX_INFLATED_BYTES", 10 << 20)
    with pytest.raises(FileFormatError, match="claimed size 8388608 bytes"):
        ckpt.decode(hostile(bomb), "foreign.h5")


def test_gzip_and_shuffle_are_read() -> None:
    original = ckpt.encode(SAMPLE)
    buffer = io.BytesIO()
    with h5py.File(io.BytesIO(original), "r") as source, h5py.File(buffer, "w") as copy:
        for key, value in source.attrs.items():
            copy.attrs[key] = value
        copy["meta"] = source["meta"][()]
        for name, array in SAMPLE.arrays.items():
            copy.create_dataset(f"arrays/{name}", data=array, chunks=True, compression="gzip", shuffle=True)
    found = ckpt.decode(buffer.getvalue(), "repacked.h5")
    assert np.array_equal(found.arrays["theta"], SAMPLE.arrays["theta"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": NaN}', "constant NaN"),
        (b'{"a": 1, "a": 2}', "repeated key"),
        (b"[1]", "not a JSON object"),
        (b"{", "not strict JSON"),
        (b'{"a": "\xff"}', "not strict JSON"),
        (b'{"a": ' + b"[" * 200_000, "not strict JSON"),
        (b'{"a": 1' + b"0" * 10_000 + b"}", "not strict JSON"),
    ],
)
def test_meta_is_parsed_strictly(monkeypatch: pytest.MonkeyPatch, text: bytes, reason: str) -> None:
    monkeypatch.setattr(ckpt, "_meta_bytes", lambda _: text)
    with pytest.raises(FileFormatError, match=reason):
        ckpt.decode(ckpt.encode(SAMPLE), "foreign.h5")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(2000)])
def test_what_is_not_hdf5_is_refused(data: bytes) -> None:
    with pytest.raises(FileFormatError, match=r"not an HDF5 file|is damaged"):
        ckpt.decode(data, "foreign.h5")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(FileFormatError, match="not a regular file"):
        ckpt.read(tmp_path / "pipe.h5", require_hash=False)
