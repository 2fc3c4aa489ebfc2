"""What a data set says of itself is looked at where it enters: in a run and in a fit, in one line, before training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine import registry
from aevb_engine.data.dataset import Dataset
from aevb_engine.data.facts import sound
from aevb_engine.errors import DataError
from aevb_engine.experiment import run
from aevb_engine.experiment.config import RunConfig

X = (np.random.default_rng(0).random((40, 6)) < 0.5).astype(np.uint8)
Y = X[:10]
GREY = np.random.default_rng(1).integers(0, 256, (40, 6)).astype(np.uint8)
DYNAMIC: dict[str, Any] = {"train": GREY, "dynamic": True}


class Foreign:
    def __array__(self, *given: Any, **more: Any) -> Any:
        raise RuntimeError("a conversion\nof its own")


def broken(x: Any) -> Any:
    raise KeyError("density\ntable")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name is ''; text"),
    ({"name": 3}, "name is 3; text"),
    ({"test": X[:, :5]}, "training rows have 6 columns and test rows 5"),
    ({"scale": 0}, "scale=0; a positive number"),
    ({"scale": -1.0}, "scale=-1.0; a positive"),
    ({"scale": float("nan")}, "scale=nan; a positive"),
    ({"scale": 10**400}, "scale=1000.*; a positive"),
    ({"scale": "1/255"}, "scale='1/255'; a positive"),
    ({"scale": True}, "scale=True; a positive"),
    ({"dynamic": 1}, "dynamic=1; True or False"),
    ({"dynamic": "no"}, "dynamic='no'; True or False"),
    ({"contiguous": None}, "contiguous=None; True or False"),
    ({"binarize": "treshold"}, "binarize='treshold'; did you mean 'threshold'"),
    ({"binarize": None}, "binarize=None; did you mean 'none'"),
    ({"train": GREY, "test": GREY, "scale": 1 / 255}, "takes 0 and 1 only"),
    ({**DYNAMIC, "train": X.astype(np.float32)}, "type float32; dynamic=True needs uint8 intensities 0..255"),
    ({**DYNAMIC, "train": -GREY.astype(np.float32)}, "type float32; dynamic=True"),
    ({**DYNAMIC, "train": np.full((40, 6), np.nan)}, "type float64; dynamic=True"),
    ({**DYNAMIC, "train": np.full((40, 6), 1e9)}, "type float64; dynamic=True"),
    ({**DYNAMIC, "train": GREY.astype(np.int64)}, "type int64; dynamic=True"),
    ({**DYNAMIC, "train": X}, "reach 1, where dynamic=True needs intensities 0..255; rows of 0 and 1 need no dynamic"),
    ({**DYNAMIC, "test": GREY}, "the test data of 'own' are not 0 and 1"),
    ({**DYNAMIC, "scale": 1 / 255}, "scale=0.0039.*; dynamic=True draws 0 and 1"),
    ({"image_shape": (2, 4)}, r"image_shape=\(2, 4\); rows and columns of an image are needed, whose product is 6"),
    ({"image_shape": (6,)}, r"image_shape=\(6,\);"),
    ({"image_shape": (2, 3, 1)}, r"image_shape=\(2, 3, 1\);"),
    ({"image_shape": (-2, -3)}, r"image_shape=\(-2, -3\);"),
    ({"image_shape": (2.0, 3.0)}, r"image_shape=\(2.0, 3.0\);"),
    ({"image_shape": 6}, "image_shape=6;"),
    ({"train_labels": np.zeros(39)}, r"train_labels has shape \(39,\); one label for each of the 40 train rows"),
    ({"train_labels": np.zeros((40, 1))}, r"train_labels has shape \(40, 1\);"),
    ({"train_labels": Foreign()}, "train_labels=.*; one label"),
    ({"test_labels": np.zeros(11)}, r"test_labels has shape \(11,\); one label for each of the 10 test rows"),
    ({"test_labels": 3}, r"test_labels has shape \(\); one label"),
    ({"factors": {"turn": np.zeros(10)}}, r"factors\['turn'\] has shape \(10,\); one finite number for each of the 40"),
    ({"factors": {"turn": np.full(40, np.nan)}}, r"factors\['turn'\]=.*; one finite number"),
    ({"factors": {"turn": np.full(40, "a")}}, r"factors\['turn'\]=.*; one finite number"),
    ({"factors": {3: np.zeros(40)}}, r"factors=\{3: .*; names with their arrays"),
    ({"factors": np.zeros(40)}, "factors=array.*; names with their arrays"),
    ({"log_variance_unit": float("inf")}, "log_variance_unit=inf; a finite number"),
    ({"other_scale": ("raw", None)}, r"other_scale=\('raw', None\); a name and a finite number"),
    ({"other_scale": "raw"}, "other_scale='raw'; a name"),
    ({"info": {"source": {1, 2}}}, r"info\['source'\]=\{1, 2\}; text or a finite number"),
    ({"info": {"source": Path("/x")}}, r"info\['source'\]=.*; text or a finite number"),
    ({"info": {"mean": float("nan")}}, r"info\['mean'\]=nan; text or a finite number"),
    ({"info": {1: "x"}}, r"info\[1\]='x'; text"),
    ({"info": "mine"}, "info='mine'; names with"),
    ({"true_log_prob": 3.0}, "true_log_prob is a float; a function"),
    ({"true_log_prob": lambda x: np.zeros(len(x) + 1)}, r"gives shape \(11,\) for rows \(10, 6\); one finite number"),
    ({"true_log_prob": lambda x: 0.0}, r"gives shape \(\) for rows"),
    ({"true_log_prob": lambda x: np.zeros((len(x), 6))}, r"gives shape \(10, 6\) for rows"),
    ({"true_log_prob": lambda x: np.full(len(x), np.nan)}, "gives values that are not finite for rows"),
    ({"true_log_prob": broken}, "true_log_prob raised KeyError: .*density"),
]


def own(**changes: Any) -> Dataset:
    return Dataset(**{"name": "own", "train": X, "test": Y, **changes})


class Source:
    summary: ClassVar[str] = "a data set of a test"
    decoder: ClassVar[str] = "bernoulli"

    def __init__(self, made: Dataset) -> None:
        self.made = made

    def load(self, request: Any) -> Dataset:
        return self.made


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives a data set the name "own" in the registry."""
    real = registry.create

    def name(data: Dataset) -> None:
        def create(kind: Any, name: str, *given: Any) -> Any:
            return Source(data) if (kind, name) == ("dataset", "own") else real(kind, name, *given)

        monkeypatch.setattr(registry, "create", create)

    return name


