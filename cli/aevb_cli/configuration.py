"""The configuration of a run: defaults < TOML file < environment < flags."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aevb_cli.boundary import one_line
from aevb_engine.errors import AevbError, DataError, UsageError, suggest
from aevb_engine.experiment.config import RunConfig, checked, parse_hidden

KINDS = ("decoder", "optimizer", "dataset", "objective")
LARGEST = 1 << 20  # bytes of a configuration file


def configuration(
    file: str | None, given: Mapping[str, Any], pairs: Iterable[str], flags: Iterable[str] = ()
) -> RunConfig:
    """The options of a run from a TOML file, options ``given`` by environment or ``flags``, and ``-o`` pairs.

    What is wrong in the file is a DataError (exit code 3), elsewhere a UsageError (2).
    """
    if file == "":
        raise UsageError("--config: the name of a file is needed")
    values = read_toml(Path(file)) if file is not None else {}
    asked, typed = dict(given), set(flags)
    if "hidden" in asked:
        asked["hidden"] = parse_hidden(asked["hidden"])
    # Whoever asks for a number of steps means it, whatever the environment or the file says about epochs; and the other
    # way round. So with the two ways to ask for a trainer.
    for one, other in (("steps", "epochs"), ("epochs", "steps"), ("trainer", "graph"), ("graph", "trainer")):
        if one in typed and other not in typed:
            asked.pop(other, None)
        if one in asked and other not in asked:
            values.pop(other, None)
    for kind, options in parse_pairs(pairs).items():
        asked[f"{kind}_options"] = {**values.get(f"{kind}_options", {}), **options}
    merged = {**values, **asked}
    if merged.get("data_dir") == "":
        raise UsageError("--data-dir: the name of a folder is needed")
    if merged.get("data_dir"):
        from aevb_engine.data.files import at_home

        merged["data_dir"] = str(at_home(merged["data_dir"], "--data-dir").absolute())  # a resume may start elsewhere
    return RunConfig(**merged)


def parse_pairs(pairs: Iterable[str]) -> dict[str, dict[str, str]]:
    """``decoder.KEY=VALUE`` and the like, by kind; of two values for one key the last counts."""
    found: dict[str, dict[str, str]] = {}
    for pair in pairs:
        path, equals, value = pair.partition("=")
        kind, dot, key = path.strip().partition(".")
        if not (equals and dot and key):
            raise UsageError(f"-o {pair}: write decoder.KEY=VALUE, or so for {', '.join(KINDS[1:])}")
        if kind not in KINDS:
            raise UsageError(f"-o {pair}: '{kind}' takes no options: {suggest(kind, KINDS)}")
        found.setdefault(kind, {})[key.strip().replace("-", "_")] = value.strip()
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file by field of RunConfig, each checked; DataError names file and key."""
    where = one_line(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise UsageError(f"--config {where}: there is no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"--config {where}: cannot be read: {reason}") from error
    if len(data) > LARGEST:
        raise DataError(f"--config {where}: larger than {LARGEST} bytes; this is no configuration file")
    try:
        raw = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not TOML: {error}") from error
    values = checked(raw, where)
    try:
        RunConfig(**values)
        _check_names(values)
    except AevbError as error:
        if isinstance(error, UsageError):
            raise DataError(f"{where}: {error}") from error
        raise
    return values


def _check_names(values: Mapping[str, Any]) -> None:
    """UsageError for a name in the file that nothing is registered under, or an option that it does not have."""
    from aevb_engine import registry

    defaults = RunConfig().as_dict()
    decoder = "bernoulli"
    kinds: tuple[registry.Kind, ...] = ("dataset", "decoder", "optimizer", "objective")  # data may choose the decoder
    for kind in kinds:
        options = values.get(f"{kind}_options")
        name = values.get(kind) or ((defaults[kind] or decoder) if options else None)
        if name is not None:
            made = registry.create(kind, name, options)
            decoder = str(getattr(made, "decoder", decoder))
    activation = values.get("activation")
    if activation is not None:
        from aevb_engine.model.mlp import ACTIVATIONS

        if activation not in ACTIVATIONS:
            raise UsageError(f"unknown activation '{activation}': {suggest(activation, ACTIVATIONS)}")
    if "lr_schedule" in values:
        from aevb_engine.training.schedule import parse_schedule

        parse_schedule(values["lr_schedule"])


def check_environment(known: Iterable[str], environment: Mapping[str, str] = os.environ) -> None:
    """UsageError for a variable AEVB_RUN_... that is no option: a misspelt one would do nothing, silently."""
    names = {f"AEVB_RUN_{name.upper()}" for name in known}
    for variable in environment:
        if variable.startswith("AEVB_RUN_") and variable not in names:
            raise UsageError(f"environment variable {variable} is no option of run: {suggest(variable, names)}")
