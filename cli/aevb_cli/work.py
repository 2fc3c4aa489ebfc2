"""What ``run`` and ``resume`` share: progress and signals while training, figures, and the summary at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aevb_cli import display as displays
from aevb_cli.boundary import one_line, tell, warn
from aevb_cli.signals import Interrupt
from aevb_cli.text import duration, echo_json, means, number, pairs, say
from aevb_engine.errors import AevbError, Stopped
from aevb_engine.experiment.atomic import quoted

if TYPE_CHECKING:
    from aevb_engine.experiment.folder import RunFolder
    from aevb_engine.experiment.session import Session

Begin = Callable[[Any, Any], "tuple[RunFolder, Session, dict[str, Any]]"]


def work(begin: Begin, *, as_json: bool, quiet: bool, verbose: bool, figures: bool) -> None:
    """Train with ``begin(display, stop)``, draw, and print the result."""
    began = time.monotonic()
    with Interrupt() as interrupt:
        screen = displays.choose(interrupt, quiet=quiet, verbose=verbose)
        with screen:
            try:
                folder, session, result = begin(screen, interrupt.event)
            except Stopped:
                raise
            except AevbError:
                if screen.folder is not None and screen.folder.path.exists():
                    screen.note(f"what there is of the run is kept in {screen.folder.path}")
                raise
            result = dict(result)
            drawn: list[Path] = []
            problems: list[str] = []
            if figures and not interrupt.event.is_set():
                screen.drawing()
                drawn, problems = _draw(folder, session, result)
                if problems:
                    result["warnings"] = [*result.get("warnings", []), *problems]
        for problem in problems if not quiet else ():  # below the live display, which is gone now
            warn(problem)
    if as_json:
        echo_json(result)
    elif not quiet:
        say(summary(folder.path, result, drawn, time.monotonic() - began))


def show_done(folder: RunFolder, result: Mapping[str, Any], ended: str, *, as_json: bool, quiet: bool) -> None:
    """What ``resume`` says of a run that ended before, which it leaves as it is."""
    if as_json:
        echo_json({**result, "resumed": False})
    elif not quiet:
        figures = sorted(folder.figures.glob("*.png")) if folder.figures.is_dir() else []
        say(f"the run was done already, at {ended}: nothing was trained or drawn")
        say(summary(folder.path, result, figures))


def work_many(
    begin: Callable[[Any, Any, Any], Any], *, as_json: bool, quiet: bool, verbose: bool, figures: bool
) -> None:
    """The same for replicas: ``begin(display, stop, ended)`` calls ``ended`` with what it returns for ``work``."""
    from aevb_cli.sweep import compared
    from aevb_engine.experiment.replicas import summary as together

    began = time.monotonic()
    with Interrupt() as interrupt:
        screen = displays.choose(interrupt, quiet=quiet, verbose=verbose)
        drawn: dict[Path, list[Path]] = {}
        problems: list[str] = []

        def ended(folder: RunFolder, session: Session, result: Mapping[str, Any]) -> None:
            drawn[folder.path], lines = _draw(folder, session, result) if figures else ([], [])
            problems.extend(lines)

        with screen:
            found = begin(screen, interrupt.event, ended)
        for problem in problems:
            if not quiet:
                warn(problem)
    record = together([result for _, result in found.runs], found.lost)
    if found.diverged:
        record |= {"diverged": found.diverged, "lost": found.lost}
    if as_json:
        echo_json(record)
    elif not quiet and "combinations" in record:
        say(compared(record, _near))
    elif not quiet:
        for folder, result in found.runs:
            say(f"seed {result['seed']}\n{summary(folder.path, result, drawn[folder.path])}\n")
        if record.get("test_bound_sd") is not None:
            say(
                f"test bound over {len(found.runs)} seeds: {number(record['test_bound'])}, standard deviation "
                f"{record['test_bound_sd']:.2f}"
            )
    if not as_json and not quiet:
        tell(f"{len(found.runs)} runs, {duration(time.monotonic() - began)} in all")
    found.check()


def _draw(folder: RunFolder, session: Session, result: Mapping[str, Any]) -> tuple[list[Path], list[str]]:
    """The figures, and a line for each that could not be drawn: a drawing that fails does not lose a run."""
    problems: list[str] = []
    try:
        from aevb_engine.experiment.figures import draw

        return list(draw(folder, session, result, lambda line: problems.append(one_line(line)))), problems
    except Exception as error:
        return [], [*problems, one_line(f"the figures could not be drawn ({type(error).__name__}: {error})")]


def summary(path: Path, result: Mapping[str, Any], figures: list[Path], seconds: float | None = None) -> str:
    """The end of a run for people; ``seconds``: all that the user waited, with data, evaluations and figures."""
    place = quoted(_near(path))
    rows = bounds(result)
    if parameters(result):
        rows.append(("", parameters(result)))
    if result.get("independent_columns") is not None:
        linear = f", of probabilistic PCA {number(result['ppca'])}" if result.get("ppca") is not None else ""
        rows += [
            ("", f"of independent columns {number(result['independent_columns'])}{linear}"),
            ("latent", f"{result['active_units']} of {result['latent_units']} units active"),
        ]
    if result.get("test_bound_k") is not None:
        rows.append(("", f"test, importance-weighted {number(result['test_bound_k'])}"))
    others = {scale: result.get(f"test_bound_{scale}") for scale in ("raw", "unit")}
    rows += [("", f"test on the {scale} scale {number(bound)}") for scale, bound in others.items() if bound is not None]
    if result.get("test_excess") is not None:
        error = result["test_excess_se"]
        spread = f" +- {error:.3f} (standard error)" if error is not None else ""
        rows.append(("", f"test - log p_true {result['test_excess']:.3f}{spread}"))
    speed = result.get("steps_per_second")
    rows += [
        ("trained", f"{result['steps']:,} steps, {result['epochs']:.1f} epochs, {duration(result['seconds'])}"
                    + (f", {speed:,.0f} steps/s" if speed else "")
                    + (", converged" if result["status"] == "converged" else "")
                    + (f"; {duration(seconds)} in all" if seconds is not None else "")),
        ("run", place),
    ]  # fmt: skip
    if figures:
        first = next((p for p in figures if p.stem == "overview"), figures[0])
        more = f" and {len(figures) - 1} more" if len(figures) > 1 else ""
        rows.append(("figures", one_line(_near(first)) + more))
    rows.append(("next", f"aevb-engine show {place}"))
    return pairs(rows)


def bounds(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The first lines of a summary: the bounds, or the reconstruction of an objective that has none."""
    if result["train_bound"] is None and result["test_bound"] is None:
        parts = [f"{name} {number(result[f'{name}_reconstruction'])}" for name in ("train", "test")]
        return [("reconstruction", "   ".join(parts) + "   nats a data point; no bound"), *means(result)]
    return [
        ("bound", f"train {number(result['train_bound'])}   {_held_out(result)}   nats a data point, higher is better"),
        ("", f"test = reconstruction {number(result['test_reconstruction'])} - KL {number(result['test_kl'])}"),
        *means(result),
    ]


def parameters(result: Mapping[str, Any]) -> str:
    """Which parameters bounds and figures are of, where they are not the last; nothing in records that do not tell."""
    which = result.get("checkpoint") or {}
    if which.get("which") != "best":
        return ""
    return f"parameters of step {number(which.get('step'))}, the best for the validation rows"


def _held_out(result: Mapping[str, Any]) -> str:
    error = result.get("test_bound_se")
    return f"test {number(result['test_bound'])}" + (f" +- {error:.2f}" if error is not None else "")


def _near(path: Path) -> str:
    """The path from here where that is shorter."""
    full = path.absolute()
    here = Path.cwd()
    return str(full.relative_to(here) if full.is_relative_to(here) else full)
