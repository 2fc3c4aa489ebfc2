"""The mend of an error names what was installed: a checkout, an archive, a repository or the index."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aevb_engine import install


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the distribution have this direct_url.json (None: it has none)."""

    def set_to(told: Any) -> None:
        text = told if told is None or isinstance(told, str) else json.dumps(told)
        found = SimpleNamespace(read_text=lambda name: text if name == "direct_url.json" else None)
        monkeypatch.setattr(install, "distribution", lambda name: found)

    return set_to


def test_from_the_index(installed: Any) -> None:
    for told in (None, "", "{", "[]", {"url": "https://example.org/a.whl"}):
        installed(told)
        assert install.command("gpu") == "python -m pip install 'aevb-engine[gpu]'"


@pytest.mark.parametrize(("editable", "flag"), [(True, ["-e"]), (False, [])])
def test_from_a_checkout(installed: Any, tmp_path: Path, editable: bool, flag: list[str]) -> None:
    place = tmp_path / "my work"
    place.mkdir()
    installed({"url": place.as_uri(), "dir_info": {"editable": editable}})
    assert shlex.split(install.command("jit")) == ["python", "-m", "pip", "install", *flag, f"{place}[jit]"]
    place.rmdir()
    assert install.command("jit").endswith("'aevb-engine[jit]'")  # of what has gone nothing can be installed


def test_from_a_repository(installed: Any) -> None:
    installed({"url": "https://example.org/a", "vcs_info": {"vcs": "git", "commit_id": "0"}})
    assert install.command("gpu") == "python -m pip install 'aevb-engine[gpu] @ git+https://example.org/a'"


def test_on_the_path_without_an_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(install, "distribution", missing)
    root = Path(__file__).parents[1]
    assert install.command("gpu") == f"python -m pip install -e {shlex.quote(f'{root}[gpu]')}"


def test_every_hint_is_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other module of engine or command line spells the command out."""
    from aevb_cli.doctor import _loops
    from aevb_engine.backend import cupy

    monkeypatch.setattr(install, "command", lambda extra: f"<{extra}>")
    assert cupy.mend().startswith("<gpu> (CUDA 13) or python -m pip install 'cupy-cuda12x")
    assert "<jit>" in _loops({"compiled loops": False, "numba": "not installed"})
    root = Path(__file__).parents[1]
    for folder in (root / "aevb_engine", root / "cli"):
        for path in folder.rglob("*.py"):
            assert "'aevb-engine[" not in path.read_text(encoding="utf-8"), path
