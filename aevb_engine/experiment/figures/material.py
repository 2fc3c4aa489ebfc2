"""What the figures show, computed once for all of them; no drawing here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from aevb_engine.data.dataset import Dataset
from aevb_engine.errors import FileFormatError, UsageError
from aevb_engine.evaluation import apply
from aevb_engine.experiment import log
from aevb_engine.experiment.folder import RunFolder
from aevb_engine.experiment.session import Session
from aevb_engine.model.model import Model

Array = npt.NDArray[Any]
POINTS = 5000  # of the latent scatter
SEED = 0  # of the samples shown: the same z for every run, so that runs can be compared by eye


def latent_grid(n: int) -> npt.NDArray[np.float64]:
    """n x n latent points (n * n, 2) that cover N(0, I) evenly, in reading order: z2 falls row by row, z1 grows.

    z = (Phi^-1(u), Phi^-1(v)) for u, v = (i + 1/2) / n: the inverse Gaussian CDF of a regular grid on the unit square
    (KW appendix A). Each point stands for the same share, 1 / n^2, of the prior.
    """
    normal = NormalDist()
    ticks = np.array([normal.inv_cdf((i + 0.5) / n) for i in range(n)])
    down, right = np.meshgrid(ticks[::-1], ticks, indexing="ij")
    return np.stack([right.ravel(), down.ravel()], axis=1)


def spread(count: int, wanted: int) -> npt.NDArray[np.intp]:
    """At most ``wanted`` row numbers out of ``count``, evenly spaced."""
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(np.intp)


@dataclass(frozen=True)
class Material:
    """A run with the numbers drawn from it."""

    folder: RunFolder
    session: Session
    result: Mapping[str, Any]

    @property
    def dataset(self) -> Dataset:
        """The data of the run."""
        return self.session.dataset

    @property
    def model(self) -> Model:
        """The model with the parameters that stand for the run."""
        return self.session.model

    @property
    def subtitle(self) -> str:
        """Layer widths, decoder and test bound; the title names the data set."""
        a = self.model.architecture
        widths = "-".join(map(str, (a.dim, *a.hidden, a.latent)))
        parts = [widths, f"{self.session.config.decoder} decoder"]
        bound = self.result.get("test_bound")
        if isinstance(bound, float) and np.isfinite(bound):
            parts.append(f"test bound {number(bound)} nats a data point")
        which = self.result.get("checkpoint") or {}
        if which.get("which") == "best":
            parts.append(f"best step {which['step']:,}")
        return "  ·  ".join(parts)

    @property
    def column(self) -> str:
        """What the curves show: the bound, or the reconstruction under an objective that has none."""
        return "bound" if "bound" in self.session.objective.columns else "reconstruction"

    @cached_property
    def tables(self) -> dict[str, dict[str, Array]]:
        """The metrics log by table and column, finite rows only; empty where there is no readable log."""
        try:
            read = log.read(self.folder.metrics_path)
        except (UsageError, FileFormatError):
            return {}
        tables = {}
        for name, (columns, rows) in read.items():
            table = dict(zip(columns, rows.T, strict=True))
            if {"seen", self.column} <= set(columns):
                sound = np.isfinite(table["seen"]) & np.isfinite(table[self.column]) & (table["seen"] > 0)
                if sound.any():
                    tables[name] = {column: values[sound] for column, values in table.items()}
        return tables

    def x(self, rows: Array) -> Array:
        """Stored rows (n, D) as the model sees them."""
        scaled: Array = rows.astype(np.float32) * np.float32(self.dataset.scale)
        return scaled

    @cached_property
    def window(self) -> tuple[float, float]:
        """Values shown as the two ends of the grey scale: the range of the data, not empty."""
        if self.model.likelihood.support.kind == "binary":
            return 0.0, 1.0
        sample = self.x(self.dataset.test_rows[spread(len(self.dataset.test_rows), 2000)])
        low, high = float(sample.min()), float(sample.max())
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    @cached_property
    def ink(self) -> bool:
        """Whether images are strokes on an empty ground (most pixels are exactly 0), best shown as ink on paper."""
        return float(np.median(self.dataset.test_rows[spread(len(self.dataset.test_rows), 500)])) == 0.0

    @cached_property
    def shown(self) -> Array:
        """(rows, columns) numbers of the test rows in the picture of reconstructions: a column a class where known."""
        labels, count = self.dataset.test_labels, len(self.dataset.test_rows)
        if labels is None or len(kinds := np.unique(labels)) > 12:
            rows = spread(count, 48)
            columns = min(12, len(rows))
            return rows[: len(rows) // columns * columns].reshape(-1, columns)
        members = [np.flatnonzero(labels == kind) for kind in kinds]
        deep = min(4, *(len(m) for m in members)) if len(members) > 1 else min(4, len(members[0]))
        return np.stack([m[spread(len(m), deep)] for m in members], axis=1)

    @cached_property
    def coded(self) -> tuple[Array, Array | None, Mapping[str, Array]]:
        """Means of q(z|x) (n, Z) of up to POINTS rows, and their labels or known factors.

        Test rows, unless nothing is known of them while factors of the training rows are.
        """
        data = self.dataset
        if data.test_labels is None and data.factors:
            rows = spread(len(data.train), POINTS)
            means, _ = apply.encode(self.model, self.x(data.train[rows]))
            return means, None, {name: values[rows] for name, values in data.factors.items()}
        rows = spread(len(data.test_rows), POINTS)
        means, _ = apply.encode(self.model, self.x(data.test_rows[rows]))
        return means, None if data.test_labels is None else data.test_labels[rows], {}

    @property
    def coded_are(self) -> str:
        """Which rows ``coded`` holds."""
        return "training" if self.coded[2] else "test"

    @cached_property
    def dimensions(self) -> list[int]:
        """The one or two latent dimensions shown: those whose mean of q(z|x) varies most, in order of number."""
        with np.errstate(all="ignore"):
            variance = self.coded[0].astype(np.float64).var(axis=0)
        best = np.argsort(-np.nan_to_num(variance, nan=-1.0), kind="stable")[:2]
        return sorted(int(i) for i in best)


def number(value: float) -> str:
    """Four significant digits or all before the point, with a true minus sign."""
    digits = max(0, 3 - int(np.floor(np.log10(max(abs(value), 1.0)))))
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
