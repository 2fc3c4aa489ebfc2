"""The configuration of a run: defaults < TOML file < environment < flags."""

from __future__ import annotations

import codecs
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aevb_cli.boundary import one_line
from aevb_engine.convert import convert
from aevb_engine.errors import AevbError, DataError, UsageError, suggest
from aevb_engine.experiment.config import RunConfig, checked, parse_hidden

KINDS = ("decoder", "optimizer", "dataset", "objective")
LARGEST = 1 << 20  # bytes of a configuration file
# What a file may say beside the configuration, with its type: the options of ``run`` about what it shows, where it
# writes, how many runs there are. ``json`` is called ``as_json`` by the command.
OF_COMMAND: dict[str, Any] = {
    "output": str,
    "replicas": int,
    "vary": list[str],
    "option": list[str],
    "no_figures": bool,
    "json": bool,
    "quiet": bool,
    "verbose": bool,
    "debug": bool,
}
UTF_16 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def configuration(
    file: Mapping[str, Any], given: Mapping[str, Any], pairs: Iterable[str], flags: Iterable[str] = ()
) -> RunConfig:
    """The options of a run: of a ``file``, those ``given`` by environment or ``flags``, and ``-o`` pairs."""
    values = dict(file)
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


def parse_pairs(pairs: Iterable[str], where: str = "") -> dict[str, dict[str, str]]:
    """``decoder.KEY=VALUE`` and the like, by kind; of two values for one key the last counts.

    UsageError where one is not understood, or of a file, ``where``, DataError.
    """
    if where:
        try:
            return parse_pairs(pairs)
        except UsageError as error:
            raise DataError(f"{where}: {error}") from error
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


def read_toml(name: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a TOML file, each checked: by field of RunConfig, and the others of ``OF_COMMAND``.

    What is wrong in the file is a DataError (exit code 3) with file and key; UsageError (2) where there is none.
    """
    if name is None:
        return {}, {}
    if name == "":
        raise UsageError("--config: the name of a file is needed")
    path, where = Path(name), one_line(name)
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
    if data.startswith(UTF_16):
        raise DataError(f"{where} is text in UTF-16 or UTF-32; save it as UTF-8")
    try:
        raw = tomllib.loads(data.decode("utf-8-sig"))  # with the mark at its beginning that some editors write
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not TOML: {error}") from error
    others = {k: v for k, v in raw.items() if k.replace("-", "_") in OF_COMMAND}
    values = checked({k: v for k, v in raw.items() if k not in others}, where, OF_COMMAND)
    command = _of_command(others, where)
    pairs = parse_pairs(command.pop("option", []), where)
    for kind, options in pairs.items():
        values[f"{kind}_options"] = {**values.get(f"{kind}_options", {}), **options}
    try:
        RunConfig(**values)
        _check_names(values)
    except AevbError as error:
        if isinstance(error, UsageError):
            raise DataError(f"{where}: {error}") from error
        raise
    return values, command


def _of_command(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of options that are no part of the configuration, by name and in the option's type."""
    found: dict[str, Any] = {}
    for raw, value in values.items():
        key = raw.replace("-", "_")
        if key in found:
            raise DataError(f"{where}: '{raw}' is given twice, with - and with _; leave one out")
        if key == "vary" and isinstance(value, Mapping):  # a table of lists
            value = [f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in value.items()]
        if OF_COMMAND[key] == list[str] and isinstance(value, str):
            value = [value]
        try:
            found[key] = convert(raw, value, OF_COMMAND[key])
        except UsageError as error:
            raise DataError(f"{where}: {error}") from error
    return found


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
