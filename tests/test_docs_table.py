"""docs/table.ipynb and docs/table.md do what they show: a table of one's own, in a notebook and on the command line."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb_engine import registry
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.run import start

DOCS = Path(__file__).parents[1] / "docs"
CELLS = [c for c in json.loads((DOCS / "table.ipynb").read_text())["cells"] if c["cell_type"] == "code"]
PAGE = (DOCS / "table.md").read_text()


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that its cells leave, run in a folder of their own without a screen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in CELLS:
            exec("".join(cell["source"]).replace("plt.show()", "plt.close()"), names)
    return names


def test_the_notebook(notebook: dict[str, Any]) -> None:
    """Draws have the table's means and spreads, the wrong row is the least probable, the kinds lie apart."""
    rows, draws = notebook["rows"], notebook["draws"]
    np.testing.assert_allclose((draws.mean(axis=0) - rows.mean(axis=0)) / rows.std(axis=0), 0, atol=0.2)
    np.testing.assert_allclose(draws.std(axis=0) / rows.std(axis=0), 1, atol=0.25)
    assert notebook["score"].argmin() == 700
    z, kind = notebook["z"], notebook["kind"]
    middles = np.stack([z[kind == k].mean(axis=0) for k in range(3)])
    near = ((z[:, None] - middles) ** 2).sum(axis=-1).argmin(axis=1)
    assert (near == kind).mean() > 0.95
    assert Path("measurements.h5").exists()


def test_every_cell_was_run_without_an_error() -> None:
    assert [c["execution_count"] for c in CELLS] == list(range(1, len(CELLS) + 1))
    assert all(o["output_type"] in ("stream", "display_data") for c in CELLS for o in c["outputs"])
    assert not any("/" in "".join(o.get("text", "")) for c in CELLS for o in c["outputs"])  # no path of a machine


def test_the_page(notebook: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The two files make a data set that runs, in units of its own."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    module = types.ModuleType("my_table")
    exec(code, vars(module))
    monkeypatch.setitem(sys.modules, "my_table", module)
    assert 'measurements = "my_table:Measurements"' in PAGE
    real = registry.create

    def create(kind: Any, name: str, *given: Any) -> Any:
        return module.Measurements() if (kind, name) == ("dataset", "measurements") else real(kind, name, *given)

    monkeypatch.setattr(registry, "create", create)
    _, session, result = start(RunConfig("measurements", threads=1), Path("run"))
    assert "spreads 0.0878 to 621: standardized" in session.notes[0]
    assert session.notes[0] in PAGE
    assert result["steps"] == 2000
    told = re.search(r"test (-\d+\.\d+) \+- ", PAGE)
    assert told is not None
    assert result["test_bound"] == pytest.approx(float(told[1]), abs=0.1)
    assert result["test_bound"] > result["ppca"] > result["independent_columns"]
