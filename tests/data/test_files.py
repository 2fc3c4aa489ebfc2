"""Finding or downloading verified files: hashes, places, mirrors, atomic storage, races."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aevb_engine.data.dataset import DataRequest
from aevb_engine.data.files import RemoteFile, cache_folder, content, search_folders, store
from aevb_engine.data.gunzip import gunzip
from aevb_engine.errors import DataError, StorageError
from tests.patience import patience

PLAIN = b"the content of the file " * 100
PACKED = gzip.compress(PLAIN)


def unpack(data: bytes) -> bytes:
    return gunzip(data, len(PLAIN)) if data[:2] == b"\x1f\x8b" else data


def remote(*urls: str) -> RemoteFile:
    return RemoteFile(
        folder="things",
        names=("thing.gz", "thing"),
        urls=urls or ("https://example.org/thing.gz", "https://example.com/thing.gz"),
        sha256=hashlib.sha256(PLAIN).hexdigest(),
        size=len(PLAIN),
        decode=unpack,
    )


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def refuse(url: str, timeout: float) -> Any:
    raise AssertionError(f"{url} must not be opened")


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", ["things/thing.gz", "thing.gz", "things/thing", "thing"])
def test_found_in_the_folder_or_its_subfolder(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name, PACKED if name.endswith(".gz") else PLAIN)
    found = content(remote(), DataRequest(data_dir=tmp_path, offline=True), refuse)
    assert found.data == PLAIN
    assert found.path == path


def test_places_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEVB_DATA_DIR", str(tmp_path / "env"))
    for name in ("env", "given"):
        (tmp_path / name).mkdir()
    cached = put(cache_folder() / "things" / "thing", PLAIN)
    assert content(remote(), DataRequest(data_dir=tmp_path / "given"), refuse).path == cached
    in_env = put(tmp_path / "env" / "thing", PLAIN)
    assert content(remote(), DataRequest(data_dir=tmp_path / "given"), refuse).path == in_env
    given = put(tmp_path / "given" / "thing", PLAIN)
    assert content(remote(), DataRequest(data_dir=tmp_path / "given"), refuse).path == given
    assert content(remote(), DataRequest(), refuse).path == in_env


@pytest.mark.parametrize("sub", ["Things/raw", "raw"])
def test_found_where_another_program_keeps_it(tmp_path: Path, sub: str) -> None:
    path = put(tmp_path / sub / "thing", PLAIN)
    file = replace(remote(), others=("Things/raw", "raw"))
    assert content(file, DataRequest(data_dir=tmp_path, offline=True), refuse).path == path
    put(tmp_path / "thing", PLAIN)
    assert content(file, DataRequest(data_dir=tmp_path, offline=True), refuse).path == tmp_path / "thing"


def test_a_folder_that_is_asked_for_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the file is in a folder further down the list."""
    put(cache_folder() / "things" / "thing", PLAIN)
    gone = tmp_path / "gone"
    with pytest.raises(DataError) as caught:
        content(remote(), DataRequest(data_dir=gone), refuse)
    assert str(caught.value) == f"--data-dir: there is no folder {gone}; create it, or give another one with --data-dir"
    with pytest.raises(DataError, match=f"^data_dir: there is no folder {gone}; .* with data_dir$"):
        content(remote(), DataRequest(data_dir=gone, asked="data_dir"), refuse)
    monkeypatch.setenv("AEVB_DATA_DIR", str(gone))
    for data_dir in (None, gone):  # the command line gives the variable's folder itself
        with pytest.raises(DataError, match=f"^AEVB_DATA_DIR: there is no folder {gone}; create it"):
            content(remote(), DataRequest(data_dir=data_dir), refuse)
    (tmp_path / "given").mkdir()
    assert content(remote(), DataRequest(data_dir=tmp_path / "given"), refuse).data == PLAIN  # counts more
    gone.mkdir()
    assert content(remote(), DataRequest(), refuse).data == PLAIN


