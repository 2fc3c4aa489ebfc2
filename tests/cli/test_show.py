"""``show``: a run from its folder alone, whatever has become of it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from aevb_cli.text import duration, number, size, sparkline
from aevb_engine.experiment.folder import RunFolder
from aevb_engine.experiment.log import MetricsLog, read
from aevb_engine.training.loop import EVAL_COLUMNS
from aevb_engine.training.trainer import TRAIN_COLUMNS


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


def test_csv_reads_back_to_the_same_numbers(call, train):
    train("--output", "r", "--eval-every", "5")
    for name, count in (("train", 30), ("eval", 6)):
        shown = call("show", "r", "--csv", name)
        assert (shown.exit_code, shown.stderr) == (0, "")
        head, *lines = shown.stdout.splitlines()
        columns, rows = read("r/metrics.h5")[name]
        assert head.split(",") == list(columns)
        assert len(lines) == count
        assert np.array_equal(np.array([[float(v) for v in line.split(",")] for line in lines]), rows)
        assert lines[0].split(",")[0] == ("1" if name == "train" else "5")


def test_csv_of_what_an_objective_does_not_define(call, train):
    train("--output", "r", "--objective", "autoencoder")
    assert ",nan," in call("show", "r", "--csv", "train").stdout.splitlines()[1]


def test_csv_that_cannot_be(one_error, train):
    train("--output", "r")
    assert "exclude each other" in one_error(2, "show", "r", "--csv", "eval", "--json")
    assert "--csv" in one_error(2, "show", "r", "--csv", "steps")
    Path("r/metrics.h5").write_bytes(b"nothing")
    assert "metrics.h5" in one_error(4, "show", "r", "--csv", "eval")


def test_the_documented_reader_sees_what_a_writer_adds(tmp_path):
    """The code of docs/runs.md beside an open log, and after the file has been replaced."""
    text = (Path(__file__).parents[2] / "docs/runs.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    path = tmp_path / "metrics.h5"
    code = code.replace("runs/my-run/metrics.h5", str(path))
    columns = {"train": TRAIN_COLUMNS, "eval": EVAL_COLUMNS}
    for name, of in columns.items():
        cells = re.search(rf"^\| `{name}` \| (.*) \|$", text, re.MULTILINE)[1]
        assert tuple(re.findall(r"`(\w+)`", cells)) == of
    with MetricsLog.create(path, columns) as log:
        log.append("eval", np.arange(7.0))
        log.commit()
        assert _printed(code) == ["0.0", "5.0", "False"]
    copied = "    __import__('shutil').copy(path, path + '.new'); os.replace(path + '.new', path)\n"
    assert _printed(code.replace("    replaced =", f"{copied}    replaced =")) == ["0.0", "5.0", "True"]


def _printed(code):
    """By a process of its own: HDF5 opens no file twice in two ways."""
    code = code.replace("print(dict(zip(columns, rows[-1])))", "found = dict(zip(columns, rows[-1]))")
    code += "\nprint(found['step'], found['bound_se'], replaced)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_best_step_of_the_test_set_is_not_called_so(call, train):
    """As older records have one."""
    train("--output", "r", "--eval-every", "5")
    assert "best" not in call("show", "r", "-v").stdout
    folder = RunFolder(Path("r"))
    folder.update(result={**folder.read_record()["result"], "best_step": 10})
    assert "best" not in call("show", "r", "-v").stdout
    folder.update(held_out="validation")
    assert "best         step 10" in call("show", "r").stdout


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


def test_a_record_changed_by_hand_is_shown_with_a_word(call, train, one_error):
    train("--output", "r")
    path = Path("r/run.json")
    bound = json.loads(path.read_text())["result"]["test_bound"]
    path.write_text(path.read_text().replace(repr(bound), "-1.25"))
    shown = call("show", "r")
    assert shown.exit_code == 0
    assert "-1.25" in shown.stdout
    assert "warning: r/run.json was changed after the run wrote it" in shown.stderr
    assert any("was changed" in line for line in json.loads(call("show", "r", "--json").stdout)["warnings"])
    for command in ("resume", "evaluate"):
        assert "was changed after" in one_error(4, command, "r")


def test_rows_that_a_done_run_has_lost(call, train, one_error):
    train("--output", "r")
    with MetricsLog.resume(Path("r/metrics.h5"), 20, run=RunFolder(Path("r")).read_record()["id"]):
        pass
    assert "has lost rows: 6 of 10 of 'eval'" in one_error(4, "show", "r", "--csv", "train")
    assert "has lost rows" in call("show", "r").stderr
    call("resume", "r", "--no-figures")
    assert len(call("show", "r", "--csv", "train").stdout.splitlines()) == 31
