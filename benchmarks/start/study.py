"""What a start, a rate, a schedule and a length are worth: bounds, active units and the use of z, seed by seed.

    python benchmarks/start/study.py defaults --seeds 3 --output FILE.json      # which defaults `run` should have
    python benchmarks/start/study.py starts --seeds 10 --output FILE.json       # N(0, 0.01) against the default start
    python benchmarks/start/study.py headline --seeds 10 --data-dir DIR --output FILE.json   # the bounds of the README
    python benchmarks/start/study.py known --seeds 10 --output FILE.json        # data with a known density

`--data-dir DIR` adds the Frey faces, `--digits FILE.npz` (arrays x (N, 64) in 0..16 and y) the digits of 8 x 8 pixels.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins/examples/aevb-laplace"))

from aevb_laplace import Laplace

from aevb_engine import registry
from aevb_engine.data.dataset import Dataset
from aevb_engine.evaluation import apply
from aevb_engine.evaluation.bound import draw_error, summary
from aevb_engine.evaluation.estimate import standard_error
from aevb_engine.evaluation.remarks import remarks
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.run import judged
from aevb_engine.experiment.session import Session, prepare
from aevb_engine.training.loop import Progress, fit

BEFORE = {"initial": "normal", "lr": 0.001, "lr_schedule": "constant", "epochs": 50.0}
NEIGHBOURS = 5000  # training rows that a row is compared with


class Silent:
    """The listener that the loop asks for."""

    def steps(self, rows: Any) -> None: ...
    def evaluated(self, row: Any, is_best: bool) -> None: ...
    def stop(self) -> bool:
        return False


class Digits:
    """The digits of 8 x 8 pixels as a data set: 1,000 training rows by the seed, pixels of at least half the ink."""

    decoder = "bernoulli"
    path = Path()

    def load(self, request: Any) -> Dataset:
        data = np.load(self.path)
        x, y = (data["x"] >= 8).astype(np.uint8), data["y"]
        order = np.random.default_rng(request.seed).permutation(len(x))
        a, b = order[:1000], order[1000:]
        return Dataset("digits", x[a], x[b], image_shape=(8, 8), train_labels=y[a], test_labels=y[b])


def nearest(known: Any, labels: Any, rows: Any, truth: Any) -> float:
    """The share of rows whose nearest known row has their label."""
    squares = (known**2).sum(axis=1)
    parts = np.array_split(rows, 1 + len(rows) // 500)
    found = np.concatenate([labels[(squares - 2 * part @ known.T).argmin(axis=1)] for part in parts])
    return float((found == truth).mean())


def trained(config: RunConfig) -> tuple[Session, Progress, float]:
    """The session after its training, in memory alone, and the seconds of training."""
    session, progress = prepare(config), Progress()
    began = time.perf_counter()
    fit(
        session.trainer,
        progress,
        total=session.total_steps,
        eval_every=max(1, session.total_steps // 20),
        evaluate=lambda: summary(session.held_out.run()),
        until_converged=False,
        listener=Silent(),
    )
    return session, progress, time.perf_counter() - began


def row(name: str, config: RunConfig) -> dict[str, Any]:
    """One training: what it came to."""
    session, progress, seconds = trained(config)
    model, data = session.model, session.dataset
    bounds = session.test.run()
    found = remarks(judged(session, progress, bounds, steps=session.trainer.step, last=progress.last_steps()))
    out: dict[str, Any] = {
        "name": name, "seed": config.seed, "steps": session.total_steps, "lr": session.config.lr,
        "schedule": session.config.lr_schedule, "initial": config.initial, "seconds": round(seconds, 2),
        "test_bound": round(float(bounds[:, 0].mean()), 3), "train_bound": round(float(progress.tail[:, 2].mean()), 3),
        "active": found.active, "latent": config.latent_dim, "independent": found.independent, "ppca": found.linear,
        "draw_sd": round(draw_error(bounds[:, 0], session.test.run(draw=1)[:, 0]), 4), "remarks": found.lines,
    }  # fmt: skip
    if data.true_log_prob is not None:
        excess = bounds[:, 0] - data.true_log_prob(data.test_rows)
        out["excess"], out["excess_se"] = round(float(excess.mean()), 4), round(standard_error(excess), 4)
    if data.train_labels is not None and data.test_labels is not None:
        train, test = (rows.astype(np.float64) * data.scale for rows in (data.train[:NEIGHBOURS], data.test))
        labels, truth = data.train_labels[:NEIGHBOURS], data.test_labels
        z = [apply.encode(model, rows)[0].astype(np.float64) for rows in (train, test)]
        centre = train.mean(axis=0)
        axes = np.linalg.svd(train - centre, full_matrices=False)[2][: config.latent_dim].T
        out["nearest_on_z"] = nearest(z[0], labels, z[1], truth)
        out["nearest_on_pca"] = nearest((train - centre) @ axes, labels, (test - centre) @ axes, truth)
        out["reconstructions_read"] = nearest(train, labels, apply.decode(model, z[1]).astype(np.float64), truth)
        out["originals_read"] = nearest(train, labels, test, truth)
    session.backend.close()
    return out


def tasks(options: argparse.Namespace) -> dict[str, RunConfig]:
    """The data sets with the options of README and tutorial."""
    base = RunConfig(threads=options.threads, data_dir=options.data_dir, offline=True)
    found = {
        "glyphs": base,
        "glyphs, variation 1": replace(base, dataset_options={"variation": 1.0}),
        "faces, gaussian": replace(base, dataset="faces"),
        "faces, laplace": replace(base, dataset="faces", decoder="laplace"),
    }
    if options.digits:
        found["digits 8 x 8"] = replace(base, dataset="digits")
    if options.data_dir:
        frey = replace(base, dataset="freyfaces", validation=0.1)
        found["freyfaces"] = frey
        found["freyfaces, adagrad"] = replace(frey, optimizer="adagrad")
        found["freyfaces, adagrad 0.02"] = replace(frey, optimizer="adagrad", lr=0.02)
    return found


def defaults(options: argparse.Namespace) -> list[tuple[str, RunConfig]]:
    """The grid that the defaults are chosen from."""
    plans: list[tuple[str, RunConfig]] = []
    for name, config in tasks(options).items():
        if config.optimizer == "adagrad":
            continue
        plans.append((name, replace(config, **BEFORE)))
        for epochs in (25.0, 50.0):
            for lr in (0.001, 0.003):
                plans += [
                    (name, replace(config, lr=lr, lr_schedule=schedule, epochs=epochs))
                    for schedule in ("constant", "linear:0.5")
                ]
    return plans


def starts(options: argparse.Namespace) -> list[tuple[str, RunConfig]]:
    """Before and after."""
    plans: list[tuple[str, RunConfig]] = []
    for name, config in tasks(options).items():
        before = {**BEFORE, "lr": 0.02 if config.optimizer == "adagrad" else BEFORE["lr"]}
        plans += [(name, replace(config, **before)), (name, config)]
    return plans


def headline(options: argparse.Namespace) -> list[tuple[str, RunConfig]]:
    """The rows of the README and of docs/results.md on the original data."""
    base = RunConfig(threads=options.threads, data_dir=options.data_dir, offline=True)
    paper = replace(base, initial="normal", optimizer="adagrad", lr=0.02, hidden=(100,), steps=10_000)
    static = replace(base, dataset="mnist", binarize="static", hidden=(500,), latent_dim=20, steps=24_000)
    return [
        ("mnist, paper, 2 latent", replace(paper, dataset="mnist")),
        ("mnist, paper, 10 latent", replace(paper, dataset="mnist", latent_dim=10)),
        ("freyfaces, paper, 2 latent", replace(paper, dataset="freyfaces", scale="unit")),
        ("mnist static, defaults", static),
        ("mnist static, normal, adam 0.001", replace(static, initial="normal", lr=0.001)),
    ]


def known(options: argparse.Namespace) -> list[tuple[str, RunConfig]]:
    """Section 6 of Lin & Xu: data whose density is known, by the five optimizers at their default rates."""
    base = RunConfig(threads=options.threads, initial="normal", hidden=(100,), steps=10_000)
    return [
        (f"{name}, {optimizer}", replace(base, dataset=name, optimizer=optimizer))
        for name in ("simulated-binary", "simulated-normal")
        for optimizer in ("sgd", "momentum", "adagrad", "adam", "rmsprop")
    ]


PARTS = {"defaults": defaults, "starts": starts, "headline": headline, "known": known}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-dir")
    parser.add_argument("--digits", type=Path)
    parser.add_argument("--only", default="", help="names that begin so")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    Digits.path = options.digits or Path()
    real = registry.create
    made = {("dataset", "digits"): Digits, ("decoder", "laplace"): Laplace}

    def create(kind: Any, name: str, given: Any = None, base: Any = None) -> Any:
        """What the project ships by name, and the two that only this script has."""
        return made[kind, name]() if (kind, name) in made else real(kind, name, given, *([base] if base else []))

    registry.create = create
    rows: list[dict[str, Any]] = []
    for name, config in PARTS[options.part](options):
        if not name.startswith(options.only):
            continue
        for seed in range(options.seeds):
            rows.append(row(name, replace(config, seed=seed)))
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
            sys.stdout.flush()
            options.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
