"""``datasets``, ``plugins`` and ``doctor``."""

import json
import os
from pathlib import Path

import pytest

from aevb_engine.experiment.folder import RunFolder


def test_datasets_list_says_where_files_are(call, monkeypatch):
    Path("data/mnist").mkdir(parents=True)
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        Path(f"data/mnist/{stem}-ubyte").touch()  # found, not read
    result = call("datasets", "list", "--data-dir", "data")
    assert result.exit_code == 0, result.stderr
    assert "found in data/mnist" in result.stdout
    assert "would be downloaded to data/frey" in result.stdout
    monkeypatch.setenv("AEVB_DATA_DIR", "data")
    entries = json.loads(call("datasets", "list", "--json").stdout)["datasets"]
    by_name = {e["name"]: e for e in entries}
    assert {"glyphs", "faces", "mnist", "freyfaces", "simulated-binary", "simulated-normal"} <= by_name.keys()
    assert by_name["glyphs"]["files"] == []
    assert all(f["path"] for f in by_name["mnist"]["files"])
    assert by_name["freyfaces"]["files"][0]["path"] is None


def test_datasets_in_the_folder_of_torchvision(call):
    folder = Path("data/MNIST/raw")
    folder.mkdir(parents=True)
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{stem}-ubyte").touch()
    assert "found in data/MNIST/raw" in call("datasets", "list", "--data-dir", "data").stdout
    shown = json.loads(call("datasets", "show", "mnist", "--data-dir", "data", "--json").stdout)["files"]
    assert [Path(f["path"]).parent for f in shown] == [folder] * 4


@pytest.mark.parametrize("args", [("list",), ("show", "mnist"), ("fetch", "mnist", "--quiet")])
def test_a_data_folder_that_is_not_there(one_error, call, monkeypatch, args):
    assert "--data-dir: there is no folder gone; create it" in one_error(3, "datasets", *args, "--data-dir", "gone")
    monkeypatch.setenv("AEVB_DATA_DIR", "gone")
    assert "AEVB_DATA_DIR: there is no folder gone; create it" in one_error(3, "datasets", *args)
    assert call("datasets", "fetch", "glyphs", "--quiet").exit_code == 0  # it needs none


def test_datasets_show(call):
    result = call("datasets", "show", "simulated-binary")
    assert "-o dataset.train" in result.stdout
    assert "int, default 1000" in result.stdout
    assert "https://" in call("datasets", "show", "mnist").stdout
    assert json.loads(call("datasets", "show", "mnist", "--json").stdout)["files"][0]["sha256"]


def test_datasets_fetch_of_what_needs_no_files(call):
    result = call("datasets", "fetch", "simulated-normal")
    assert (result.exit_code, result.stdout) == (0, "simulated-normal needs no files\n")


def test_datasets_fetch_of_a_damaged_file(one_error):
    Path("data").mkdir()
    Path("data/train-images-idx3-ubyte").write_bytes(b"no images")
    assert "replace or remove" in one_error(3, "datasets", "fetch", "mnist", "--data-dir", "data", "--quiet")


def test_plugins_list(call):
    result = call("plugins", "list")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split() == ["kind", "name", "distribution", "version", "target"]
    found = json.loads(call("plugins", "list", "--json").stdout)["plugins"]
    assert {(p["kind"], p["name"]) for p in found} >= {("decoder", "gaussian"), ("optimizer", "adam")}
    assert all(p["error"] is None for p in found if p["distribution"] == "aevb-engine")


