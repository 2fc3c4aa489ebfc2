"""Numbers, sentences and tables as people read them, in lines that fit the terminal."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

import click

from aevb_engine.errors import printable, shortened

BARS = "▁▂▃▄▅▆▇█"
LEAST = 16  # columns that a value needs beside its name, else it stands below
NAME = re.compile(r" *\S.{,30}?  +(?=\S)")  # the name in a line of ``pairs``, with the gap after it

# A sign with its number, and the sides of an assignment, which stay together.
SIGN = re.compile(r"(?<![^ ])(\+-|-|=|\w =) (?=\S)")


def columns(stream: TextIO | None = None) -> int | None:
    """Columns of the terminal behind stdout (or another stream); None where none is, as a program may read it then.

    The variable COLUMNS replaces what the terminal says, and for stdout stands for a terminal.
    """
    target = stream or sys.stdout
    try:
        terminal = target.isatty()
        told = os.environ.get("COLUMNS", "")
        if told.isascii() and told.isdigit() and int(told) > 0 and (terminal or stream is None):
            return min(int(told), 1 << 16)
        return (os.get_terminal_size(target.fileno()).columns or None) if terminal else None
    except (AttributeError, OSError, ValueError):  # closed, or no file of the system's
        return None


def say(text: str) -> None:
    """Text on stdout, wrapped to the terminal; of control characters only the ends of its lines reach it."""
    click.echo(wrap("\n".join(printable(line) for line in text.split("\n")), columns()))


def wrap(text: str, width: int | None) -> str:
    """Lines longer than the width broken at words; what goes on stands below its beginning, or below the value of a
    line of ``pairs``. A word that is longer, such as a path, is left whole."""
    if width is None:
        return text
    return "\n".join(part for line in text.split("\n") for part in _broken(line, width))


def prose(text: str) -> str:
    """Paragraphs of a docstring in a line each where the terminal's width decides; indented lines stay."""
    return re.sub(r"(?m)^(\S.*)\n(?=\S)", r"\1 ", text) if columns() is not None else text