@pytest.mark.parametrize(("changes", "words"), WRONG, ids=[f"{i}-{'-'.join(c)}" for i, (c, _) in enumerate(WRONG)])
def test_each_fact(changes: dict[str, Any], words: str, named: Any, tmp_path: Path) -> None:
    data = own(**changes)
    model = aevb.VAE(hidden=5, batch_size=20)
    named(data)
    for use in (
        lambda: model.fit(data, steps=2),
        lambda: run.start(RunConfig(dataset="own", hidden=(5,), batch_size=20, steps=2), tmp_path / "run"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            use()
        assert caught.value.exit_code == 3
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 250
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rows", [X.tolist(), None, X[0], X.astype(str), X[:0]])
def test_rows_of_a_plugin(rows: Any, named: Any, tmp_path: Path) -> None:
    named(own(train=rows))
    with pytest.raises(DataError, match="the training data of 'own'"):
        run.start(RunConfig(dataset="own", hidden=(5,), batch_size=20, steps=2), tmp_path / "run")


def test_sound_facts_stay_or_become_arrays() -> None:
    data = own(
        image_shape=[2, np.int64(3)],
        scale=1,
        train_labels=["a", "b"] * 20,
        test_labels=np.array(["a", "b"] * 5, object),
        factors={"turn": list(range(40))},
        info={"n": np.int64(3), "source": "x", "none": None},
        contiguous=np.True_,
        true_log_prob=lambda x: [-1] * len(x),
        other_scale=("raw", np.float64(2)),
    )
    found = sound(data)
    assert found.image_shape == (2, 3)
    assert type(found.image_shape[1]) is int
    assert found.train_labels is not None
    assert found.train_labels.tolist() == ["a", "b"] * 20
    assert found.test_labels is not None
    assert found.test_labels.dtype.kind == "U"
    assert found.factors["turn"].tolist() == list(range(40))
    assert found.info == {"n": 3, "source": "x", "none": None}
    assert type(found.info["n"]) is int
    assert found.true_log_prob is not None
    assert found.true_log_prob(X[:3]).tolist() == [-1.0] * 3
    assert found.train is X
    again = sound(found)
    assert again.image_shape == found.image_shape


def test_what_is_true_of_the_test_rows_may_fail_for_others() -> None:
    """Asked for rows of another split later on, it is still an error in one line."""
    found = sound(own(true_log_prob=lambda x: np.zeros(10)))
    assert found.true_log_prob is not None
    with pytest.raises(DataError, match=r"gives shape \(10,\) for rows \(40, 6\)"):
        found.true_log_prob(X)


@pytest.mark.parametrize("name", ["glyphs", "faces", "simulated-binary", "simulated-normal"])
def test_the_engine_s_own_data_sets(name: str) -> None:
    options = {"train": 50, "test": 20}
    data = aevb.dataset(name, **options)
    assert sound(data).info == data.info


@pytest.mark.filterwarnings("ignore::aevb_engine.errors.ResultWarning")
@pytest.mark.parametrize("standardize", ["never", "always"])
def test_a_number_whose_square_is_beyond_the_precision_is_named(standardize: str) -> None:
    """In the first data, and in those of a later fit."""
    x = np.random.default_rng(0).standard_normal((40, 6))
    far = x.copy()
    far[17, 3] = -1e25
    model = aevb.VAE("gaussian", hidden=5, batch_size=20, standardize=standardize)
    words = r"the data reach -1e\+25 \(column 3, from 0\): their squares are beyond float32; rescale them, or take out"
    if standardize == "never":
        with pytest.raises(DataError, match=words + '.*, or use standardize="always"'):
            model.fit(far, steps=2)
    model.fit(x, steps=20)
    before = model.weights
    with pytest.raises(DataError, match=words) as caught:
        model.fit(far, steps=2)
    assert ("standardize" in str(caught.value)) == (standardize == "never")
    assert not re.search("--", str(caught.value))
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(weight, before[name])
