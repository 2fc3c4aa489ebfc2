"""Several runs from one configuration: every combination of the varied options, and the seeds of each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from aevb_engine import registry
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
    """``KEY=V1,V2`` by option; UsageError where one cannot be read."""
    found: dict[str, tuple[str, ...]] = {}
    for item in items:
        key, equals, values = item.partition("=")
        name = key.strip().replace("-", "_")
        texts = tuple(v.strip() for v in values.split(","))
        if not equals or not name or not all(texts):
            raise UsageError(f"--vary {item}: write KEY=V1,V2,... with an option of run and its values")
        if name not in KEYS:
            known = [k.replace("_", "-") for k in KEYS]
            raise UsageError(f"--vary {item}: '{key.strip()}' cannot be varied: {suggest(key.strip(), known)}")
        option = name.replace("_", "-")
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
    choices = [[(text, _value(key, text)) for text in texts] for key, texts in vary.items()]
    for key, values in zip(vary, choices, strict=True):
        for i, (text, value) in enumerate(values):
            if value in [v for _, v in values[:i]]:
                raise UsageError(f"--vary {key}: the value {text} is there twice")
    runs = []
    for combination in product(*choices):
        varied = {key: value for key, (_, value) in zip(vary, combination, strict=True)}
        chosen = replace(config, **{key.replace("-", "_"): value for key, value in varied.items()})
        _check_names(chosen)
        texts = tuple(text for text, _ in combination)
        seeds = range(chosen.seed, chosen.seed + (replicas or 1))
        runs += [Planned(replace(chosen, seed=seed), varied, texts) for seed in seeds]
    return runs


def _value(key: str, text: str) -> Any:
    try:
        ((_, value),) = checked({key: text}, f"--vary {key}").items()
    except DataError as error:
        raise UsageError(str(error)) from error
    return value


def _check_names(config: RunConfig) -> None:
    """UsageError where a plugin or its options do not exist."""
    for kind in registry.GROUPS:
        name = getattr(config, kind)
        if name is not None:
            registry.create(kind, name, getattr(config, f"{kind}_options"))
    parse_schedule(config.lr_schedule or CONSTANT)
