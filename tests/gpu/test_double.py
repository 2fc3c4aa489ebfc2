"""The double of CuPy against CuPy itself, where that is installed: importing it needs no device."""

from __future__ import annotations

import importlib
import inspect
import types
from typing import Any

import pytest

from .conftest import load_double

# What tests look at, and what is behind ``cuda``.
OWN = {"counts", "CUDARuntimeError", "FAILURE", "MULTIPROCESSORS", "OCCUPANCY", "runtime", "driver"}


@pytest.fixture
def real(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path_factory.mktemp("cupy")))
    try:
        return importlib.import_module("cupy")
    except ImportError:
        pytest.skip("CuPy is not installed")


def test_it_offers_nothing_that_cupy_lacks(real: Any) -> None:
    """Names, and of functions the parameters: what the double takes, CuPy must take."""
    double = load_double()
    foreign = {"Path", "annotations", "Any", "ClassVar", *OWN}
    names = {n: v for n, v in vars(double).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)}
    assert len(names.keys() - foreign) > 15
    for name in names.keys() - foreign:
        ours, theirs = names[name], getattr(real, name)
        if isinstance(ours, types.FunctionType):
            try:
                known = inspect.signature(theirs).parameters
            except (TypeError, ValueError):  # a function of C
                continue
            free = any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in known.values())
            given = [p for p in inspect.signature(ours).parameters if p not in known]
            assert free or not given, (name, given, list(known))


@pytest.mark.parametrize("name", ["runtime", "driver", "Stream", "Device", "get_current_stream"])
def test_its_cuda_namespace_is_cupys(name: str, real: Any) -> None:
    ours, theirs = getattr(load_double().cuda, name), getattr(real.cuda, name)
    wanted = [n for n in vars(ours) if not n.startswith("_")] if isinstance(ours, types.SimpleNamespace | type) else []
    for attribute in wanted:
        assert hasattr(theirs, attribute), (name, attribute)
    if name == "Stream":
        assert {"use", "synchronize", "record", "wait_event", "begin_capture", "end_capture"} <= set(wanted)
