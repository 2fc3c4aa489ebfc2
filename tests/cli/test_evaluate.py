"""``evaluate``: the numbers of a run from its folder, as text and as JSON, and every kind of bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from aevb_cli.evaluate import report
from aevb_engine.experiment.folder import RunFolder

FIELDS = {
    "schema", "run", "checkpoint", "dataset", "binarize", "scale", "split", "decoder", "objective", "seed", "threads",
    "backend", "device", "unit", "measure", "dimensions", "rows_in_split", "lattice", "other_scale", "bound",
    "estimates", "pairs", "bracket", "latent", "baselines", "truth", "notes", "seconds", "warnings",
}  # fmt: skip


@pytest.fixture
def record(call):
    """The object of ``evaluate --json``."""

    def invoke(*args):
        result = call("evaluate", *args, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return invoke


def test_the_bound_is_that_of_the_run(train, record):
    """The last checkpoint, the run's seed: the same draw of noise as at the end of training."""
    trained = train("--output", "r", "--seed", "3")
    before = {p: p.read_bytes() for p in Path("r").rglob("*") if p.is_file()}
    found = record("r", "--samples", "30", "--threads", "1")
    assert set(found) == FIELDS
    assert found["bound"]["value"] == pytest.approx(trained["test_bound"], rel=1e-6)
    assert found["bound"]["se"] == pytest.approx(trained["test_bound_se"], rel=1e-6)
    assert found["bound"]["kl"] == pytest.approx(trained["test_kl"], rel=1e-5)
    assert found["checkpoint"] == {"step": 30, "which": "last"}
    assert (found["seed"], found["split"], found["rows_in_split"], found["measure"]) == (3, "test", 100, "mass")
    assert found["estimates"][0]["samples"] == 30
    assert found["truth"]["value"] == pytest.approx(-50 * np.log(2))
    assert found["baselines"][0]["name"] == "independent Bernoulli"
    assert {p: p.read_bytes() for p in Path("r").rglob("*") if p.is_file()} == before


def test_splits_and_checkpoints(train, record):
    """A run with validation is evaluated at its best step unless the last is asked for."""
    train("--output", "r", "--validation", "0.2", "--eval-every", "10")
    counts = {
        s: record("r", "--method", "none", "--split", s)["rows_in_split"] for s in ("test", "validation", "train")
    }
    assert counts == {"test": 100, "validation": 60, "train": 240}
    assert record("r", "--method", "none")["checkpoint"]["which"] == "best"
    assert record("r", "--method", "none", "--checkpoint", "last")["checkpoint"] == {"step": 30, "which": "last"}


def test_validation_bound_is_that_of_the_log(train, call, record):
    train("--output", "r", "--validation", "0.2", "--eval-every", "10")
    logged = json.loads(call("show", "r", "--json").stdout)["evaluations"]
    last = dict(zip(logged["columns"], logged["rows"][-1], strict=True))
    found = record("r", "--method", "none", "--split", "validation", "--checkpoint", "last")
    assert found["bound"]["value"] == pytest.approx(last["bound"], rel=1e-6)


def test_text(train, call):
    train("--output", "r")
    result = call("evaluate", "r", "--samples", "30", "--rows", "50")
    assert result.exit_code == 0, result.stderr
    for words in ("bound L^B", "- KL", "importance sampling, K = 30", "independent Bernoulli", "log p_true(x)",
                  "active units", "effective samples", "step 30 (last)"):  # fmt: skip
        assert words in result.stdout
    assert result.stderr == ""
    assert call("evaluate", "r", "--samples", "30", "--quiet").stdout == ""


