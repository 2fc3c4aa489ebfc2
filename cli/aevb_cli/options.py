"""Options that commands share: how they are declared, grouped in the help, and told apart from each other."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar

import click

from aevb_cli import boundary
from aevb_engine.errors import suggest

NARROW = 60  # columns of a terminal
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
F = TypeVar("F", bound=Callable[..., Any])


class Context(click.Context):
    """Help as wide as the terminal also where that is narrower than the 50 columns that click takes at least."""

    def make_formatter(self) -> click.HelpFormatter:
        room = shutil.get_terminal_size().columns - 2
        return click.HelpFormatter(width=max(room, 20)) if room < 50 else super().make_formatter()


class Group(click.Group):
    """A group that suggests the nearest name for an unknown command."""

    context_class = Context

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            raise click.UsageError(f"no such command '{name}': {suggest(name, self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _examples(super().format_epilog, self, ctx, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)


class Section(click.Option):
    """An option that is listed under a heading of its command's help."""

    def __init__(self, *args: Any, section: str = "Other", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class Command(click.Command):
    """A command whose help lists options by section, in the order of their declaration, and fits a narrow terminal."""

    context_class = Context

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _examples(super().format_epilog, self, ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                # Where little room is left beside the names, the texts stand below them.
                formatter.write_dl(records, col_max=28 if formatter.width >= NARROW else 2)


def _examples(write: Callable[..., None], of: click.Command, ctx: click.Context, to: click.HelpFormatter) -> None:
    """Write the epilog with examples that are too long going on after a backslash: they can still be copied."""
    whole = of.epilog
    try:
        lines = (whole or "").split("\n")
        of.epilog = "\n".join(part for line in lines for part in _example(line, to.width - 2)) or None
        write(ctx, to)
    finally:
        of.epilog = whole


def _example(line: str, width: int) -> list[str]:
    """A line of an epilog; a command in it, which is indented, in lines of a shell that fit."""
    if not line.startswith("  ") or len(line) <= width:
        return [line]
    glued = re.sub(r"(?<= )(--?[a-z-]+) (?=[^ -])", "\\1\0", line.strip())  # an option with its value
    parts = textwrap.wrap(
        glued, max(width - 2, 12), initial_indent="  ", subsequent_indent="      ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return [part.replace("\0", " ") + " \\" * (part is not parts[-1]) for part in parts]


def _debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        boundary.debug = True


def debug_option(function: F) -> F:
    """``--debug``: eager, so that it holds for errors in the options after it."""
    return click.option(
        "--debug", is_flag=True, is_eager=True, expose_value=False, callback=_debug, help="Show tracebacks of errors."
    )(function)


def json_option(function: F) -> F:
    """``--json``"""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")(function)


def verbose_option(function: F) -> F:
    """``-v``"""
    return click.option("-v", "--verbose", is_flag=True, help="Show more.")(function)


def progress_options(function: F) -> F:
    """What commands that train have in common."""
    for option in (
        debug_option,
        verbose_option,
        click.option("--quiet", is_flag=True, help="Print nothing but errors (and the object of --json)."),
        json_option,
        click.option("--no-figures", is_flag=True, help="Draw no figures at the end."),
    ):
        function = option(function)
    return function
