"""``learners_study``: learners that differ in what they ascend alone, judged alike; nothing measured is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb_engine.errors import TrainingError, UsageError
from aevb_engine.evaluation import ais
from aevb_engine.evaluation.ais import AnnealedImportanceSampler
from aevb_engine.experiment import learners
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.figures.learners import learners as draw
from aevb_engine.experiment.learners import Plan, learners_study
from aevb_engine.experiment.session import Session, prepare, subset
from aevb_engine.operation import Buffer
from aevb_engine.training.step import ResidentRows
from aevb_engine.training.trainer import Diverged

CONFIG = RunConfig(
    dataset="simulated-binary", dataset_options={"train": 60, "test": 30, "dim": 12}, hidden=(6,), batch_size=20,
    optimizer="adagrad", seed=3, threads=1,
)  # fmt: skip
AIS: dict[str, Any] = {"rows": 5, "temperatures": 5, "chains": 3}
PLAN = Plan(train_rows=(20, 60), seen=(35, 100), **AIS)
PAIR = Plan(objectives=("elbo", "mcem"), seen=(20, 40), **AIS)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """A pilot of few moves: how good the estimates are is not what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ais, "PILOT_MOVES", 5)
        yield


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """All three learners at two sizes."""
    return learners_study(CONFIG, PLAN)


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """Two learners, uninterrupted."""
    return learners_study(CONFIG, PAIR)


def curve(record: dict[str, Any], name: str, rows: int) -> dict[str, Any]:
    (found,) = [c for c in record["curves"] if (c["objective"], c["train_rows"]) == (name, rows)]
    return found  # type: ignore[no-any-return]


def timeless(value: Any) -> Any:
    """Without what a clock said."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k != "seconds"}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def trained(name: str, rows: int, steps: int) -> Session:
    """A run of its own, by the parts that `run` is made of."""
    own = {"hidden": CONFIG.hidden, "objective": name, "steps": steps, "lr_schedule": "constant"}
    config = RunConfig(**{**CONFIG.as_dict(), **own})
    session = prepare(config, change=lambda data: subset(data, rows, CONFIG.seed))
    session.trainer.advance(steps)
    return session


def values(session: Session, data: Any) -> Any:
    resident = ResidentRows(Buffer("data", data[:5].astype(session.model.dtype)), session.dataset.scale)
    return AnnealedImportanceSampler(session.model, resident, temperatures=5, chains=3, seed=3).run().log_likelihood


def test_learners_share_data_start_and_estimator(record: dict[str, Any]) -> None:
    """One estimator for all; the same test rows everywhere, the same training rows, since small sets lie in large."""
    assert [(c["objective"], c["train_rows"]) for c in record["curves"]] == [
        (name, rows) for rows in (20, 60) for name in ("elbo", "wake-sleep", "mcem")
    ]
    assert len({json.dumps(c["rows_sha256"]) for c in record["curves"]}) == 1
    for rows in (20, 60):  # a start at the mean of the training rows is that of each size
        assert len({json.dumps(c["initial_sha256"]) for c in record["curves"] if c["train_rows"] == rows}) == 1
    estimator = record["estimator"]
    assert {k: estimator[k] for k in ("method", "rows", "temperatures", "chains", "seed")} == {
        "method": "ais", "rows": 5, "temperatures": 5, "chains": 3, "seed": 3,
    }  # fmt: skip
    assert record["status"] == "done"
    assert (record["optimizer"], record["lr"], record["batch_size"], record["decoder"]) == (
        "adagrad", 0.02, 20, "bernoulli",
    )  # fmt: skip


def test_axis_counts_each_minibatch_once(record: dict[str, Any]) -> None:
    """35 and 100 data points are 2 and 5 minibatches; under mcem five updates each, which the axis does not count."""
    for c in record["curves"]:
        found = c["evaluations"]
        assert [e["seen"] for e in found] == [40, 100]
        assert [e["steps"] for e in found] == ([10, 25] if c["objective"] == "mcem" else [2, 5])
        assert [e["epochs"] for e in found] == [40 / c["train_rows"], 100 / c["train_rows"]]
        assert 0 < found[0]["seconds"] < found[1]["seconds"]
        assert all(e[split]["rows"] == 5 for e in found for split in ("test", "train"))


def test_minibatch_em_is_labelled(record: dict[str, Any]) -> None:
    """Monte Carlo EM on the whole training set is the original; on minibatches an extension."""
    assert [c["extension"] for c in record["curves"]] == [False, False, False, False, False, True]
    assert "extension" in " ".join(curve(record, "mcem", 60)["remarks"])


@pytest.mark.parametrize(("name", "steps"), [("elbo", 5), ("mcem", 25)])
def test_values_are_those_of_a_run_of_its_own(record: dict[str, Any], name: str, steps: int) -> None:
    """Training, rows and estimate by other means: the same numbers to the bit; differences are paired."""
    session, first = trained(name, 60, steps), trained("elbo", 60, 5)
    last = curve(record, name, 60)["evaluations"][-1]
    for split in ("test", "train"):
        found, leads = (values(s, getattr(s.dataset, split)) for s in (session, first))
        assert last[split]["log_likelihood"] == found.mean()
        assert last[split]["se"] == pytest.approx(found.std(ddof=1) / np.sqrt(5))
        if name == "elbo":
            assert last[split]["above_first"] is None
        else:
            assert last[split]["above_first"] == pytest.approx((found - leads).mean())
            assert last[split]["above_first_se"] == pytest.approx((found - leads).std(ddof=1) / np.sqrt(5))


def test_other_initial_parameters_are_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Planted: the second learner starts one rounding error away."""

    def planted(config: RunConfig, *args: Any) -> Session:
        session = prepare(config, *args)
        if config.objective == "mcem":
            session.model.parameters.theta[7] = np.nextafter(session.model.parameters.theta[7], np.float32(1))
        return session

    monkeypatch.setattr(learners, "prepare", planted)
    with pytest.raises(TrainingError, match="'mcem' begins with other parameters than 'elbo'"):
        learners_study(CONFIG, PAIR, output=tmp_path / "out")
    kept = json.loads((tmp_path / "out/learners.json").read_text())
    assert [c["objective"] for c in kept["curves"]] == ["elbo"]