def test_cache_folder_of_each_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("linux", {"XDG_CACHE_HOME": "/x"}) == Path("/x/aevb-engine")
    assert cache_folder("linux", {"XDG_CACHE_HOME": "relative"}) == tmp_path / ".cache" / "aevb-engine"
    assert cache_folder("linux", {}) == tmp_path / ".cache" / "aevb-engine"
    assert cache_folder("darwin", {"XDG_CACHE_HOME": "/x"}) == tmp_path / "Library" / "Caches" / "aevb-engine"
    assert cache_folder("win32", {"LOCALAPPDATA": "/l"}) == Path("/l/aevb-engine/Cache")


def test_without_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*args: object) -> Path:
        raise RuntimeError

    monkeypatch.setattr("aevb_engine.data.files.cache_folder", nowhere)
    with pytest.raises(DataError, match="give a folder with --data-dir"):
        search_folders(None)
    assert [f.path for f in search_folders(tmp_path)] == [tmp_path]


def test_data_dir_that_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder; give one with --data-dir"):
        content(remote(), DataRequest(data_dir=put(tmp_path / "file", b"")), refuse)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"other", "its content has sha256 [0-9a-f]{12}..., expected [0-9a-f]{12}..."),
        (PACKED[:-9], "gzip file cut short"),
        (b"\x1f\x8b" + b"\0" * 50, "damaged gzip file"),
        (gzip.compress(b"\0" * 10**7), "unpacks to more than 2400 bytes"),
        (b"x" * 200_000, "larger than the 67936 bytes"),
    ],
)
def test_wrong_file_of_the_user_is_named_and_kept(tmp_path: Path, data: bytes, why: str) -> None:
    path = put(tmp_path / "thing", data)
    with pytest.raises(DataError, match=f"{why}.*; replace or remove this file") as caught:
        content(remote(), DataRequest(data_dir=tmp_path), refuse)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == data
    assert caught.value.exit_code == 3


def test_damaged_file_in_the_cache_is_replaced(server: Any) -> None:
    path = put(cache_folder() / "things" / "thing.gz", b"damaged")
    with pytest.raises(DataError, match="the file there is damaged"):
        content(remote(), DataRequest(offline=True), refuse)
    assert path.read_bytes() == b"damaged"
    found = content(remote(server.serve("thing.gz", PACKED)), DataRequest(), server.opener)
    assert (found.data, found.path) == (PLAIN, path)
    assert path.read_bytes() == PACKED


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "thing", PLAIN)

    def refuse_open(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse_open)
    with pytest.raises(DataError, match="cannot be read: Permission denied; make it readable") as caught:
        content(remote(), DataRequest(data_dir=tmp_path), refuse)
    assert str(path) in str(caught.value)


