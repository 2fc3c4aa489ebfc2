"""History: rows by steps and not by blocks, the same for the same fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.interface.history import HISTORY_EVERY, History

X = (np.random.default_rng(0).random((60, 20)) < 0.3).astype(np.uint8)


def rows(first: int, last: int) -> np.ndarray:
    """Of TRAIN_COLUMNS, whose bound is the step, for steps ``first`` to ``last``."""
    steps = np.arange(first, last + 1, dtype=float)
    return np.stack([steps, steps, steps, 2 * steps, -steps, np.ones_like(steps)], axis=1)


def taken(blocks: list[int], end: int) -> list[dict[str, float]]:
    found: list[dict[str, float]] = []
    history, step = History(found), 0
    history.begin(0)
    for size in blocks:
        history.add(rows(step + 1, step + size))
        step += size
    history.close(end)
    return found


@pytest.mark.parametrize("blocks", [[173], [50, 50, 50, 23], [1] * 173, [49, 3, 100, 21], [7, 160, 6]])
def test_blocks_do_not_matter(blocks: list[int]) -> None:
    found = taken(blocks, 173)
    assert [row["step"] for row in found] == [50, 100, 150, 173]
    assert found[0] == {"step": 50, "bound": 25.5, "reconstruction": 51, "kl": -25.5}
    assert found[3]["bound"] == (151 + 173) / 2


@pytest.mark.parametrize("end", [173, 172, 150, 149, 101, 100, 1, 0])
def test_what_lies_behind_the_kept_step_goes(end: int) -> None:
    assert taken([60, 60, 53], end) == taken([end] if end else [], end)


def test_two_parts_differ_in_the_window_that_was_cut() -> None:
    found: list[dict[str, float]] = []
    history = History(found)
    history.begin(0)
    history.add(rows(1, 70))
    history.close(70)
    history.begin(70)
    history.add(rows(71, 150))
    history.close(150)
    whole = taken([150], 150)
    assert [row["step"] for row in found] == [50, 70, 100, 150]
    assert [row for row in found if row in whole] == [whole[0], whole[2]]
    assert found[2]["bound"] == (71 + 100) / 2


def test_a_fit_that_began_elsewhere() -> None:
    """A loaded model: what was before is not known."""
    found: list[dict[str, float]] = []
    history = History(found)
    history.begin(130)
    history.add(rows(131, 210))
    history.close(210)
    assert [(row["step"], row["bound"]) for row in found] == [(150, 140.5), (200, 175.5), (210, 205.5)]


def test_old_numbers_are_not_kept() -> None:
    history = History([])
    history.begin(0)
    for first in range(1, 200_001, 5000):
        history.add(rows(first, first + 4999))
    assert sum(map(len, history._recent)) <= 30_000


def test_the_same_fit_has_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def fitted(*steps: int) -> list[dict[str, float]]:
        model = aevb.VAE(hidden=5, batch_size=20, backend="cpu", threads=1, seed=1, lr_schedule="constant")
        for count in steps:
            model.fit(X, steps=count)
        return model.history

    whole = fitted(230)
    assert [row["step"] for row in whole] == [50, 100, 150, 200, 230]
    monkeypatch.setattr("aevb_engine.training.loop.RESPONSE", 1e-4)  # blocks of some steps
    assert fitted(230) == whole
    parts = fitted(120, 110)
    assert [row["step"] for row in parts] == [50, 100, 120, 150, 200, 230]
    assert [row for row in parts if row in whole] == [whole[i] for i in (0, 1, 3, 4)]


def test_the_list_is_the_users_to_empty_or_replace() -> None:
    model = aevb.VAE(hidden=5, batch_size=20, backend="cpu", threads=1, seed=1).fit(X, steps=120)
    model.history.clear()
    model.fit(X, steps=50)
    assert [row["step"] for row in model.history] == [150, 170]
    kept, model.history = model.history, []
    model.fit(X, steps=50)
    assert [row["step"] for row in model.history] == [200, 220]
    assert len(kept) == 2


def test_the_callback_sees_every_row_and_ends_the_fit() -> None:
    seen: list[dict[str, Any]] = []
    model = aevb.VAE(hidden=5, batch_size=20, backend="cpu", threads=1, seed=1)
    model.fit(X, steps=120, callback=seen.append)
    assert [{k: v for k, v in row.items() if k != "part"} for row in seen] == model.history
    assert {row["part"] for row in seen} == {"train"}
    model.fit(X, steps=10_000, callback=lambda row: row["step"] >= 500)
    assert 500 <= model.history[-1]["step"] < 500 + 2 * HISTORY_EVERY
    model.fit(X, steps=200, callback=lambda row: 1)  # not True
    assert model.history[-1]["step"] >= 700