def test_estimates_of_other_rows_stand_beside_the_bound_of_the_same_rows(train, call, record):
    """No column holds numbers of different rows without saying so."""
    train("--output", "r")
    args = ("r", "--samples", "is=50,ais=2", "--method", "is,ais", "--rows", "5", "--temperatures", "3")
    found = record(*args)
    for each in found["estimates"]:
        assert each["bound_of_rows"] == pytest.approx(each["value"] - each["above_bound"], rel=1e-9)
        assert each["bound_of_rows_se"] != found["bound"]["se"]
    first = found["estimates"][0]
    assert first["bound_of_rows_bits"] == pytest.approx(-first["bound_of_rows"] / 50 / np.log(2))
    lines = call("evaluate", *args).stdout.splitlines()
    every, some = lines.index("all 100 rows"), lines.index("the first 5 rows")
    end = lines.index("", some)
    titles = [re.split(r"  +", line.strip())[0] for line in lines[every:end]]
    assert titles == [
        "all 100 rows", "bound L^B", "reconstruction", "- KL", "independent Bernoulli", "log p_true(x)",
        "the first 5 rows", "bound L^B", "log p(x), importance sampling, K = 50",
        "log p(x), annealed importance sampling, K = 2",
    ]  # fmt: skip
    assert f" {first['bound_of_rows']:.2f} " in lines[some + 1]
    whole = call("evaluate", "r", "--samples", "50").stdout
    assert "the first" not in whole
    assert whole.count("bound L^B") == 1


def test_rows_that_a_method_refused_are_left_out_of_its_bound_too(train, record):
    train("--output", "r")
    found = record("r", "--samples", "50", "--rows", "5")
    found["estimates"][0] |= {"rows": 3, "refused": 2, "method": "hmc", "bound_of_rows": -77.0}
    text = report(found, verbose=False)
    assert "the first 5 rows but 2 that hmc refused" in text
    assert "-77.00" in text


def test_methods(train, record):
    train("--output", "r")
    found = record("r", "--method", "is", "--method", "ais", "--samples", "is=50,ais=2", "--rows", "2")
    assert [e["method"] for e in found["estimates"]] == ["is", "ais"]
    assert [e["samples"] for e in found["estimates"]] == [50, 2]
    assert found["bracket"] is None
    assert len(found["pairs"]) == 1
    sides = {"forward": -31.0, "reverse": -30.5, "gap": 0.5, "gap_se": 0.1}
    accepted = {"acceptance_forward": 0.9, "acceptance_reverse": 0.8}
    found["bracket"] = {"rows": 2, "samples": 2, "temperatures": 100, **accepted, **sides}
    text = report(found, verbose=True)
    for words in ("annealed importance sampling, K = 2", "is - ais", "acceptance", "between -31.00"):
        assert words in text


def test_temperatures(train, call, record):
    """Of both kinds of annealing; one step moves no chain, and has no acceptance to tell."""
    train("--output", "r")
    given = ("r", "--method", "ais", "--samples", "2", "--rows", "2", "--bracket", "--temperatures")
    found = record(*given, "7")
    assert (found["estimates"][0]["temperatures"], found["bracket"]["temperatures"]) == (7, 7)
    assert record("r", "--samples", "2")["estimates"][0]["temperatures"] is None
    told = call("evaluate", *given, "1").stdout
    assert "(2 rows, 2 chains, 1 temperatures)" in told
    assert "acceptance" not in told


def test_the_seed_is_the_evaluations_own(train, record):
    train("--output", "r")
    one, again, other = (record("r", "--samples", "10", "--seed", s) for s in "115")
    assert one["estimates"][0]["value"] == again["estimates"][0]["value"]
    assert one["estimates"][0]["value"] != other["estimates"][0]["value"]
    assert one["baselines"] != []
    assert one["truth"]["value"] == other["truth"]["value"]


