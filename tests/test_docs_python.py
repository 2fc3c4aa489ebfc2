"""The examples of docs/python.md run, one after the other, and print what the page says.

``python tests/test_docs_python.py`` writes what they print into the page.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
EXAMPLE = re.compile(r"```python\n(.*?)```\n```text\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
TOLERANCE = 0.01  # of numbers with a point: another machine rounds otherwise


def agree(printed: str, told: str) -> bool:
    """Words and whole numbers are the same, others nearly."""
    if NUMBER.sub("#", printed).split() != NUMBER.sub("#", told).split():
        return False
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(told), strict=True)
    return all(a == b or ("." in b and abs(float(a) - float(b)) <= TOLERANCE * abs(float(b)) + 0.06) for a, b in pairs)


def run(code: str, names: dict[str, object]) -> str:
    """What an example prints, in the names of those before."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, names)
    return out.getvalue()


def test_every_example_is_followed_by_what_it_prints() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(EXAMPLE.findall(text)) == text.count("```python") > 8


def test_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code, told in EXAMPLE.findall(PAGE.read_text(encoding="utf-8")):
        printed = run(code, names)
        assert agree(printed, told), f"{code}\nprints\n{printed}"


@pytest.mark.parametrize(
    ("printed", "told", "same"),
    [
        ("bound -100.4 at 20", "bound -100.1 at 20", True),
        ("bound -100.4 at 20", "bound -120.1 at 20", False),
        ("bound -100.4 at 21", "bound -100.4 at 20", False),
        ("word 1", "other 1", False),
    ],
)
def test_the_comparison(printed: str, told: str, same: bool) -> None:
    assert agree(printed, told) is same


if __name__ == "__main__":
    known: dict[str, object] = {}
    text = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        text = EXAMPLE.sub(lambda m: f"```python\n{m[1]}```\n```text\n{run(m[1], known)}```", text)
    PAGE.write_text(text, encoding="utf-8")
