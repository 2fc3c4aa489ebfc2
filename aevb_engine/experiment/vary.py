"""Several runs from one configuration: every combination of the varied options, and the seeds of each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from aevb_engine import registry
from aevb_engine.convert import convert
from aevb_engine.errors import DataError, UsageError, suggest
from aevb_engine.experiment.config import RunConfig, checked
from aevb_engine.training.schedule import CONSTANT, parse_schedule

MOST = 1000  # runs
# Of the machine or of plugins, not of a run among others.
FIXED = ("data_dir", "offline", "backend", "trainer", "graph", "threads")
KEYS = tuple(k for k in RunConfig.__dataclass_fields__ if k not in FIXED and not k.endswith("_options"))


@dataclass(frozen=True)
class Planned:
    """One of the runs. ``varied``: its values by option, as on the command line; ``texts``: as they were written."""

    config: RunConfig
    varied: Mapping[str, Any]
    texts: tuple[str, ...]

    @property
    def folder(self) -> str:
        """``lr-0.01-seed-3``."""
        parts = [f"{key}-{text}" for key, text in zip(self.varied, self.texts, strict=True)]
        if "seed" not in self.varied:
            parts.append(f"seed-{self.config.seed}")
        return "-".join(re.sub(r"[^\w.+-]+", "_", part) for part in parts)

    @property
    def label(self) -> str:
        """``lr 0.01, seed 3``."""
        parts = [f"{key} {text}" for key, text in zip(self.varied, self.texts, strict=True) if key != "seed"]
        return ", ".join([*parts, f"seed {self.config.seed}"])


def parse_vary(items: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """``KEY=V1,V2`` by option, of run or (``KIND.KEY``) of a plugin; UsageError where one cannot be read."""
    found: dict[str, tuple[str, ...]] = {}
    for item in items:
        key, equals, values = item.partition("=")
        name = key.strip().replace("-", "_")
        kind, dot, of_plugin = name.partition(".")
        texts = tuple(v.strip() for v in values.split(","))
        if not equals or not name or not all(texts) or (dot and not of_plugin):
            raise UsageError(f"--vary {item}: write KEY=V1,V2,... with an option of run and its values")
        if dot and kind not in registry.GROUPS:
            raise UsageError(f"--vary {item}: '{kind}' takes no options: {suggest(kind, registry.GROUPS)}")
        if not dot and name not in KEYS:
            known = [k.replace("_", "-") for k in KEYS]
            raise UsageError(f"--vary {item}: '{key.strip()}' cannot be varied: {suggest(key.strip(), known)}")
        option = name if dot else name.replace("_", "-")
        if option in found:
            raise UsageError(f"--vary {item}: {option} is varied already; give all of its values at once")
        found[option] = texts
    return found


def plan(config: RunConfig, replicas: int | None, vary: Mapping[str, Sequence[str]]) -> list[Planned]:
    """Combinations in the order given, the seeds ``config.seed``, ``config.seed + 1``, ... of each behind one another.

    UsageError for a value that an option does not take.
    """
    if replicas is not None and not 1 <= replicas <= MOST:
        raise UsageError(f"--replicas {replicas}: a number in 1 .. {MOST} is needed")
    if replicas is not None and "seed" in vary:
        raise UsageError("--replicas and --vary seed=... exclude each other; give one of them")
    count = (replicas or 1) * math.prod(len(texts) for texts in vary.values())
    if count > MOST:
        raise UsageError(f"--vary: {count} runs; at most {MOST} are possible")
    runs: list[Planned] = []
    known: dict[tuple[tuple[str, Any], ...], tuple[int, ...]] = {}
    for places in product(*(range(len(texts)) for texts in vary.values())):
        texts = tuple(values[i] for values, i in zip(vary.values(), places, strict=True))
        chosen, varied = _with(config, dict(zip(vary, texts, strict=True)))
        before = known.setdefault(tuple(varied.items()), places)
        for key, text, i, j in zip(vary, texts, before, places, strict=True):
            if i != j:
                raise UsageError(f"--vary {key}: the value {text} is there twice")
        seeds = range(chosen.seed, chosen.seed + (replicas or 1))
        runs += [Planned(replace(chosen, seed=seed), varied, texts) for seed in seeds]
    return runs


def _with(config: RunConfig, texts: Mapping[str, str]) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration with these values, and each as its option takes it; UsageError where one does not."""
    varied: dict[str, Any] = {key: None if "." in key else _value(key, text) for key, text in texts.items()}
    chosen = replace(config, **{key.replace("-", "_"): value for key, value in varied.items() if "." not in key})
    of_plugins = [key for key in texts if "." in key]
    for key in of_plugins:
        kind, _, name = key.partition(".")
        options = {**getattr(chosen, f"{kind}_options"), name: texts[key]}  # texts, as -o leaves them
        changed: dict[str, Any] = {f"{kind}_options": options}
        chosen = replace(chosen, **changed)
    names = _names(chosen)
    for key in of_plugins:
        kind, _, name = key.partition(".")
        option = registry.options(registry.load(kind, names[kind]))[name]  # type: ignore[arg-type,index]
        value = convert(key, texts[key], option.annotation)
        plain = isinstance(value, bool | int | float | str | None)
        varied[key] = value if plain else texts[key]  # a path, a list: as written
    return chosen, varied


def _value(key: str, text: str) -> Any:
    try:
        ((_, value),) = checked({key: text}, f"--vary {key}").items()
    except DataError as error:
        raise UsageError(str(error)) from error
    return value


def _names(config: RunConfig) -> dict[registry.Kind, str]:
    """The plugin of each kind; UsageError where one or an option of it does not exist."""
    source = registry.create("dataset", config.dataset, config.dataset_options)
    names: dict[registry.Kind, str] = {
        "dataset": config.dataset,
        "decoder": config.decoder or str(getattr(source, "decoder", "bernoulli")),
        "optimizer": config.optimizer,
        "objective": config.objective,
    }
    for kind, name in names.items():
        registry.create(kind, name, getattr(config, f"{kind}_options"))
    parse_schedule(config.lr_schedule or CONSTANT)
    return names
