"""``study variance``: a table, an object, files, and bad input."""

import json
from pathlib import Path

import pytest

ARGS = ("--minibatch", "4,8", "--latent-samples", "1,2", "--replicates", "8")


def test_numbers_and_figure_are_kept(call, small):
    result = call("study", "variance", *small, *ARGS, "--steps", "5", "--seed", "3", "--output", "v")
    assert result.exit_code == 0, result.stderr
    for words in ("L^A", "L^B", "score function", "8 minibatches of 300 rows", "v/variance.json", "v/variance.png"):
        assert words in result.stdout
    record = json.loads(Path("v/variance.json").read_text())
    assert (record["steps"], record["seed"], record["hidden"], len(record["cells"])) == (5, 3, [20], 12)
    assert {c["estimator"] for c in record["cells"]} == {"elbo", "elbo-mc", "score-function"}
    assert Path("v/variance.png").read_bytes().startswith(b"\x89PNG")


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
