"""Plugins are found without importlib.metadata, and found the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from aevb_engine import registry
from aevb_engine.errors import BackendError, UsageError


def distribution(root: Path, name: str, version: str, lines: str) -> None:
    info = root / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(lines)


@pytest.mark.parametrize("kind", registry.GROUPS)
def test_as_the_library_finds_them(kind: registry.Kind) -> None:
    points = {p.name: p.value for p in entry_points(group=registry.GROUPS[kind])}
    assert points
    for name, target in points.items():
        assert registry._target(kind, name) == target
    assert registry._target(kind, "nonsense") is None


def test_options_are_read_as_before() -> None:
    assert registry.options(registry.load("decoder", "bernoulli")) == {}
    assert "beta1" in registry.options(registry.load("optimizer", "adam"))
    assert set(registry.options(type("Child", (registry.load("optimizer", "adam"),), {}))) >= {"beta1", "form"}  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A folder at the front of the path."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.syspath_prepend(str(folder))
        return folder

    return make


def test_the_first_of_two_versions_counts(site: Callable[..., Path]) -> None:
    distribution(site("late"), "Third_Party", "1.0", "[aevb_engine.optimizers]\nodd = json:loads\n")
    distribution(site("early"), "third.party", "2.0", "[aevb_engine.optimizers]\nodd = json:dumps\n")
    assert registry._target("optimizer", "odd") == "json:dumps"
    assert [p.value for p in entry_points(group="aevb_engine.optimizers", name="odd")] == ["json:dumps"]


def test_two_plugins_of_one_name_are_refused(site: Callable[..., Path]) -> None:
    folder = site("two")
    distribution(folder, "one", "1", "[other]\nodd = json:load\n[aevb_engine.optimizers]\nodd = json:loads\n")
    distribution(folder, "two", "1", "[aevb_engine.optimizers]\n odd=json:dumps\n")
    assert registry._target("optimizer", "odd") is None
    with pytest.raises(BackendError, match="two optimizer plugins"):
        registry.load("optimizer", "odd")


def test_an_unknown_name() -> None:
    with pytest.raises(UsageError, match=r"unknown optimizer 'adm'.*adam"):
        registry.load("optimizer", "adm")


def test_a_broken_list_of_others(site: Callable[..., Path]) -> None:
    (site("broken") / "broken-1.dist-info").mkdir()
    (site("worse") / "worse-1.dist-info").mkdir()
    Path(sys.path[0], "worse-1.dist-info", "entry_points.txt").write_bytes(b"\xff\xfe[")
    assert registry.load("optimizer", "adam").__name__ == "Adam"


def test_nothing_slow_is_imported() -> None:
    code = (
        "import sys; from aevb_engine import registry; registry.create('optimizer', 'adam'); print(sorted(sys.modules))"
    )
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "'importlib.metadata'" not in modules
    assert "'aevb_plugins.optimizers.adam'" in modules


@pytest.mark.parametrize(
    "target", ["odd_plugin:Odd", "odd_plugin:Odd [more]", "odd_plugin : Odd", "odd_plugin:Odd.Inner [more, others]"]
)
def test_every_valid_entry_point(site: Callable[..., Path], target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = site("valid")
    distribution(folder, "odd", "1", f"[aevb_engine.optimizers]\nodd = {target}\n")
    (folder / "odd_plugin.py").write_text("class Odd:\n    class Inner: ...\n")
    monkeypatch.delitem(sys.modules, "odd_plugin", raising=False)
    (point,) = entry_points(group="aevb_engine.optimizers", name="odd")
    assert registry.load("optimizer", "odd") is point.load()
    assert "odd" in [p.name for p in registry.plugins("optimizer")]


@pytest.mark.parametrize("target", ["no module", "odd:", "a-b:c", ":x"])
def test_an_entry_point_that_says_nothing(site: Callable[..., Path], target: str) -> None:
    distribution(site("malformed"), "odd", "1", f"[aevb_engine.optimizers]\nodd = {target}\n")
    with pytest.raises(BackendError, match=r"optimizer plugin 'odd' .*cannot be imported"):
        registry.load("optimizer", "odd")


def test_what_is_left_out_and_what_is_of_no_use(site: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = site("asks")
    distribution(folder, "odd", "1", "[aevb_engine.optimizers]\nasks = odd_plugin:Asks\nplain = odd_plugin:Plain\n")
    (folder / "odd_plugin.py").write_text("class Asks:\n    def __init__(self, *, k: int): ...\nclass Plain: ...\n")
    monkeypatch.delitem(sys.modules, "odd_plugin", raising=False)
    with pytest.raises(UsageError, match=r"optimizer 'asks' needs the option k: -o optimizer\.k=VALUE") as caught:
        registry.create("optimizer", "asks")
    assert "optimizer_options={'k': ...}" in str(caught.value.python)
    assert type(registry.create("optimizer", "asks", {"k": "3"})).__name__ == "Asks"
    with pytest.raises(BackendError, match="makes a Plain, not a float"):  # the plugin's fault, not the user's
        registry.create("optimizer", "plain", base=float)