@pytest.mark.parametrize(
    ("code", "args", "words"),
    [
        (2, ("nowhere",), "no run nowhere"),
        (2, ("r", "--method", "iss"), "did you mean 'is'?"),
        (2, ("r", "--method", "is,none"), "'none'"),
        (2, ("r", "--samples", "0"), "--samples 0"),
        (2, ("r", "--samples", "many"), "--samples many"),
        (2, ("r", "--samples", "=5"), "--samples =5"),
        (2, ("r", "--samples", "is=5,6"), "--samples is=5,6"),
        (2, ("r", "--samples", "is=5,ais="), "--samples is=5,ais="),
        (2, ("r", "--samples", "as=5"), "did you mean"),
        (2, ("r", "--samples", "5", "--method", "is,ais"), "is=5,ais=5"),
        (2, ("big", "--method", "hmc"), "6 latent dimensions"),
        (2, ("r", "--temperatures", "50"), "--temperatures 50: add --method ais or --bracket"),
        (2, ("r", "--method", "ais", "--temperatures", "0"), "--temperatures 0"),
        (2, ("r", "--bracket", "--temperatures", "few"), "--temperatures"),
        (2, ("r", "--rows", "101"), "has 100 rows"),
        (2, ("r", "--rows", "0"), "--rows 0"),
        (2, ("r", "--split", "validation"), "held out no validation rows"),
        (2, ("r", "--split", "tset"), "--split"),
        (2, ("r", "--checkpoint", "best"), "no sound best checkpoint"),
        (2, ("r", "--seed", "-1"), "--seed"),
        (2, ("r", "--threads", "0"), "--threads"),
        (2, (), "RUN"),
    ],
)
def test_bad_input(one_error, train, code, args, words):
    train("--output", "r")
    if "big" in args:
        train("--output", "big", "--latent-dim", "6")
    assert words in one_error(code, "evaluate", *args)


def test_a_damaged_checkpoint(one_error, train, call):
    train("--output", "r")
    for path in Path("r/checkpoints").glob("*.h5"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert "no sound checkpoint" in one_error(4, "evaluate", "r")
    for path in Path("r/checkpoints").glob("*"):
        path.unlink()
    assert "no sound checkpoint" in one_error(4, "evaluate", "r")


def test_an_older_checkpoint_stands_in_for_a_damaged_one(train, record):
    train("--output", "r", "--validation", "0.2", "--eval-every", "10")
    steps = sorted(Path("r/checkpoints").glob("*.h5"))
    if len(steps) > 1:
        steps[-1].write_bytes(b"nothing")
        found = record("r", "--method", "none", "--checkpoint", "last")
        assert found["checkpoint"]["step"] < 30
        assert any("ckpt" in w for w in found["warnings"])


def test_other_data_are_refused(one_error, train):
    train("--output", "r")
    folder = RunFolder(Path("r"))
    folder.update(data={**folder.read_record()["data"], "rows_sha256": "0" * 64})
    assert "other content" in one_error(4, "evaluate", "r")


def test_a_checkpoint_of_another_model_is_refused(one_error, train):
    train("--output", "r")
    folder = RunFolder(Path("r"))
    folder.update(config={**folder.read_record()["config"], "hidden": [21]})
    assert "the configuration needs" in one_error(4, "evaluate", "r")


def test_a_folder_that_is_no_run(one_error):
    Path("plain").mkdir()
    assert "run.json" in one_error(4, "evaluate", "plain")


def test_a_run_without_encoder(train, record, one_error):
    """Monte Carlo EM: no bound, no importance sampling, no active units; annealing is the default."""
    train("--output", "r", "--objective", "mcem")
    found = record("r", "--rows", "2", "--samples", "2")
    assert found["bound"] is None
    assert found["latent"] is None
    assert [e["method"] for e in found["estimates"]] == ["ais"]
    assert any("no bound" in n for n in found["notes"])
    assert found["baselines"][0]["bound_above"] is None
    assert "trains no q(z | x)" in one_error(2, "evaluate", "r", "--method", "is")
    assert "independent Bernoulli" in report(found, verbose=False)


def test_another_objective_is_said(train, record):
    train("--output", "r", "--objective", "beta", "-o", "objective.beta=4")
    assert any("beta = 4" in n for n in record("r", "--method", "none")["notes"])


def test_live_progress_leaves_nothing_behind(train, terminal):
    train("--output", "r")
    shown = terminal("evaluate", "r", "--samples", "2000")
    assert shown.code == 0
    assert "bound L^B" in shown.output
    assert shown.output.count("\x1b[?25l") == shown.output.count("\x1b[?25h")  # the cursor is back


def test_an_autoencoder_has_no_posterior(train, record, one_error):
    train("--output", "r", "--objective", "autoencoder")
    assert record("r", "--method", "none")["bound"] is None
    assert "trains no q(z | x)" in one_error(2, "evaluate", "r", "--method", "is")
