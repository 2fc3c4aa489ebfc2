"""Completion by the shell, through the variables that click's scripts set."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def offered(process):
    """What is offered for a command line whose last word is being typed."""

    def ask(*words, **more):
        environment = {
            **os.environ,
            "_AEVB_ENGINE_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("aevb-engine", *words)),
            "COMP_CWORD": str(len(words)),
            **more,
        }
        done = process(env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        return [line.partition(",")[2] for line in done.stdout.splitlines() if line]

    return ask


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(process, shell):
    done = process(env={**os.environ, "_AEVB_ENGINE_COMPLETE": f"{shell}_source"})
    assert done.returncode == 0
    assert f"_AEVB_ENGINE_COMPLETE={shell}_complete" in done.stdout
    assert "aevb-engine" in done.stdout


def test_it_is_documented(call):
    told = call("--help").stdout
    assert 'eval "$(_AEVB_ENGINE_COMPLETE=bash_source aevb-engine)"' in told
    assert "_AEVB_ENGINE_COMPLETE=zsh_source" in (Path(__file__).parents[2] / "docs/runs.md").read_text()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("sh",), ["show"]),
        (("run", "--dataset", "gl"), ["glyphs"]),
        (("run", "--decoder", "ga"), ["gaussian"]),
        (("run", "--optimizer", "ada"), ["adagrad", "adam"]),
        (("run", "--objective", "elbo"), ["elbo", "elbo-mc"]),
        (("run", "--vary", "latent"), ["latent-dim="]),
        (("run", "-o", "dec"), ["decoder."]),
        (("run", "--output", "a"), ["a"]),
        (("study", "variance", "--dataset", "mn"), ["mnist"]),
        (("study", "learners", "--objectives", "elbo,mc"), ["elbo,mcem"]),
        (("study", "learners", "--objectives", "mcem,mc"), []),
        (("datasets", "show", "frey"), ["freyfaces"]),
        (("plugins", "show", "dec"), ["decoder"]),
        (("plugins", "show", "optimizer", "s"), ["sgd"]),
        (("plugins", "show", "none", "s"), []),
        (("show", "l"), ["l"]),  # no run: a folder
    ],
)
def test_names(offered, words, found):
    assert offered(*words) == found


def test_runs(offered):
    for name in ("20260101T120000Z-glyphs-bernoulli-0a1b2c", "20260102T120000Z-glyphs-bernoulli-0a1b2c"):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "run.json").touch()
    Path("runs/no-run").mkdir()
    Path("mine").mkdir()
    Path("mine/run.json").write_text("{")  # none is read
    for command in ("show", "resume", "evaluate"):
        both = ["20260102T120000Z-glyphs-bernoulli-0a1b2c", "20260101T120000Z-glyphs-bernoulli-0a1b2c"]
        assert offered(command, "") == ["latest", *both, "mine"]
        assert offered(command, "20260101") == both[1:]
        assert offered(command, "la") == ["latest"]
        assert offered(command, "runs/2") == ["runs/2"]  # a folder, which the shell completes


def test_nothing_heavy_is_imported_and_nothing_fails(offered, plugin):
    """A plugin whose module does not import has a name nevertheless."""
    site = plugin({"decoders": {"broken": "thirdparty:Broken"}}, "raise SystemExit('imported')")
    assert offered("run", "--decoder", "bro", PYTHONPATH=str(site)) == ["broken"]
    Path("runs").touch()
    assert offered("show", "la") == ["la"]


def test_an_error_of_a_completion_is_silent():
    from aevb_cli.complete import _offer

    def fail(*_):
        raise RuntimeError

    assert _offer(fail)(None, None, "") == []
