"""``study``: a table, an object, files, and bad input; an interrupted comparison of learners."""

import json
import os
import signal
from pathlib import Path

import pytest

from aevb_cli.study import _print
from aevb_engine.evaluation import ais
from tests.patience import patience, until

ARGS = ("--minibatch", "4,8", "--latent-samples", "1,2", "--replicates", "8")
AIS = ("--rows", "4", "--temperatures", "4", "--chains", "2", "--threads", "1")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """A pilot of few moves: how good the estimates are is not what these tests are about."""
    monkeypatch.setattr(ais, "PILOT_MOVES", 5)


def test_numbers_and_figure_are_kept(call, small):
    result = call("study", "variance", *small, *ARGS, "--steps", "5", "--seed", "3", "--output", "v")
    assert result.exit_code == 0, result.stderr
    for words in ("L^A", "L^B", "score function", "8 minibatches of 300 rows", "v/variance.json", "v/variance.png"):
        assert words in result.stdout
    record = json.loads(Path("v/variance.json").read_text())
    assert (record["steps"], record["seed"], record["hidden"], len(record["cells"])) == (5, 3, [20], 12)
    assert {c["estimator"] for c in record["cells"]} == {"elbo", "elbo-mc", "score-function"}
    assert Path("v/variance.png").read_bytes().startswith(b"\x89PNG")


def test_a_square_below_zero_is_explained(capsys):
    cell = {"batch": 4, "samples": 1, "estimator": "elbo", "variance": 2.0, "variance_se": 0.1, "noise": 1.0}
    cell |= {"noise_se": 0.1, "signal": 0.5}
    record = {"replicates": 4, "rows": 300, "output": "v", "figure": None, "cells": [cell]}
    _print(record)
    assert "*" not in capsys.readouterr().out
    _print({**record, "cells": [cell, {**cell, "signal": -0.25}]})
    out = capsys.readouterr().out
    assert "-0.25 *" in out
    assert "0.5 *" not in out
    assert "0 within its error" in out.split("* |mean|^2", 1)[1]


def test_json_is_what_is_kept(call, small):
    result = call("study", "variance", *small, *ARGS, "--json", "--no-figures")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record == json.loads(Path("study-variance/variance.json").read_text())
    assert record["figure"] is None
    assert record["steps"] == 0
    again = json.loads(call("study", "variance", *small, *ARGS, "--json", "--no-figures", "--output", "w").stdout)
    assert again["cells"] == record["cells"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--minibatch", "0"), "--minibatch 0"),
        (("--minibatch", "4,x"), "--minibatch 4,x"),
        (("--latent-samples", ""), "--latent-samples"),
        (("--minibatch", "100000", "--latent-samples", "10"), "at most"),
        (("--replicates", "3"), "--replicates 3"),
        (("--steps", "-1"), "--steps -1"),
        (("--dataset", "glyhps"), "did you mean 'glyphs'?"),
        (("--objective", "mcem", "-o", "objective.updates=5"), "no encoder"),
        (("--epochs", "1"), "--epochs"),
    ],
)
def test_bad_input(one_error, small, args, words):
    assert words in one_error(2, "study", "variance", *small, *args)


def test_output_that_exists(one_error, small):
    Path("study-variance").mkdir()
    Path("study-variance/precious").touch()
    assert "exists" in one_error(2, "study", "variance", *small, *ARGS)


def test_unknown_study(one_error):
    assert "did you mean 'variance'?" in one_error(2, "study", "varince")


def test_learners_table_numbers_and_figure(call, small):
    args = ("--train-rows", "100,300", "--seen", "100", "--seed", "3", *AIS, "--output", "v")
    result = call("study", "learners", *small, *args)
    assert result.exit_code == 0, result.stderr
    for words in ("100 training data points", "300 training data points", "wake-sleep", "mcem *", "- first",
                  "4 temperatures, 2 chains", "differences to elbo", "an extension", "v/learners.json",
                  "v/learners.png"):  # fmt: skip
        assert words in result.stdout
    assert "mcem  " in result.stdout  # on the whole training set it is no extension
    assert max(map(len, result.stdout.splitlines()[:10])) <= 80
    assert Path("v/learners.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads(Path("v/learners.json").read_text())
    assert (record["status"], record["seed"], record["hidden"], len(record["curves"])) == ("done", 3, [20], 6)


def test_learners_json_is_what_is_kept(call, small):
    args = ("--objectives", "elbo,mcem", "-o", "mcem.updates=2", "--seen", "100,200", *AIS, "--json", "--no-figures")
    result = call("study", "learners", *small, *args)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record == json.loads(Path("study-learners/learners.json").read_text())
    assert record["figure"] is None
    assert [c["updates"] for c in record["curves"]] == [1, 2]


def test_learner_that_diverges(call, small):
    args = ("--objectives", "elbo", "--optimizer", "sgd", "--lr", "1e30", "--seen", "100,1000", *AIS)
    result = call("study", "learners", *small, *args, "--json", "--no-figures")
    assert result.exit_code == 1
    assert "elbo diverged" in result.stderr.splitlines()[-1]
    assert json.loads(result.stdout)["curves"][0]["diverged"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_learners_keep_what_was_measured_at_a_signal(spawn, small, number, code):
    child = spawn("study", "learners", *small, "--seen", "100,100000000", *AIS, "--output", "v")
    until(lambda: Path("v/learners.json").exists() or child.poll() is not None, "the first learner")
    child.send_signal(number)
    out, err = child.communicate(timeout=patience())
    assert (child.returncode, out) == (code, "")
    assert err.splitlines()[-1] == "error: interrupted; what was measured is kept in v/learners.json"
    record = json.loads(Path("v/learners.json").read_text())
    assert record["status"] == "interrupted"
    assert [e["seen"] for e in record["curves"][0]["evaluations"]] == [100]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--objectives", "elbo,mcm"), "did you mean 'mcem'?"),
        (("--objectives", ""), "--objectives"),
        (("-o", "mcem.update=1"), "update"),
        (("-o", "objective.updates=1"), "name the learner, such as -o mcem.updates=1"),
        (("-o", "iwae.updates=1"), "iwae"),
        (("--train-rows", "0"), "--train-rows 0"),
        (("--train-rows", "99"), "at least a minibatch (100)"),
        (("--train-rows", "100,301"), "--train-rows 301: 'simulated-binary' has 300 training rows"),
        (("--seen", "1e6"), "--seen 1e6"),
        (("--seen", "0"), "--seen 0"),
        (("--rows", "1"), "--rows 1"),
        (("--temperatures", "0"), "--temperatures 0"),
        (("--chains", "0"), "--chains 0"),
        (("--batch-size", "0"), "--batch-size 0"),
        (("--dataset", "glyhps"), "did you mean 'glyphs'?"),
        (("--objective", "elbo"), "--objective"),
    ],
)
def test_learners_bad_input(one_error, small, args, words):
    assert words in one_error(2, "study", "learners", *small, *args)


def test_learners_output_that_exists(one_error, small):
    Path("study-learners").mkdir()
    Path("study-learners/precious").touch()
    assert "exists" in one_error(2, "study", "learners", *small, *AIS)