def test_plugins_show(call):
    result = call("plugins", "show", "optimizer", "adam")
    assert "aevb_plugins.optimizers.adam:Adam" in result.stdout
    assert "-o optimizer." in result.stdout
    assert json.loads(call("plugins", "show", "decoder", "gaussian", "--json").stdout)["options"]
    shown = call("plugins", "show", "objective", "mcem").stdout
    assert "-o objective.leapfrogs" in shown
    assert "Chains persist" in shown


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise RuntimeError('half\\ninstalled')", "RuntimeError: half installed"),
        ("import no_such_module", "no_such_module"),
        ("x = (", "SyntaxError"),
        ("Broken = 3", "not callable"),
        ("", "Broken"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
)
def test_broken_plugin_is_listed_with_its_reason(process, plugin, source, words):
    site = plugin({"decoders": {"broken": "thirdparty:Broken"}, "datasets": {"broken": "thirdparty:Broken"}}, source)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    listed = process("plugins", "list", env=environment)
    assert listed.returncode == 0, listed.stderr
    assert listed.stderr == ""
    assert words in listed.stdout
    assert "thirdparty" in listed.stdout
    assert "gaussian" in listed.stdout


WRONG = """
class Thing: pass
class Asks:
    def __init__(self, *, path: str): ...
def make(): return Thing()
class Half:
    def __init__(self, *, x: "NoSuchName" = 1): ...
"""


@pytest.mark.parametrize(
    ("kind", "target", "words"),
    [
        ("decoder", "Thing", "makes a Thing, not a Likelihood"),
        ("decoder", "Asks", "makes a Asks, not a Likelihood"),
        ("optimizer", "Thing", "makes a Thing, not an Optimizer"),
        ("objective", "make", "makes a Thing, not an Objective"),
        ("dataset", "Thing", "makes a Thing, not a DatasetPlugin"),
        ("optimizer", "Half", "its options cannot be read: name 'NoSuchName'"),
    ],
)
def test_a_plugin_of_a_wrong_class_is_listed_as_broken(process, plugin, kind, target, words):
    site = plugin({f"{kind}s": {"wrong": f"thirdparty:{target}"}}, WRONG)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    listed = process("plugins", "list", env=environment)
    assert (listed.returncode, listed.stderr) == (0, "")
    (line,) = [line for line in listed.stdout.splitlines() if line.startswith("broken: ")]
    assert line.startswith(f"broken: {kind} wrong: {kind} plugin 'wrong'")
    assert words in line
    shown = process("plugins", "show", kind, "wrong", env=environment)
    assert (shown.returncode, shown.stdout, len(shown.stderr.splitlines())) == (5, "", 1)
    assert words in shown.stderr
    if kind == "dataset":
        assert f"broken: {line.split(': ', 2)[2]}" in process("datasets", "list", env=environment).stdout
        for command in ("show", "fetch"):
            assert process("datasets", command, "wrong", env=environment).returncode == 5


def test_broken_plugin_breaks_only_itself(process, plugin, small):
    site = plugin({"decoders": {"broken": "thirdparty:Broken"}, "datasets": {"broken": "thirdparty:Broken"}}, "1 / 0")
    environment = {**os.environ, "PYTHONPATH": str(site)}
    assert "broken: dataset plugin" in process("datasets", "list", env=environment).stdout
    used = process("run", *small, "--decoder", "broken", env=environment)
    assert (used.returncode, used.stdout, len(used.stderr.splitlines())) == (5, "", 1)
    other = process("run", *small, "--steps", "5", "--json", "--no-figures", env=environment)
    assert other.returncode == 0


SOURCE = """
import numpy as np
from aevb_engine.data.dataset import Dataset

class Mine:
    summary = "rows of a third party"

    def __init__(self, *, value: float = 0.5, text: bool = False, rows: int = 20, wide: int = 3):
        self.options = value, text, rows, wide

    def load(self, request):
        value, text, rows, wide = self.options
        train = np.full((rows, 3), value, np.float32)
        train[:1] = np.nan if value == -1 else value
        if text:
            train = train.astype(str)
        return Dataset(name="mine", train=train, test=np.zeros((5, wide), np.float32), info={"sha256": "f" * 64})
"""


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("dataset.value=-1",), 3, "NaN"),
        (("dataset.value=inf",), 3, "infinite"),
        (("dataset.text=true",), 3, "numbers"),
        (("dataset.rows=0",), 3, "empty"),
        (("dataset.wide=4",), 3, "columns"),
        (("dataset.rows=-1",), 70, "internal error"),
    ],
)
def test_data_that_cannot_be_used(process, plugin, options, code, words):
    site = plugin({"datasets": {"mine": "thirdparty:Mine"}}, SOURCE)
    environment = {**os.environ, "PYTHONPATH": str(site), "TMPDIR": str(site)}
    args = [part for option in options for part in ("-o", option)]
    child = process("run", "--dataset", "mine", "--decoder", "gaussian", *args, env=environment)
    assert (child.returncode, child.stdout) == (code, ""), child.stderr
    assert len(child.stderr.splitlines()) == 1
    assert words in child.stderr
    assert not Path("runs").exists()


