"""A table in any units, from the first command: draws, bounds and files in its own units; what is far is said."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine import registry
from aevb_engine.data.dataset import Dataset
from aevb_engine.errors import DataError, TrainingError
from aevb_engine.evaluation import apply
from aevb_engine.experiment import run
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.evaluate import evaluate_run

MEANS, SPREADS = np.array([0.0, 6.0, 305.0, 5010.0]), np.array([0.1, 1.0, 30.0, 1000.0])
NORMAL = -0.5 * np.log(2 * np.pi * np.e * SPREADS**2).sum()  # mean log-density of independent columns, in nats


def table(seed: int, rows: int = 1000) -> np.ndarray:
    """Columns that share one factor: correlation 0.8 with each other."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(rows, 1))
    return MEANS + SPREADS * (math.sqrt(0.8) * factor + math.sqrt(0.2) * rng.normal(size=(rows, 4)))


class Table:
    summary: ClassVar[str] = "a table"
    decoder: ClassVar[str] = "gaussian"

    def load(self, request: Any) -> Dataset:
        return Dataset("table", table(1), table(2))


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set "table"."""
    real = registry.create

    def create(kind: Any, name: str, *given: Any) -> Any:
        return Table() if (kind, name) == ("dataset", "table") else real(kind, name, *given)

    monkeypatch.setattr(registry, "create", create)


def config(**given: Any) -> RunConfig:
    return RunConfig(**{"dataset": "table", "hidden": (20,), "seed": 1, "threads": 1, **given})


def check_draws(draws: np.ndarray) -> None:
    np.testing.assert_allclose((draws.mean(axis=0) - MEANS) / SPREADS, 0, atol=0.15)
    np.testing.assert_allclose(draws.std(axis=0) / SPREADS, 1, atol=0.15)
    assert np.corrcoef(draws.T)[0, 3] == pytest.approx(0.8, abs=0.15)


def test_the_first_command(named: None, tmp_path: Path) -> None:
    """Draws have the means, spreads and correlations of the table; the bound is that of the table's own units: above
    independent columns by what one factor explains, below the truth."""
    folder, session, result = run.start(config(), tmp_path / "r")
    (note,) = session.notes
    assert re.match(r"columns have means .* and spreads 0\.\d+ to \S+: standardized", note)
    for line in result["warnings"]:  # the truth is linear
        assert "of probabilistic PCA, a linear model; on these data it does as well" in line
    check_draws(apply.sample(session.model, 2000))
    covariance = 0.2 * np.eye(4) + 0.8
    truth = NORMAL - 0.5 * np.linalg.slogdet(covariance)[1]
    assert NORMAL + 1 < result["test_bound"] < truth + 0.2
    assert result["test_bound"] > truth - 0.4
    assert result["independent_columns"] == pytest.approx(NORMAL, abs=0.3)
    assert result["ppca"] == pytest.approx(truth, abs=0.3)
    assert folder.read_record()["config"]["standardize"] == "always"
    found = evaluate_run(folder.path, rows=100, samples=50, threads=1)
    assert found["bound"]["value"] == pytest.approx(result["test_bound"], abs=1e-4)
    named_values = {b["name"]: b["value"] for b in found["baselines"]}
    assert named_values["independent Gaussian"] == pytest.approx(NORMAL, abs=0.3)
    assert named_values["probabilistic PCA"] == pytest.approx(truth, abs=0.3)
    loaded = aevb.load(folder.path)
    assert loaded.bound(table(2)) == pytest.approx(result["test_bound"], abs=1e-4)


def test_a_record_of_before_reads_columns_as_they_are() -> None:
    kept = {k: v for k, v in config().as_dict().items() if k != "standardize"}
    assert RunConfig.of_record({"config": kept}, "run.json").standardize == "never"
    assert RunConfig.of_record({"config": {**kept, "standardize": "always"}}, "run.json").standardize == "always"


def test_resumed_to_the_same_bits(named: None, tmp_path: Path) -> None:
    import threading

    whole = run.start(config(steps=300), tmp_path / "whole")[1].trainer.arrays()
    stop = threading.Event()

    class StopSoon(run.Quiet):
        def steps(self, rows: Any, total: int, seconds: float) -> None:
            stop.set()

    with pytest.raises(run.Stopped):
        run.start(config(steps=300), tmp_path / "part", display=StopSoon(), stop=stop)
    _, session, _ = run.resume(tmp_path / "part")
    assert session.config.standardize == "always"
    assert all(np.array_equal(whole[name], a) for name, a in session.trainer.arrays().items())


def test_from_python(tmp_path: Path) -> None:
    model = aevb.VAE(decoder="gaussian", hidden=20, seed=1, backend="cpu", threads=1)
    model.fit(table(1))
    check_draws(model.sample(2000))
    rows = table(2, 200)
    assert model.bound(rows) == pytest.approx(NORMAL + 2.2, abs=0.8)
    back = model.reconstruct(rows)
    assert back.dtype == np.float64
    assert np.corrcoef(back[:, 3], rows[:, 3])[0, 1] > 0.85
    model.save(tmp_path / "m.h5")
    again = aevb.load(tmp_path / "m.h5")
    assert again.bound(rows) == model.bound(rows)
    np.testing.assert_array_equal(again.reconstruct(rows), back)
    np.testing.assert_array_equal(again.encode(rows)[0], model.encode(rows)[0])


@pytest.mark.parametrize("size", [1e20, 1e39])
def test_data_of_any_size(size: float) -> None:
    """Squares of these overflow float32, the second are beyond float32 themselves: finite all the same."""
    model = aevb.VAE(decoder="gaussian", hidden=5, seed=1, backend="cpu", threads=1).fit(size * table(1, 200), steps=50)
    assert np.isfinite(model.bound(size * table(2, 50)))
    assert np.median(np.abs(model.sample(100))) > size * 1e-3


def test_yes_and_no_from_python() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    for wish, standardized in ((True, True), (False, False), ("auto", False)):
        model = aevb.VAE(decoder="gaussian", hidden=5, backend="cpu", standardize=wish).fit(rows, steps=1)
        assert (model.units is not None) == standardized


def test_finite_numbers_beyond_float32_are_not_called_infinite() -> None:
    model = aevb.VAE(decoder="gaussian", hidden=5, backend="cpu")
    model.fit(np.random.default_rng(0).normal(size=(40, 3)), steps=1)
    with pytest.raises(DataError, match=r"the data: values reach 1e\+39, beyond float32; rescale them"):
        model.bound(np.full((2, 3), 1e39))
    with pytest.raises(DataError, match="NaN or infinite"):
        model.bound(np.full((2, 3), np.inf))


def test_what_is_left_as_it_is_says_so() -> None:
    rows = table(1, 200)
    plain = {"decoder": "gaussian", "hidden": 5, "seed": 1, "backend": "cpu", "threads": 1, "standardize": "never"}
    with pytest.warns(UserWarning, match=r"columns have means .* far from unit scale.*standardize"):
        aevb.VAE(**plain).fit(rows, steps=1)
    with pytest.raises(DataError, match=r"the data reach .*: their squares are beyond float32; rescale them"):
        aevb.VAE(**plain).fit(1e20 * rows, steps=1)
    with (
        pytest.warns(UserWarning, match="far from unit scale"),
        pytest.raises(TrainingError, match=r"the data are far from unit scale: use .*standardize"),
    ):
        aevb.VAE(**{**plain, "lr": 1e6}).fit(1e6 * rows, steps=20)


def test_the_paper_s_start_reads_data_as_they_are(named: None) -> None:
    from aevb_engine.experiment.session import prepare

    assert prepare(config(initial="normal")).model.likelihood.units is None
    assert prepare(config(initial="normal", standardize="always")).model.likelihood.units is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dataset": "simulated-binary"}, "the decoder takes binary data as they are"),
        ({"decoder_options": {"mean": "sigmoid"}}, "bound to the data's unit"),
    ],
)
def test_what_cannot_be_standardized(options: dict[str, Any], words: str, named: None) -> None:
    from aevb_engine.experiment.session import prepare

    with pytest.raises(DataError, match=words):
        prepare(config(standardize="always", **options))


def test_images_and_bytes_share_one_unit() -> None:
    """A pixel that is nearly always black must not count as much as the others."""
    grey = np.random.default_rng(0).integers(0, 256, (40, 6)).astype(np.uint8)
    for rows, alike in ((grey, True), (grey.astype(float).reshape(40, 2, 3), True), (grey.astype(float), False)):
        units = aevb.VAE(decoder="gaussian", hidden=5, backend="cpu").fit(rows, steps=1).units
        assert units is not None
        assert (len(set(units.spread)) == 1) == alike


def test_raw_pixels_share_one_unit(named: None) -> None:
    """Grey images in 0..255: one mean and spread for all pixels, and the floor of the log-variance moves with them."""
    from aevb_engine.experiment.session import prepare

    small = {"dataset": "faces", "dataset_options": {"train": "60", "test": "20"}, "steps": 5}
    raw, unit = (prepare(config(scale=scale, **small)) for scale in ("raw", "unit"))
    units = raw.model.likelihood.units
    assert units is not None
    assert len(set(units.spread)) == len(set(units.shift)) == 1
    assert unit.model.likelihood.units is None
    floor = raw.model.likelihood.inner.floor  # type: ignore[attr-defined]
    assert floor + 2 * math.log(units.spread[0]) == pytest.approx(-7 + 2 * math.log(255))
    assert raw.test is not None
    assert np.isfinite(raw.test.run()).all()
