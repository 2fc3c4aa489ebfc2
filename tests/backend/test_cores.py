"""How many cores a process may use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from aevb_engine.backend.cores import _granted, physical_cores
from aevb_engine.backend.numpy import NumpyBackend


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, sys.maxsize),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {}, sys.maxsize),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/the/path/on/the/host\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/../other\n", {"cpu.max": "400000 100000\n"}, 4),
        (
            "5:cpu,cpuacct:/box\n3:memory:/box\n",
            {"cpu/box/cpu.cfs_quota_us": "200000\n", "cpu/box/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        ("5:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, sys.maxsize),
        ("4:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, sys.maxsize),
        ("nonsense\n", {"cpu.max": "what\n"}, sys.maxsize),
    ],
)
def test_the_share_that_control_groups_grant(groups: str, files: dict[str, str], expected: int, tmp_path: Path) -> None:
    put(tmp_path / "groups", groups)
    for name, text in files.items():
        put(tmp_path / "root" / name, text)
    assert _granted(tmp_path / "root", tmp_path / "groups") == expected


def test_without_control_groups(tmp_path: Path) -> None:
    assert _granted(tmp_path, tmp_path / "none") == sys.maxsize


def test_the_grant_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aevb_engine.backend.cores._granted", lambda root, groups: 1)
    assert physical_cores() == 1
    assert NumpyBackend().threads == 1