def test_offline_says_where_to_put_what(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        content(remote(), DataRequest(data_dir=tmp_path, offline=True), refuse)
    text = str(caught.value)
    assert "--offline" in text
    assert f"is missing in {tmp_path}, {cache_folder()}, and" in text
    assert f"put the file from https://example.org/thing.gz at {tmp_path / 'things' / 'thing.gz'}" in text
    assert "\n" not in text
    assert everything(tmp_path) == []


def test_downloaded_once(tmp_path: Path, server: Any) -> None:
    calls: list[Any] = []
    file = remote(server.serve("thing.gz", PACKED))
    request = DataRequest(data_dir=tmp_path, progress=lambda *call: calls.append(call))
    assert content(file, request, server.opener).data == PLAIN
    assert everything(tmp_path) == ["things/thing.gz"]
    assert calls[-1] == ("downloading thing.gz", len(PACKED), len(PACKED))
    assert content(file, request, refuse).data == PLAIN


def test_download_goes_to_the_environment_folder_or_the_cache(
    tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = remote(server.serve("thing.gz", PACKED))
    assert content(file, DataRequest(), server.opener).path == cache_folder() / "things" / "thing.gz"
    (cache_folder() / "things" / "thing.gz").unlink()
    monkeypatch.setenv("AEVB_DATA_DIR", str(tmp_path / "env"))
    (tmp_path / "env").mkdir()
    assert content(file, DataRequest(), server.opener).path == tmp_path / "env" / "things" / "thing.gz"


@pytest.mark.parametrize("first", ["absent", "wrong", "bomb", "cut"])
def test_second_mirror_helps(tmp_path: Path, server: Any, first: str) -> None:
    bodies = {"wrong": b"other", "bomb": gzip.compress(b"\0" * 10**7), "cut": PACKED[:-20]}
    urls = [server.base + "absent"] if first == "absent" else [server.serve("first", bodies[first])]
    file = remote(*urls, server.serve("second", PACKED))
    assert content(file, DataRequest(data_dir=tmp_path), server.opener).data == PLAIN
    assert len(server.asked) == 2
    assert (tmp_path / "things" / "thing.gz").read_bytes() == PACKED


def test_first_mirror_suffices(tmp_path: Path, server: Any) -> None:
    file = remote(server.serve("first", PACKED), server.serve("second", PACKED))
    content(file, DataRequest(data_dir=tmp_path), server.opener)
    assert server.asked == ["/first"]


def test_failed_download_gives_each_cause_and_keeps_nothing(tmp_path: Path, server: Any) -> None:
    file = remote(server.base + "absent", server.serve("wrong", b"other"))
    with pytest.raises(DataError) as caught:
        content(file, DataRequest(data_dir=tmp_path), server.opener)
    text = str(caught.value)
    assert "HTTP status 404" in text
    assert "its content has sha256" in text
    assert f"at {tmp_path / 'things' / 'thing.gz'}" in text
    assert "\n" not in text
    assert everything(tmp_path) == []


def test_http_mirror_is_refused_by_default(tmp_path: Path, server: Any) -> None:
    with pytest.raises(DataError, match="only https is accepted"):
        content(remote(server.serve("thing.gz", PACKED)), DataRequest(data_dir=tmp_path))
    assert server.asked == []


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_store_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    old = put(tmp_path / "thing", b"old")

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(call, fail)
    wanted = StorageError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(wanted) as caught:
        store(old, b"new")
    if isinstance(caught.value, StorageError):
        assert "No space left on device" in str(caught.value)
        assert caught.value.exit_code == 74
    monkeypatch.undo()
    assert everything(tmp_path) == ["thing"]
    assert old.read_bytes() == b"old"


def test_disk_full_is_no_fault_of_the_mirror(tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    file = remote(server.serve("first", PACKED), server.serve("second", PACKED))
    with pytest.raises(StorageError, match="free space"):
        content(file, DataRequest(data_dir=tmp_path), server.opener)
    assert server.asked == ["/first"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    put(tmp_path / "things", b"a file where the folder should be")
    with pytest.raises(StorageError, match="cannot be written"):
        store(tmp_path / "things" / "thing", b"new")


def test_bytes_are_on_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr("os.fsync", lambda handle: (order.append("fsync"), sync(handle))[1])
    monkeypatch.setattr("pathlib.Path.replace", lambda a, b: (order.append("replace"), replace(a, b))[1])
    store(tmp_path / "thing", b"new")
    assert order[:2] == ["fsync", "replace"]


def test_leftover_of_a_crash_is_harmless(tmp_path: Path, server: Any) -> None:
    put(tmp_path / "things" / ".thing.gz.0123456789abcdef.part", b"half")
    file = remote(server.serve("thing.gz", PACKED))
    assert content(file, DataRequest(data_dir=tmp_path), server.opener).data == PLAIN
    assert content(file, DataRequest(data_dir=tmp_path), refuse).data == PLAIN


def test_two_downloads_at_once(tmp_path: Path, server: Any) -> None:
    both = threading.Barrier(2, timeout=patience())

    def answer(handler: Any) -> None:
        both.wait()  # neither is answered before both have asked
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(PACKED)))
        handler.end_headers()
        handler.wfile.write(PACKED)

    file = remote(server.script("thing.gz", answer))
    results: list[bytes] = []
    one = partial(content, file, DataRequest(data_dir=tmp_path), server.opener)
    threads = [threading.Thread(target=lambda: results.append(one().data)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [PLAIN, PLAIN]
    assert everything(tmp_path) == ["things/thing.gz"]
    assert (tmp_path / "things" / "thing.gz").read_bytes() == PACKED
