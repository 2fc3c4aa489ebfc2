"""Every test here runs twice: through the double of CuPy on any machine, and on a device where there is one."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from aevb_engine.errors import BackendError

DOUBLE = Path(__file__).parents[1] / "cuda_on_cpu" / "double"


def load_double() -> Any:
    """The double as a module called cupy, kept under a name of its own between tests."""
    kept = sys.modules.get("aevb_cupy_double")
    if kept is None:
        spec = importlib.util.spec_from_file_location("aevb_cupy_double", DOUBLE / "cupy" / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        kept = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kept)
        sys.modules["aevb_cupy_double"] = kept
    return kept


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The double in place of cupy."""
    module = load_double()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.fixture(params=["double", pytest.param("device", marks=pytest.mark.gpu)])
def gpu(request: pytest.FixtureRequest) -> str:
    """Which GPU the test runs on; a missing device is a skip, or a failure under AEVB_REQUIRE_GPU=1."""
    if request.param == "double":
        request.getfixturevalue("double")
    else:
        from aevb_engine.backend.cupy import open_cupy

        try:
            open_cupy()
        except BackendError as error:
            if os.environ.get("AEVB_REQUIRE_GPU") == "1":
                pytest.fail(f"AEVB_REQUIRE_GPU=1: {error}")
            pytest.skip(str(error))
    return str(request.param)
