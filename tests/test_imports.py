"""Imports point downward only, and starting the command line loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"aevb_engine": ROOT, "aevb_cli": ROOT / "cli", "aevb_plugins": ROOT / "plugins"}
# Bottom to top: a module imports its own layer and those before it.
LAYERS = [
    "errors",
    "install",
    "registry",
    "jit",
    "kernel",
    "kernels",
    "memory",
    "operation",
    "rewrite",
    "compiled",
    "cuda",
    "backend",
    "data",
    "model",
    "sampling",
    "objectives",
    "training",
    "evaluation",
    "testing",
    "experiment",
    "interface",
    "vae",
    "bench",
    "__init__",
    "__main__",
]


def imported(source: str, known: set[str]) -> Iterator[str]:
    """Modules that a source names in any import, also inside functions; ``from package import module`` included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inner if name in known]
            yield from modules
            if len(modules) < len(inner):
                yield node.module


def sources(package: str) -> dict[str, str]:
    """Every module of a package with its text."""
    base = PACKAGES[package]
    return {
        ".".join(path.relative_to(base).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in sorted((base / package).rglob("*.py"))
    }


KNOWN = {name.removesuffix(".__init__") for package in PACKAGES for name in sources(package)}


def layer(module: str) -> int:
    parts = module.split(".")
    return LAYERS.index(parts[1] if len(parts) > 1 else "__init__")


def upward(module: str, source: str) -> list[str]:
    """Imports of one engine module that point up."""
    own = [m for m in imported(source, KNOWN) if m.split(".")[0] == "aevb_engine"]
    # The package itself holds the version and nothing else that is not lazy.
    return [f"{module} imports {m}" for m in own if m != "aevb_engine" and layer(m) > layer(module)]


def strangers(module: str, source: str) -> list[str]:
    """Imports of another package, or of cupy, where they may not be."""
    package = module.split(".")[0]
    allowed = {
        "aevb_engine": {"aevb_engine"},
        "aevb_cli": {"aevb_engine", "aevb_cli"},
        "aevb_plugins": {"aevb_engine", "aevb_plugins"},
    }[package]
    if module == "aevb_engine.__main__":
        allowed = allowed | {"aevb_cli"}
    tops = {m.split(".")[0] for m in imported(source, KNOWN)}
    bad = {t for t in tops if t in PACKAGES and t not in allowed}
    if module != "aevb_engine.backend.cupy":
        bad |= tops & {"cupy", "cupyx"}
    return [f"{module} imports {t}" for t in sorted(bad)]


def test_the_engine_imports_downward_only() -> None:
    assert not [p for module, source in sources("aevb_engine").items() for p in upward(module, source)]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_keep_apart(package: str) -> None:
    """The engine knows no plugin, the command line no plugin package, and one module alone imports cupy."""
    found = sources(package)
    assert len(found) > 5
    assert not [p for module, source in found.items() for p in strangers(module, source)]


def test_every_part_of_the_engine_has_a_layer() -> None:
    assert {m.split(".")[1] for m in sources("aevb_engine")} <= set(LAYERS)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("aevb_engine.kernels.kl", "from aevb_engine.model.mlp import Mlp"),
        ("aevb_engine.kernels.kl", "def f():\n    import aevb_engine.training.step"),
        ("aevb_engine.errors", "from aevb_engine import registry"),
        ("aevb_engine.model.model", "if TYPE_CHECKING:\n    from aevb_engine.vae import VAE"),
    ],
)
def test_an_upward_import_is_seen(module: str, source: str) -> None:
    assert upward(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("aevb_engine.registry", "from aevb_plugins.decoders import bernoulli"),
        ("aevb_engine.vae", "import aevb_cli.main"),
        ("aevb_cli.run", "import aevb_plugins.optimizers.adam as adam"),
        ("aevb_plugins.decoders.gaussian", "from aevb_cli import main"),
        ("aevb_engine.backend.numpy", "import cupy as cp"),
        ("aevb_cli.doctor", "def f():\n    from cupy.cuda import runtime"),
    ],
)
def test_a_stranger_is_seen(module: str, source: str) -> None:
    assert strangers(module, source)


@pytest.mark.parametrize("module", ["aevb_cli.main", "aevb_engine"])
def test_starting_loads_nothing_heavy(module: str) -> None:
    """`--help` is instant: no array library of a GPU, no HDF5, no figures."""
    script = f"import sys, {module}; print(*sorted({{'cupy', 'h5py', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
