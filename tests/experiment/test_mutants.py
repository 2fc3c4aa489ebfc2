"""The short form of benchmarks/attacks/mutants.py: what is read of a changed file is told, or is what was written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ATTACKS = Path(__file__).parents[2] / "benchmarks" / "attacks"


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs cases; the report."""
    sys.path.insert(0, str(ATTACKS))
    try:
        import folders
        import mutants
    finally:
        sys.path.remove(str(ATTACKS))
    place = tmp_path_factory.mktemp("mutants")
    with pytest.MonkeyPatch.context() as patch:
        from aevb_engine.experiment import run

        patch.setattr(run, "CHECKPOINT_SECONDS", run.CHECKPOINT_SECONDS)  # both are set by what follows
        patch.setattr(run, "CHECKPOINT_SHARE", run.CHECKPOINT_SHARE)
        mutants.prepare(place)

    def cases(first: int, last: int, *, quick: bool) -> Any:
        report = folders.Report("mutants", mutants.PROMISES)
        mutants.run_all(place, 3, first, last, report, quick=quick)
        return report

    return cases


def test_logs_read_in_a_moment(attack: Any) -> None:
    report = attack(0, 250, quick=True)
    assert report.broken == []
    assert report.count == 250
    assert report.outcomes["metrics: told"] > 50
    assert report.outcomes["metrics: the same"] > 20  # what is changed carries no meaning


def test_every_use_of_every_kind_of_file(attack: Any) -> None:
    report = attack(0, 10, quick=False)
    assert report.broken == []
    assert report.count == 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_cases(attack: Any) -> None:
    for quick, count in ((True, 5000), (False, 500)):
        report = attack(10_000, 10_000 + count, quick=quick)
        assert report.broken == []
        assert report.count == count
