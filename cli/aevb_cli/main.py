"""The command ``aevb-engine``: its group, its lazily loaded subcommands, and the boundary that every error crosses."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import click

from aevb_cli import boundary
from aevb_cli.options import CONTEXT, Group, debug_option
from aevb_cli.signals import Leave

# Name -> module and attribute. A command's own imports (NumPy, HDF5, Matplotlib) wait until it runs.
COMMANDS = {
    "run": "aevb_cli.run:run",
    "resume": "aevb_cli.resume:resume",
    "show": "aevb_cli.show:show",
    "evaluate": "aevb_cli.evaluate:evaluate",
    "study": "aevb_cli.study:study",
    "datasets": "aevb_cli.datasets:datasets",
    "plugins": "aevb_cli.plugins:plugins",
    "bench": "aevb_cli.bench:bench",
    "doctor": "aevb_cli.doctor:doctor",
}


@contextlib.contextmanager
def _not_clicks() -> Iterator[None]:
    """Click would end the program in its own way for these."""
    try:
        yield
    except (KeyboardInterrupt, BrokenPipeError) as error:
        raise boundary.Ended(error) from error


class Root(Group):
    """Loads a subcommand when it is asked for, and turns every error into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _not_clicks():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _not_clicks():
            return super().invoke(ctx)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        # Click would take `__main__.py` from `python -m aevb_engine`.
        name = prog_name or "aevb-engine"

        def action() -> Any:
            with Leave():  # until a command that can be resumed handles signals itself
                return super(Root, self).main(args, name, complete_var, standalone_mode=False, **extra)

        if not standalone_mode:
            return action()
        sys.exit(boundary.guarded(action))


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"aevb-engine {version('aevb-engine')}")
        ctx.exit()


@click.group(
    cls=Root,
    context_settings={**CONTEXT, "auto_envvar_prefix": "AEVB"},
    epilog="\b\nExamples:\n  aevb-engine run\n  aevb-engine run --dataset mnist --latent-dim 10 --epochs 20\n"
    "  aevb-engine show latest\n\n"
    "\b\nCompletion after TAB (docs/runs.md):\n"
    '  eval "$(_AEVB_ENGINE_COMPLETE=bash_source aevb-engine)"\n\n'
    "Exit codes: 0 done, 1 the work failed, 2 usage, 3 bad configuration or data, 4 corrupt file, 5 backend or plugin "
    "unusable, 70 internal error, 74 disk, 75 stopped and resumable, 130 and 143 second signal.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@debug_option
def cli() -> None:
    """Learn latent-variable models by auto-encoding variational Bayes.

    Start with `aevb-engine run`, which needs nothing: it trains on digits that it draws itself.
    """


def _open_standard_files() -> None:
    """Files 0, 1 and 2 lead nowhere where they are closed: else the next file opened, of a run, would be one of them,
    and hold what is said."""
    number = os.open(os.devnull, os.O_RDWR)
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)


def main() -> None:
    """Entry point of the installed script and of ``python -m aevb_engine``."""
    _open_standard_files()
    for stream in (sys.stdout, sys.stderr):  # a terminal without the characters for a bar shows "?" and goes on
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    warnings.showwarning = boundary.show_warning
    sys.unraisablehook = boundary.unraisable
    cli.main(prog_name="aevb-engine")
