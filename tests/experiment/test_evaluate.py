"""Which rows a split holds, and what is known of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aevb_engine.data.dataset import Dataset
from aevb_engine.errors import UsageError
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.evaluate import rows_of, subject_of
from aevb_engine.experiment.session import split_rows


def session(dynamic: bool = True, **changes: Any) -> Any:
    grey = np.random.default_rng(1).integers(0, 256, (60, 8)).astype(np.uint8)
    test = (grey[:10] > 127).astype(np.uint8)
    dataset = Dataset("d", grey, test, dynamic=dynamic, binarize="dynamic" if dynamic else "none")
    return SimpleNamespace(
        dataset=dataset, config=RunConfig(**changes), model=None, held_out_columns=(), objective=None
    )


def test_dynamic_rows_are_drawn_once() -> None:
    """Intensities become 0 and 1, the same at every call; the baselines keep the intensities."""
    it = session(validation=0.25)
    for split, count in (("train", 45), ("validation", 15), ("test", 10)):
        rows = rows_of(it, split)
        assert rows.shape == (count, 8)
        assert set(np.unique(rows)) == {0, 1}
        np.testing.assert_array_equal(rows, rows_of(it, split))
    intensities, _ = split_rows(it.dataset, it.config)
    assert rows_of(it, "train").mean() == pytest.approx(intensities.mean() / 255, abs=4 * 0.5 / np.sqrt(45 * 8))
    subject = subject_of(it, "train")
    assert (subject.train_scale, subject.scale) == (1 / 255, 1.0)
    np.testing.assert_array_equal(subject.train, intensities)


def test_splits_do_not_meet() -> None:
    """Training and validation rows are a partition of the training set, without the test rows."""
    it = session(dynamic=False, validation=0.25)
    train, validation = split_rows(it.dataset, it.config)
    assert validation is not None
    together = np.concatenate([train, validation])
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(it.dataset.train, axis=0))
    assert len({row.tobytes() for row in train} & {row.tobytes() for row in validation}) == 0


def test_no_validation_rows() -> None:
    with pytest.raises(UsageError, match="held out no validation rows"):
        rows_of(session(), "validation")
