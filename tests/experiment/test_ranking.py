"""Ranks of varied runs: by what, among which, and where there is none."""

from __future__ import annotations

from typing import Any

import pytest

from aevb_engine.experiment.ranking import in_order, ranked


def result(bound: float | None, seed: int = 0, *, more: dict[str, Any] | None = None, **varied: Any) -> dict[str, Any]:
    facts = {"dataset": "mnist", "binarize": "static", "measure": "mass", "seed": seed, "test_bound": bound}
    return {**facts, "varied": varied, **(more or {})}


def ranks(found: dict[str, Any]) -> list[int | None]:
    return [c["rank"] for c in found["combinations"]]


def test_validation_chooses_where_all_have_it() -> None:
    results = [
        result(-1.0, lr=1.0, more={"validation_bound": -9.0}),
        result(-2.0, lr=2.0, more={"validation_bound": -8.0}),
    ]
    assert (ranked(results, [])["ranked_by"], ranks(ranked(results, []))) == ("validation_bound", [2, 1])
    del results[0]["validation_bound"]
    assert (ranked(results, [])["ranked_by"], ranks(ranked(results, []))) == ("test_bound", [1, 2])


def test_the_mean_over_the_seeds_ranks() -> None:
    results = [result(b, s, lr=lr) for lr, s, b in [(1.0, 0, -1.0), (1.0, 1, -9.0), (2.0, 0, -4.0), (2.0, 1, -4.5)]]
    found = ranked(results, [])
    assert ranks(found) == [2, 1]
    assert found["combinations"][0]["test_bound_sd"] == pytest.approx(8 / 2**0.5)
    assert [c["varied"]["lr"] for c in in_order(found["combinations"])] == [2.0, 1.0]


def test_seeds_that_are_varied_are_one_combination() -> None:
    found = ranked([result(-float(s), s, more={"varied": {"lr": 1.0, "seed": s}}) for s in (1, 2)], [])
    assert [(c["varied"], c["runs"]) for c in found["combinations"]] == [({"lr": 1.0}, 2)]


@pytest.mark.parametrize(
    ("name", "values"),
    [("binarize", ("static", "none")), ("measure", ("mass", "density")), ("dataset", ("mnist", "glyphs"))],
)
def test_what_does_not_compare_has_ranks_of_its_own(name: str, values: tuple[str, str]) -> None:
    results = [
        result(b, lr=lr, option=v, more={name: v})
        for v, lr, b in [(values[0], 1.0, -5.0), (values[0], 2.0, -4.0), (values[1], 1.0, -1.0), (values[1], 2.0, -2.0)]
    ]
    found = ranked(results, [])
    assert (found["ranked_within"], ranks(found)) == ([name], [2, 1, 1, 2])
    assert [(c["within"][name], c["rank"]) for c in in_order(found["combinations"])] == [
        (values[0], 1), (values[0], 2), (values[1], 1), (values[1], 2),
    ]  # fmt: skip


def test_scale_and_options_of_the_data_set_do_not_compare() -> None:
    for key, values in (("scale", ("unit", "raw")), ("dataset.train", (100, 200))):
        found = ranked([result(-float(i), **{key: v}) for i, v in enumerate(values)], [])
        assert (found["ranked_within"], ranks(found)) == ([key], [1, 1])


def test_learners_and_decoders_of_one_measure_compare() -> None:
    found = ranked([result(-1.0, decoder="gaussian", more={"decoder": "gaussian"}),
                    result(-2.0, decoder="laplace", more={"decoder": "laplace"})], [])  # fmt: skip
    assert (found["ranked_within"], ranks(found)) == ([], [1, 2])
    assert ranks(ranked([result(-3.0, **{"objective.beta": 1.0}), result(-2.0, **{"objective.beta": 4.0})], [])) == [
        2,
        1,
    ]


def test_what_is_not_finite_or_diverged_has_no_rank() -> None:
    """They are last, those that diverged behind those that ended."""
    lost = [{"run": "r", "seed": 0, "status": "diverged", "varied": {"lr": 9.0}}]
    found = ranked([result(float("nan"), lr=1.0), result(-3.0, lr=2.0), result(-2.0, lr=3.0)], lost)
    assert ranks(found) == [None, 2, 1, None]
    assert [c["varied"]["lr"] for c in in_order(found["combinations"])] == [3.0, 2.0, 1.0, 9.0]
    assert [c["diverged"] for c in found["combinations"]] == [0, 0, 0, 1]
    only = ranked([], lost)
    assert (only["ranked_by"], ranks(only)) == (None, [None])


def test_without_any_bound() -> None:
    results = [result(None, lr=lr, more={"train_reconstruction": -lr}) for lr in (2.0, 1.0)]
    assert (ranked(results, [])["ranked_by"], ranks(ranked(results, []))) == ("train_reconstruction", [2, 1])
    for i, each in enumerate(results):
        each["test_reconstruction"] = -float(i)
    assert (ranked(results, [])["ranked_by"], ranks(ranked(results, []))) == ("test_reconstruction", [1, 2])