def test_subsets_are_nested_draws_without_replacement() -> None:
    data = prepare(RunConfig(dataset="simulated-binary", hidden=(4,), steps=1, threads=1)).dataset
    small, large = (subset(data, n, 5).train for n in (10, 400))
    np.testing.assert_array_equal(small, large[:10])
    everything = subset(data, len(data.train), 5).train
    assert not np.array_equal(everything, data.train)
    np.testing.assert_array_equal(np.sort(everything, axis=0), np.sort(data.train, axis=0))
    assert not np.array_equal(subset(data, 10, 6).train, small)
    with pytest.raises(UsageError, match="--train-rows 1001: 'simulated-binary' has 1000 training rows"):
        subset(data, 1001, 5)


@pytest.mark.parametrize("done", [1, 3])
def test_interruption_keeps_what_was_measured(whole: dict[str, Any], tmp_path: Path, done: int) -> None:
    """Stopped within the estimate after ``done``: the file holds those before, as an uninterrupted study has them."""
    seen = 0

    def stop(what: str, *_: Any) -> None:
        nonlocal seen
        path = tmp_path / "part/learners.json"
        kept = json.loads(path.read_text())["curves"] if path.exists() else []
        now = sum(len(c["evaluations"]) for c in kept)
        assert now >= seen  # whole and up to date at every moment
        seen = now
        if seen == done and "train" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learners_study(CONFIG, PAIR, output=tmp_path / "part", progress=stop)
    part = json.loads((tmp_path / "part/learners.json").read_text())
    assert part["status"] == "interrupted"
    assert not (tmp_path / "part/learners.png").exists()
    flat = [[e for c in r["curves"] for e in c["evaluations"]] for r in (part, whole)]
    assert len(flat[0]) == done
    assert timeless(flat[0]) == timeless(flat[1][:done])


def test_a_learner_that_diverges_ends_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its curve says so, the others go on; there is nothing to take differences to."""
    whole = learners._Study._train

    def planted(self: Any, session: Session, steps: int) -> float:
        if session.config.objective == "elbo" and session.trainer.step:
            raise Diverged(2, "the KL of the batch (nan)")
        return whole(self, session, steps)

    monkeypatch.setattr(learners._Study, "_train", planted)
    found = learners_study(CONFIG, PAIR, output=tmp_path / "out")
    first, second = found["curves"]
    assert first["diverged"].startswith("step 2")
    assert (len(first["evaluations"]), len(second["evaluations"])) == (1, 2)
    assert second["diverged"] is None
    assert isinstance(second["evaluations"][0]["test"]["above_first"], float)
    assert second["evaluations"][1]["test"]["above_first"] is None
    assert Path(found["figure"]).read_bytes().startswith(b"\x89PNG")


def test_places_of_the_estimates() -> None:
    """Of one number a 1-2-5 series from ten minibatches; of several these, rounded up to minibatches."""
    assert Plan(seen=(100_000,)).visits(100) == [10, 20, 50, 100, 200, 500, 1000]
    assert Plan(seen=(3_010,)).visits(100) == [10, 20, 31]
    assert Plan(seen=(400,)).visits(100) == [4]
    assert Plan(seen=(500, 100, 101, 150)).visits(100) == [1, 2, 5]


def test_figure_has_a_line_for_each_learner_and_split(record: dict[str, Any]) -> None:
    """Two panels; solid lines at the test values, dashed at the training values."""
    panels = draw(record).axes
    assert [ax.get_title(loc="left") for ax in panels] == ["20 training data points", "60 training data points"]
    for ax, rows in zip(panels, (20, 60), strict=True):
        assert ax.get_xscale() == "log"
        drawn = {(line.get_linestyle(), tuple(np.asarray(line.get_ydata()))) for line in ax.lines}
        for c in record["curves"]:
            if c["train_rows"] == rows:
                for split, style in (("test", "-"), ("train", "--")):
                    assert (style, tuple(e[split]["log_likelihood"] for e in c["evaluations"])) in drawn


def test_own_options_reach_their_learner() -> None:
    found = learners_study(CONFIG, Plan(objectives=("mcem",), options={"mcem": {"updates": "2"}}, seen=(20, 40), **AIS))
    (only,) = found["curves"]
    assert (only["updates"], [e["steps"] for e in only["evaluations"]]) == (2, [2, 4])
