"""``show``: a run from its folder alone, whatever has become of it."""

import json
from pathlib import Path

from aevb_cli.text import duration, number, size, sparkline


def test_finished_run(call, train):
    result = train("--output", "r", "--eval-every", "5")
    shown = call("show", "r")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stderr == "".join(f"warning: {line}\n" for line in result["warnings"])
    for words in (
        "done, step 30 of 30",
        f"{result['test_bound']:.2f} = reconstruction",
        "display only",
        "6 evaluations",
        "sha256",
        "hidden           20",
        "train=300 test=100",
        "checkpoints  step 30",
    ):
        assert words in shown.stdout
    assert "weight-decay" not in shown.stdout
    assert "lattice" not in shown.stdout
    assert "weight-decay" in call("show", "r", "-v").stdout


def test_json(call, train):
    train("--output", "r", "--eval-every", "5")
    record = json.loads(call("show", "r", "--json").stdout)
    assert record["status"] == "done"
    assert record["changed"]["hidden"] == [20]
    assert "seed" not in record["changed"]
    assert [row[0] for row in record["evaluations"]["rows"]] == [5, 10, 15, 20, 25, 30]
    assert record["checkpoints"][-1]["step"] == 30
    assert record["result"]["steps"] == 30


def test_by_name_and_latest(call, train):
    run = train()["run"]
    assert call("show", Path(run).name).stdout == call("show", "latest").stdout


def test_density_of_whole_numbers_is_said_once(call):
    args = ("--dataset", "faces", "-o", "dataset.train=200", "-o", "dataset.test=50", "--steps", "5", "--no-figures")
    assert call("run", *args, "--quiet", "--output", "r").exit_code == 0
    assert call("show", "r").stdout.count("lattice") == 1


def test_parts_that_cannot_be_read_are_warnings(call, train):
    train("--output", "r")
    Path("r/metrics.h5").write_bytes(b"nothing")
    Path("r/checkpoints/best.json").write_text("{")
    shown = call("show", "r")
    assert shown.exit_code == 0
    assert "no curve" in shown.stderr
    assert "best.json" in shown.stderr
    assert "test bound" in shown.stdout


def test_record_of_a_run_that_never_began(call, one_error):
    folder = Path("r")
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"format": "aevb-run", "version": 1, "status": "created\x1b[31m"}))
    shown = call("show", "r")
    assert shown.exit_code == 0
    assert "\x1b" not in shown.stdout
    result = call("resume", "r")
    assert result.exit_code == 4
    assert "no configuration" in result.stderr


def test_numbers():
    assert [duration(s) for s in (0.0, 8.25, 59.94, 59.96, 250, 7500, float("nan"))] == [
        "0.0 s", "8.2 s", "59.9 s", "1 min 00 s", "4 min 10 s", "2 h 05 min", "?",
    ]  # fmt: skip
    assert [number(v) for v in (None, 1234, -1234.5, float("nan"))] == ["-", "1,234", "-1,234.50", "nan"]
    assert [size(v) for v in (1, 1500, 11_000_000)] == ["1 bytes", "1.5 kB", "11 MB"]
    assert sparkline([1.0]) == ""
    assert sparkline([float("nan"), 1.0, 2.0, 3.0]) == "▁▅█"
    assert len(sparkline(list(range(1000)))) == 40
    assert sparkline([2.0, 2.0]) == "▁▁"
