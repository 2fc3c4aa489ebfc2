"""What an option's annotation asks for, of a text and of a value; and what a plugin's parameters are read as."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Optional

import numpy as np
import pytest

from aevb_engine import registry
from aevb_engine.convert import convert, plain
from aevb_engine.errors import UsageError

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


Width = NewType("Width", int)
HOME = Path.home()


@pytest.mark.parametrize(
    ("annotation", "given", "wanted"),
    [
        (Path, "a/b", Path("a/b")),
        (Path, "~/x", HOME / "x"),
        (Path, Path("a"), Path("a")),
        (Path | None, "none", None),
        (list[int], "3,4", [3, 4]),
        (list[int], "3", [3]),
        (list[int], "", []),
        (list[int], [3, 4.0], [3, 4]),
        (list[int], 3, [3]),
        (Sequence[float], "0.5, 1", [0.5, 1.0]),
        (tuple[int, float], "1,2", (1, 2.0)),
        (tuple[str, ...], "a,b,c", ("a", "b", "c")),
        (tuple, [1, 2], (1, 2)),
        (set[int], "1,1", {1}),
        (Mapping[str, int], {"a": 1.0}, {"a": 1}),
        (float | Literal["auto"], "auto", "auto"),
        (float | Literal["auto"], "0.5", 0.5),
        (Literal["auto"] | float, 2, 2.0),
        (int | str, "7", 7),
        (str | int, "7", 7),
        (str | int, "seven", "seven"),
        (bool | int, "true", True),
        (int | bool, True, True),
        (float | int, "3", 3),
        (Optional[int], "none", None),  # noqa: UP045
        (Literal["none", "all"] | None, "none", "none"),
        (Literal[1, 2], "2", 2),
        (Literal[True, "x"], "true", True),
        (Colour, "red", Colour.RED),
        (Colour, "b", Colour.BLUE),
        (Colour, Colour.RED, Colour.RED),
        (Colour | None, "none", None),
        (Annotated[int, "a width"], "3", 3),
        (Width, "3", 3),
        (Decimal, "0.1", Decimal("0.1")),
        (np.float32, "0.5", np.float32(0.5)),
        (Any, "x", "x"),
        (object, 3, 3),
        (int, np.int64(3), 3),
        (Callable[[], int], len, len),
    ],
)
def test_what_is_asked_for(annotation: Any, given: Any, wanted: Any) -> None:
    found = convert("kind.key", given, annotation)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("annotation", "given", "words"),
    [
        (int, "3.5", "a value of type int is needed"),
        (int, True, "a value of type int is needed"),
        (float, "nan", "a value of type float is needed"),
        (float | Literal["auto"], "fast", "a value of type float or 'auto' is needed"),
        (Literal["alpha", "beta"] | None, "alfa", "did you mean 'alpha'"),
        (Colour, "green", "known: BLUE, RED"),
        (tuple[int, int], "1", r"a value of type tuple\[int, int\] is needed"),
        (list[int], "1,x", r"a value of type list\[int\] is needed"),
        (Path, "", "a value of type Path is needed"),
        (Path, 3, "a value of type Path is needed"),
        (Callable[[], int], "len", "Callable"),
        (Decimal, "much", "a value of type Decimal is needed"),
        (Mapping[str, int], "a=1", "Mapping"),
    ],
)
def test_what_is_refused(annotation: Any, given: Any, words: str) -> None:
    with pytest.raises(UsageError, match=f"^kind.key={given}: .*{words}"):
        convert("kind.key", given, annotation)


def factory(
    *,
    unknown: Unknown = 3,
    nothing: Unknown | None = None,
    usual: Path = Path(),
    free=0.5,  # type: ignore[no-untyped-def]
    several=(1, 2),
    words=["a"],  # noqa: B006
    unfree=None,
) -> None: ...


def read(function: Any, **given: str) -> dict[str, Any]:
    known = registry.options(function)
    return {name: convert(name, text, known[name].annotation) for name, text in given.items()}


def test_annotations_that_name_nothing_or_are_not_there() -> None:
    found = read(factory, unknown="7", nothing="x", usual="p", free="2", several="3,4", words="b,c", unfree="1")
    assert found == {
        "unknown": 7, "nothing": "x", "usual": Path("p"), "free": 2.0, "several": (3, 4), "words": ["b", "c"],
        "unfree": "1",
    }  # fmt: skip


@dataclass
class Options:
    rate: float = 0.5
    where: Path | None = None


class Parent:
    def __new__(cls, *, width: Width = Width(3)) -> Parent:
        return super().__new__(cls)


class Child(Parent): ...


class Called:
    def __call__(self, *, width: int = 3) -> None: ...


def test_whatever_the_factory_is() -> None:
    assert read(Options, rate="1", where="p") == {"rate": 1.0, "where": Path("p")}
    assert read(Child, width="4") == {"width": 4}
    assert read(Called(), width="4") == {"width": 4}
    assert read(functools.partial(factory, free=1.5), unknown="4") == {"unknown": 4}
    assert registry.options(dict) == registry.options(object) == {}


def test_what_a_file_can_keep() -> None:
    given = {"p": Path("a"), "c": Colour.RED, "a": np.arange(2), "t": (1, np.float32(2)), "s": {2, 1}, "n": None}
    assert plain(given) == {"p": "a", "c": "RED", "a": [0, 1], "t": [1, 2.0], "s": [1, 2], "n": None}
