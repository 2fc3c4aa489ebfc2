"""What Python users read names arguments, never options of the command line."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.data.dataset import Dataset
from aevb_engine.errors import AevbError, DataError, UsageError
from aevb_engine.interface.words import in_python, spoken
from aevb_engine.model.likelihood import Support

ROOT = Path(__file__).parents[2]
# Commands of their own, which no public function of Python calls.
ELSEWHERE = {"vary.py", "study.py", "learners.py", "evaluate.py", "run.py", "replicas.py", "folder.py", "subject.py"}


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("--batch-size 300: must be at most 60", "batch_size=300: must be at most 60"),
        ("--lr -1e-3: a positive number is needed", "lr=-1e-3: a positive number is needed"),
        ("leave it out, or use --backend gpu", 'leave it out, or use backend="gpu"'),
        ("no CUDA device is visible; use --backend cpu", 'no CUDA device is visible; use backend="cpu"'),
        ("--graph: the CPU has one way", "graph=True: the CPU has one way"),
        ("leave out --graph to run eagerly", "leave out graph=True to run eagerly"),
        ("--graph and --trainer eager exclude each other", 'graph=True and trainer="eager" exclude each other'),
        ("--epochs and --steps exclude each other", "epochs and steps exclude each other"),
        ("give --epochs or --steps", "give epochs or steps"),
        ("--until-converged: no bound", "until_converged=True: no bound"),
        (
            "a file is missing and --offline forbids it; get x: y",
            "a file is missing and offline=True forbids it; get x: y",
        ),
        ("try a smaller --lr", "try a smaller lr"),
        ("--hidden 5,x: write widths", 'hidden="5,x": write widths'),
        ("--hidden 200,0: every width", "hidden=(200, 0): every width"),
        ("--lr-schedule step:0.5:x: wrong", 'lr_schedule="step:0.5:x": wrong'),
        ("rescale the data (--scale unit)", 'rescale the data (scale="unit")'),
        ("give a folder with --data-dir", "give a folder with data_dir"),
        ("two\n lines", "two lines"),
        ("a path /my--data/x and a -- dash", "a path /my--data/x and a -- dash"),
    ],
)
def test_translations(text: str, python: str) -> None:
    assert in_python(text) == python
    assert in_python(python) == python


def messages() -> Iterator[tuple[str, str]]:
    """(place, text) of every error and warning of engine and plugins that names an option; values are 7 or their own
    text's first word. An error's own text for Python takes the place of its message."""
    files = [*(ROOT / "aevb_engine").rglob("*.py"), *(ROOT / "plugins/aevb_plugins").rglob("*.py")]
    for path in files:
        if path.name in ELSEWHERE:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = {id(node) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        own = [k for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords if k.arg == "python"]
        replaced = {id(part) for n in ast.walk(tree) if _has_own(n) for a in n.args for part in ast.walk(a)}
        documentation = {id(n.value) for n in ast.walk(tree) if id(n) in skipped and isinstance(n, ast.Expr)}
        inner = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Constant, ast.JoinedStr)) or id(node) in documentation | replaced | inner:
                continue
            text = _text(node)
            if re.search(r"(?<![\w-])--[a-z]", text) and not text.startswith("--std"):  # an option of a compiler
                yield f"{path.name}:{node.lineno}", text
        for keyword in own:
            yield f"{path.name}:{keyword.value.lineno}", _text(keyword.value)


def _has_own(node: ast.AST) -> Any:
    return isinstance(node, ast.Call) and any(k.arg == "python" for k in node.keywords)


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(v) if isinstance(v, ast.Constant) else "7" for v in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else ""


FOUND = [*messages()]


def test_the_messages_are_found() -> None:
    assert len(FOUND) > 30
    assert any("batch" in text for _, text in FOUND)


@pytest.mark.parametrize(("place", "text"), FOUND, ids=[f"{p}-{i}" for i, (p, _) in enumerate(FOUND)])
def test_no_option_is_left(place: str, text: str) -> None:
    if place.startswith("likelihood.py") and text.startswith(": "):
        return  # of a table whose other column is for Python: below
    assert not re.search(r"(?<!\w)--\w", in_python(text))
    assert "aevb-engine resume" not in in_python(text)


@pytest.mark.parametrize(
    "support", [Support("binary", "mass"), Support("unit", "density"), Support("codes", "mass", 4)]
)
def test_values_outside_the_support(support: Support) -> None:
    with pytest.raises(DataError) as caught:
        support.check(np.array([[0.0, 7.5]]), "the data")
    assert caught.value.python is not None
    assert "--" not in caught.value.python


X = (np.random.default_rng(0).random((60, 20)) < 0.3).astype(np.uint8)
GREY = np.random.default_rng(0).integers(0, 256, (60, 20)).astype(np.uint8)


def made(**more: Any) -> aevb.VAE:
    return aevb.VAE(**{"hidden": 5, "batch_size": 20, "backend": "cpu", "threads": 1, "seed": 1, **more})


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: made(epochs=1, steps=1), "epochs and steps exclude each other; give one of them"),
        (lambda: made(seed=-1), "seed=-1: a number in 0 .. 2^64 - 1 is needed"),
        (lambda: made(lr_schedule="sine"), None),
        (lambda: made(validation=3), "validation=3.0: a fraction in [0, 1) is needed"),
        (lambda: made(latent_dim=0), "latent_dim=0: a positive number is needed"),
        (lambda: made(precision="tf32"), None),
        (lambda: made(decoder="nothing"), "unknown decoder 'nothing': known: bernoulli, gaussian"),
        (lambda: made().fit("faces"), 'faces is grey, this decoder needs 0 and 1; give decoder="gaussian"'),
        (lambda: made().fit("nothing"), None),
        (lambda: made().bound(X, objective="beta"), None),
        (lambda: aevb.load("nowhere.h5"), None),
        (lambda: aevb.dataset("glyphs", binarize="static"), None),
        (lambda: aevb.binarize(X, "dynamic"), None),
    ],
)
def test_what_users_read(act: Any, text: str | None) -> None:
    with pytest.raises(AevbError) as caught:
        act().fit(X, steps=1)
    found = str(caught.value)
    assert "--" not in found
    assert "\n" not in found
    if text is not None and "faces" not in text:
        assert found == text
    if text is not None and "faces" in text:
        assert found.endswith('give decoder="gaussian"')


def test_the_mend_for_grey_rows_works() -> None:
    with pytest.raises(DataError, match=r'0 and 1 only: aevb\.binarize\(x, "threshold"\) makes them so'):
        made().fit(GREY)
    made().fit(aevb.binarize(GREY, "threshold"), steps=1)


def test_errors_keep_their_kind_and_place() -> None:
    @spoken
    def fail() -> None:
        """Doc."""
        raise UsageError("--lr 3: no", python="lr: use --less")

    with pytest.raises(UsageError, match=r"^lr: use less$") as caught:
        fail()
    assert caught.value.exit_code == 2
    assert fail.__doc__ == "Doc."
    assert str(UsageError("--lr 3: no", python="x")) == "--lr 3: no"  # for the command line


def test_signatures_stay() -> None:
    assert "until_converged" in inspect.signature(aevb.VAE.fit).parameters
    assert list(inspect.signature(aevb.VAE).parameters)[:3] == ["decoder", "hidden", "latent_dim"]


def test_warnings_speak_of_python_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aevb_engine.training.trainer.Trainer.warnings", ["cannot; use --trainer eager"])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        made().fit(X, steps=1)
    (one,) = found
    assert str(one.message) == 'cannot; use trainer="eager"'
    assert one.filename == __file__


def test_a_data_set_without_a_test_part_is_no_data_for_a_run() -> None:
    data = Dataset("own", X)
    assert data.test is None
    with pytest.raises(DataError, match="'own' has no test rows; a run needs some"):
        _ = data.test_rows