def _broken(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    blank = len(line) - len(line.lstrip(" "))
    named = NAME.match(line) if blank <= 4 else None  # beyond, a value goes on
    head = named.group() if named else " " * blank
    body = line[len(head) :]
    first = len(body.split(" ", 1)[0])
    if width - len(head) < min(LEAST, len(body)) or width - len(head) < first <= width - blank - 4:
        above = _broken(head.rstrip(), width) if head.strip() else []
        return [*above, *_filled(body, width, " " * (min(blank, 4) + 4 if above else min(blank, 4)))]
    return _filled(body, width, head, len(head) if named or blank else 2)


def _filled(body: str, width: int, head: str, hang: int | None = None) -> list[str]:
    below = " " * (len(head) if hang is None else hang)
    room = max(width, len(below) + 1, len(head) + 1)
    glued = SIGN.sub(lambda found: found.group().replace(" ", "\0"), body)
    lines = textwrap.wrap(
        glued, room, initial_indent=head, subsequent_indent=below, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("\0", " ") for line in lines]


def echo_json(record: Any) -> None:
    """One JSON object on stdout; what JSON cannot hold (NaN, infinity) is null."""
    click.echo(json.dumps(_plain(record), indent=2, allow_nan=False, default=str))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def duration(seconds: float) -> str:
    """8.3 s, 4 min 10 s, 2 h 05 min."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number(value: Any) -> str:
    """A bound or a rate, to two decimals and with thousands apart."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def size(count: float) -> str:
    """Bytes: 11 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def setting(value: Any) -> str:
    """A value of a configuration as a user would write it."""
    if isinstance(value, (list, tuple)):
        return shortened(printable(",".join(map(str, value)))) or "none"
    if isinstance(value, dict):
        return " ".join(shortened(printable(f"{k}={v}")) for k, v in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    return shortened(printable(str(value)))


def means(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A row of ``pairs``: what the two bounds of a result are means of, and what part of the second is chance in z."""
    steps, noise = result.get("train_bound_steps"), result.get("test_bound_draw_sd")
    of = result.get("checkpoint") or {}
    up_to = f" up to step {number(of.get('step'))}" if of.get("which") == "best" else ""
    parts = [f"train: the mean of the last {number(steps)} steps{up_to}"] if steps else []
    if isinstance(noise, float):
        parts.append(f"test: one draw of z a row, which moves it by {noise:.1g}")
    return [("", "; ".join(parts))] if parts else []


def pairs(rows: Iterable[tuple[str, str]], indent: str = "") -> str:
    """Two aligned columns; a row without a name goes on with the one above."""
    rows = [(shortened(printable(name)), printable(value)) for name, value in rows]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{indent}{name:<{width}}  {value}".rstrip() for name, value in rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: str = "") -> str:
    """Aligned columns under their names; the columns numbered in ``right`` are flush right.

    On a narrower terminal columns stand closer, then the widest column of text is broken at words; where its words are
    too long for that, a last column of text moves below its row, and else each row becomes its cells in as many lines.
    """
    room = columns()
    lines = [[shortened(printable(cell)) for cell in line] for line in (head, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    gap = 2 if room is None or len(indent) + sum(widths) + 2 * (len(widths) - 1) <= room else 1
    excess = len(indent) + sum(widths) + gap * (len(widths) - 1) - room if room is not None else 0
    if excess > 0:
        wide = max(range(len(head)), key=lambda i: 0 if i in right else widths[i])
        narrow = widths[wide] - excess
        if wide in right or narrow < max(LEAST, *(len(word) for line in lines for word in line[wide].split())):
            last = len(head) - 1
            if wide == last and narrow + gap >= 0:
                above = table(head[:-1], [row[:-1] for row in rows], right, indent).split("\n")
                below = [f"{indent}    {line[last]}" for line in lines]
                return wrap("\n".join(part for both in zip(above, below, strict=True) for part in both), room)
            return records(lines[0], lines[1:], indent)
        lines = [part for line in lines for part in _in_column(line, wide, narrow)]
        widths[wide] = narrow
    return "\n".join(
        indent
        + (" " * gap)
        .join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        .rstrip()
        for line in lines
    )


def records(head: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Each row of a table as its cells, one below the other; the first one, where its column has no name, above."""
    found = []
    for row in rows:
        cells = [(name, cell) for name, cell in zip(head, row, strict=True) if cell]
        above = [indent + cells.pop(0)[1]] if cells and cells[0] == (head[0], row[0]) and not head[0] else []
        below = " " * (len(above[0]) - len(above[0].lstrip()) + 2) if above else indent
        found.append("\n".join([*above, *([pairs(cells, below)] if cells else [])]))
    return ("\n" if head[0] == "" else "\n\n").join(found)


def _in_column(line: list[str], place: int, width: int) -> list[list[str]]:
    """A line of a table as several, with one of its cells broken at words."""
    cell = line[place]
    blank = len(cell) - len(cell.lstrip())
    parts = _filled(cell.lstrip(), width, " " * blank, blank + 2) if len(cell) > width else [cell]
    return [
        [part if i == place else ("" if n else other) for i, other in enumerate(line)] for n, part in enumerate(parts)
    ]


def grid(cells: Sequence[str], indent: str = "  ", most: int = 6) -> list[str]:
    """Short texts side by side in columns of one width, as many as fit."""
    width = max(map(len, cells), default=0)
    room = columns()
    fit = most if room is None else max(1, min(most, (room - len(indent) + 2) // (width + 2)))
    rows = (cells[i : i + fit] for i in range(0, len(cells), fit))
    return [indent + "  ".join(f"{c:<{width}}" for c in row).rstrip() for row in rows]


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The course of a number in one line of blocks; few outliers at the start do not flatten the rest."""
    finite = [v for v in values if math.isfinite(v)]
    if len(finite) < 2:
        return ""
    if len(finite) > width:
        step = len(finite) / width
        finite = [finite[min(len(finite) - 1, int((i + 1) * step) - 1)] for i in range(width)]
    ordered = sorted(finite)
    low, high = ordered[len(ordered) // 10], ordered[-1]
    span = (high - low) or 1.0
    return "".join(BARS[max(0, min(len(BARS) - 1, int((v - low) / span * (len(BARS) - 1) + 0.5)))] for v in finite)
