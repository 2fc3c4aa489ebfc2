"""A configuration file as people and their editors write it, with any option of the command."""

import codecs
import json
from dataclasses import fields
from pathlib import Path

import pytest

from aevb_cli.configuration import OF_COMMAND, check_environment, read_toml
from aevb_cli.run import run
from aevb_engine.experiment.config import RunConfig

DATA = "[dataset-options]\ntrain = 60\ntest = 20\n"
SMALL = 'dataset = "simulated-binary"\nhidden = [4]\nsteps = 3\n'


def test_every_option_of_the_command_can_be_given_in_a_file():
    options = {p.name for p in run.params if p.name != "config"}  # a file names no other file
    tables = {name for name in RunConfig.__dataclass_fields__ if name.endswith("_options")}
    known = {f.name for f in fields(RunConfig)} - tables | (OF_COMMAND.keys() - {"json"}) | {"as_json"}
    assert options == known


def test_every_option_of_the_command_can_be_given_in_the_environment():
    for parameter in run.params:
        name = "json" if parameter.name == "as_json" else str(parameter.name)
        known = ["json" if p.name == "as_json" else str(p.name) for p in run.params]
        check_environment(known, {f"AEVB_RUN_{name.upper()}": "1"})


def test_options_beside_the_configuration(call):
    Path("c.toml").write_text(
        f'{SMALL}no-figures = true\noutput = "mine"\njson = true\nquiet = true\noption = "dataset.dim=5"\n{DATA}'
    )
    result = call("run", "--config", "c.toml")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["run"] == "mine"
    assert list(Path("mine/figures").iterdir()) == []
    assert json.loads(Path("mine/run.json").read_text())["config"]["dataset_options"]["dim"] == "5"
    flags = call("run", "--config", "c.toml", "--output", "other", "-o", "dataset.dim=6")  # they override
    assert json.loads(flags.stdout)["run"] == "other"
    assert json.loads(Path("other/run.json").read_text())["config"]["dataset_options"]["dim"] == "6"


def test_the_environment_overrides_them(call, monkeypatch):
    Path("c.toml").write_text(f'{SMALL}no_figures = true\noutput = "mine"\nquiet = true\njson = true\n{DATA}')
    monkeypatch.setenv("AEVB_RUN_JSON", "0")
    monkeypatch.setenv("AEVB_RUN_OUTPUT", "other")
    result = call("run", "--config", "c.toml")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert Path("other/run.json").exists()


@pytest.mark.parametrize(
    "vary", ['vary = "latent-dim=1,2"', 'vary = ["latent-dim=1,2"]', "[vary]\nlatent-dim = [1, 2]"]
)
def test_runs_in_a_file(call, vary):
    first, last = (vary, "") if not vary.startswith("[") else ("", vary)
    Path("c.toml").write_text(f"{SMALL}no_figures = true\njson = true\nquiet = true\n{first}\n{DATA}{last}")
    result = call("run", "--config", "c.toml")
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)["combinations"]) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no_figures = 1", "no_figures=1: a value of type bool is needed"),
        ("replicas = true", "replicas=True: a value of type int is needed"),
        ("no-figures = true\nno_figures = true", "given twice"),
        ("no_figure = true", "did you mean 'no_figures'?"),
        ('option = "decoder"', "write decoder.KEY=VALUE"),
        ('config = "other.toml"', "unknown key 'config'"),
    ],
)
def test_what_is_wrong_in_it(one_error, text, words):
    Path("c.toml").write_text(text)
    line = one_error(3, "run", "--config", "c.toml")
    assert "c.toml" in line
    assert words in line


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_as_editors_of_windows_write_it(call, newline, mark):
    text = f"# Zahlen – größer\n{SMALL}no_figures = true\nquiet = true\njson = true\n{DATA}".replace("\n", newline)
    Path("c.toml").write_bytes(mark + text.encode())
    result = call("run", "--config", "c.toml")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["steps"] == 3


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_text_of_another_width(one_error, encoding):
    Path("c.toml").write_bytes(SMALL.encode(encoding))
    assert "c.toml is text in UTF-16 or UTF-32; save it as UTF-8" in one_error(3, "run", "--config", "c.toml")


def test_none_is_no_binarization():
    """Not the data set's own policy, which is what nothing stands for."""
    Path("c.toml").write_text('binarize = "none"')
    assert read_toml("c.toml") == ({"binarize": "none"}, {})
    assert RunConfig.from_mapping({"binarize": "none"}, "here").binarize == "none"
    assert RunConfig.from_mapping({"binarize": None}, "here").binarize is None
