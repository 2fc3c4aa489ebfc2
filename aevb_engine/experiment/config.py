"""The resolved configuration of a run: every option by name, checked before anything is made."""

from __future__ import annotations

import math
import os
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from aevb_engine.convert import convert, plain
from aevb_engine.errors import DataError, UsageError, suggest

LARGEST = 10**9  # of a size; beyond it NumPy has no name for the array
MOST_THREADS = 4096
LARGEST_LR = 1e30  # what float32 holds, with room


@dataclass(frozen=True)
class RunConfig:
    """Options of ``aevb-engine run`` (dashes become underscores); None means: chosen for the data and the model."""

    dataset: str = "glyphs"
    data_dir: str | None = None
    offline: bool = False
    binarize: Literal["none", "threshold", "static", "dynamic"] | None = None
    scale: Literal["unit", "raw"] | None = None
    decoder: str | None = None
    optimizer: str = "adam"
    lr: float | None = None
    lr_schedule: str | None = None
    weight_decay: float = 0.0
    objective: str = "elbo"
    hidden: tuple[int, ...] = (200,)
    activation: str = "tanh"
    initial: Literal["normal", "glorot"] = "glorot"
    standardize: Literal["auto", "always", "never"] = "auto"
    latent_dim: int = 2
    samples: int = 1
    batch_size: int = 100
    epochs: float | None = None
    steps: int | None = None
    until_converged: bool = False
    validation: float = 0.0
    backend: Literal["auto", "cpu", "gpu"] = "auto"
    trainer: Literal["auto", "eager", "graph", "persistent"] = "auto"  # of a GPU; the path taken, once it is known
    graph: bool = False
    precision: Literal["float32", "float64", "tf32"] = "float32"
    seed: int = 0
    threads: int | None = None
    eval_every: int | None = None
    decoder_options: dict[str, Any] = field(default_factory=dict)
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    dataset_options: dict[str, Any] = field(default_factory=dict)
    objective_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive: dict[str, float | None] = {
            "latent-dim": self.latent_dim,
            "samples": self.samples,
            "batch-size": self.batch_size,
            "epochs": self.epochs,
            "steps": self.steps,
            "lr": self.lr,
            "threads": self.threads,
            "eval-every": self.eval_every,
        }
        for name, value in positive.items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UsageError(f"--{name} {value}: a positive number is needed")
        for name in ("latent-dim", "samples", "batch-size", "threads"):
            if (positive[name] or 0) > LARGEST:
                raise UsageError(f"--{name} {positive[name]}: at most {LARGEST} is possible")
        if (self.threads or 0) > MOST_THREADS:
            raise UsageError(f"--threads {self.threads}: at most {MOST_THREADS} are possible")
        if (self.lr or 0) > LARGEST_LR:
            raise UsageError(f"--lr {self.lr}: at most {LARGEST_LR:g} is possible")
        if not 0 <= self.weight_decay <= 1e9:
            raise UsageError(f"--weight-decay {self.weight_decay}: a number in [0, 1e9] is needed")
        if not 0 <= self.validation < 1:
            raise UsageError(f"--validation {self.validation}: a fraction in [0, 1) is needed")
        if any(width < 1 for width in self.hidden):
            raise UsageError(f"--hidden {','.join(map(str, self.hidden))}: every width must be at least 1")
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"--seed {self.seed}: a number in 0 .. 2^64 - 1 is needed")
        if self.epochs is not None and self.steps is not None:
            raise UsageError("--epochs and --steps exclude each other; give one of them")
        if self.graph and self.trainer not in ("auto", "graph"):
            raise UsageError(f"--graph and --trainer {self.trainer} exclude each other; give one of them")

    @property
    def dtype(self) -> str:
        """The type of the arrays; under tf32 only the products differ."""
        return "float32" if self.precision == "tf32" else self.precision

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @staticmethod
    def from_mapping(values: Mapping[str, Any], where: str) -> RunConfig:
        """From a stored record or a TOML file; DataError on an unknown key (with a suggestion) or a wrong type."""
        return RunConfig(**checked(values, where))

    @staticmethod
    def of_record(record: Mapping[str, Any], where: str) -> RunConfig:
        """That of a run's record, wherever the run is now: a data folder that is gone was not asked for here."""
        # A run of before columns were standardized read them as they are.
        config = RunConfig.from_mapping({"standardize": "never", **record["config"]}, where)
        there = config.data_dir is None or os.path.isdir(config.data_dir)  # noqa: PTH112 # and False if not allowed
        return config if there else replace(config, data_dir=None)


def checked(values: Mapping[str, Any], where: str, beside: Iterable[str] = ()) -> dict[str, Any]:
    """The values by field name and in the field's type; dashes in keys are underscores.

    ``beside``: other names that an unknown key may have meant.
    """
    hints = typing.get_type_hints(RunConfig)
    names = {f.name for f in fields(RunConfig)}
    result: dict[str, Any] = {}
    for raw, value in values.items():
        key = str(raw).replace("-", "_")
        if key not in names:
            raise DataError(f"{where}: unknown key '{raw}': {suggest(key, {*names, *beside})}")
        if key in result:
            raise DataError(f"{where}: '{raw}' is given twice, with - and with _; leave one out")
        try:
            result[key] = _typed(key, value, hints[key])
        except UsageError as error:
            raise DataError(f"{where}: {error}") from error
    return result


def _typed(key: str, value: Any, hint: Any) -> Any:
    if key == "hidden":
        return parse_hidden(value)
    if key.endswith("_options"):
        if not isinstance(value, Mapping):
            raise UsageError(f"{key}={value}: a table of options is needed")
        return {str(k).replace("-", "_"): plain(v) for k, v in value.items()}
    return convert(key, value, hint)


def parse_hidden(value: Any) -> tuple[int, ...]:
    """``200,200`` or a list of integers; an empty text or list, or ``none``, is a linear model."""
    items = value.split(",") if isinstance(value, str) else value
    if isinstance(value, str) and value.strip() in ("", "none"):
        return ()
    if isinstance(items, int) and not isinstance(items, bool):
        items = [items]
    if not isinstance(items, (list, tuple)):
        raise UsageError(f"--hidden {value}: write widths such as 200,200, or none for a linear model")
    widths = [str(i).strip() for i in items]
    if not all(w.isascii() and w.isdigit() and len(w) < 7 for w in widths):
        raise UsageError(f"--hidden {value}: write widths such as 200,200, or none for a linear model")
    return tuple(int(w) for w in widths)