def test_resume_compares_rows_whatever_the_data_set_says_of_its_file(process, plugin):
    site = plugin({"datasets": {"mine": "thirdparty:Mine"}}, SOURCE)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    args = ("run", "--dataset", "mine", "--decoder", "gaussian", "--batch-size", "5", "--steps", "5", "--output", "r")
    first = process(*args, "--no-figures", env=environment)
    assert first.returncode == 0, first.stderr
    resumed = process("resume", "r", "--quiet", "--no-figures", env=environment)
    assert resumed.returncode == 0, resumed.stderr
    RunFolder(Path("r")).update(status="stopped")  # one that is done would stay as it is
    source = site / "thirdparty.py"
    source.write_text(source.read_text().replace("np.full((rows, 3), value", "np.full((rows, 3), 2 * value"))
    changed = process("resume", "r", "--quiet", "--no-figures", env=environment)
    assert changed.returncode == 4
    assert "other content" in changed.stderr


def test_two_plugins_of_one_name(process, plugin):
    site = plugin({"decoders": {"bernoulli": "thirdparty:Mine"}}, "class Mine: pass")
    environment = {**os.environ, "PYTHONPATH": str(site)}
    listed = process("plugins", "list", env=environment)
    assert listed.returncode == 0
    assert listed.stdout.count("uninstall one of them") == 2
    assert process("plugins", "show", "decoder", "gaussian", env=environment).returncode == 0
    assert process("plugins", "show", "decoder", "bernoulli", env=environment).returncode == 5


def test_doctor(call, monkeypatch):
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        monkeypatch.delenv(name, raising=False)
    result = call("doctor")
    assert result.exit_code == 0, result.stderr
    for words in ("aevb-engine", "Python", "numpy", "BLAS", "threads", "GPU", "data folder", "free"):
        assert words in result.stdout
    assert "warning" not in result.stdout
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    record = json.loads(call("doctor", "--json").stdout)
    assert "halve the speed" in record["warnings"][0]
    assert record["gpu"]["usable"] is (record["gpu"]["cause"] is None)
    assert record["threads"] >= 1


def test_doctor_says_how_training_is_shared(call, monkeypatch):
    monkeypatch.delenv("AEVB_WORKERS", raising=False)
    assert "threads or one alone, whichever is quicker" in " ".join(call("doctor").stdout.split())
    assert json.loads(call("doctor", "--json").stdout)["workers_chosen_by"] == "time"
    monkeypatch.setenv("AEVB_WORKERS", "threads")
    assert "in training as threads;" in " ".join(call("doctor").stdout.split())
    record = json.loads(call("doctor", "--json").stdout)
    assert (record["workers"], record["workers_chosen_by"]) == ("threads", "AEVB_WORKERS")
    monkeypatch.setenv("AEVB_WORKERS", "alone")
    assert "in training as one alone;" in " ".join(call("doctor").stdout.split())
    monkeypatch.setenv("AEVB_WORKERS", "thread")
    result = call("doctor")
    words = "AEVB_WORKERS=thread: use processes, threads or alone, or unset it"
    assert (result.exit_code, result.stderr) == (2, f"error: {words}\n")


def test_doctor_survives_a_gpu_probe_that_crashes(call, monkeypatch):
    import aevb_cli.doctor as doctor

    monkeypatch.setattr(doctor, "PROBE", "import os; os.abort()")
    assert "looking for a GPU crashed" in call("doctor").stdout
