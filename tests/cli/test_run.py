"""``run``: its object, its summary, what it leaves, and which value of an option counts."""

import errno
import json
import re
import time
from pathlib import Path

import pytest

from aevb_cli.run import OPTIONS
from aevb_engine.experiment.config import RunConfig

FIELDS = {
    "schema", "run", "status", "backend", "device", "dataset", "binarize", "decoder", "optimizer", "objective", "seed",
    "parameters", "steps", "epochs", "seconds", "steps_per_second", "train_bound", "test_bound", "test_reconstruction",
    "test_kl", "best_step", "warnings",
}  # fmt: skip


def test_json_is_one_object_with_the_fields_of_the_contract(call, small):
    result = call("run", *small, "--steps", "40", "--json", "--no-figures")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record.keys() >= FIELDS
    assert (record["status"], record["steps"], record["dataset"]) == ("done", 40, "simulated-binary")
    assert record["test_bound"] == pytest.approx(record["test_reconstruction"] - record["test_kl"])
    assert "step 40/40" in result.stderr
    assert Path(record["run"], "run.json").is_file()


NULL = {"autoencoder": {"train_bound", "test_bound", "test_kl"}}
NULL["mcem"] = NULL["autoencoder"] | {"test_reconstruction"}


@pytest.mark.parametrize("name", ["elbo", "elbo-mc", "iwae", "beta", "autoencoder", "wake-sleep", "mcem"])
def test_every_objective_gives_the_fields_of_the_contract(call, name):
    result = call("run", "--dataset", "simulated-binary", "--objective", name, "--steps", "50", "--json",
                  "--output", "r")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record.keys() >= FIELDS
    assert (record["status"], record["steps"], record["objective"]) == ("done", 50, name)
    assert {k for k in FIELDS - {"best_step"} if record[k] is None} == NULL.get(name, set())
    assert "nan" not in result.stderr.lower()
    assert Path("r/figures/bound.png").is_file()
    assert Path("r/figures/latent.png").is_file() == (name != "mcem")
    shown = call("show", "r")
    assert shown.exit_code == 0
    assert "nan" not in shown.stdout
    label = name in ("autoencoder", "wake-sleep", "mcem")
    for where in (record["warnings"], json.loads(call("show", "r", "--json").stdout)["warnings"]):
        assert any("not a bound" in line for line in where) == label
    assert ("not a bound" in shown.stderr) == label


def test_replicas_are_runs_of_their_own(call, small):
    result = call("run", *small, "--steps", "20", "--seed", "4", "--replicas", "2", "--json", "--no-figures",
                  "--output", "all")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    alone = json.loads(call("run", *small, "--steps", "20", "--seed", "5", "--json", "--no-figures").stdout)
    assert [r["seed"] for r in record["replicas"]] == [4, 5]
    assert record["replicas"][1]["test_bound"] == alone["test_bound"]
    assert record["test_bound"] == pytest.approx(sum(r["test_bound"] for r in record["replicas"]) / 2)
    assert Path("all/seed-4/run.json").is_file()
    result = call("run", *small, "--replicas", "2", "--steps", "20", "--no-figures")
    assert "test bound over 2 seeds" in result.stdout
    assert call("run", *small, "--replicas", "0").exit_code == 2


def test_varied_runs_are_compared(call, small):
    vary = ("--vary", "lr=0.01,3e-2", "--vary", "latent-dim=2,3")
    rest = ("--steps", "10", "--no-figures", "--quiet", "--json")
    result = call("run", *small, *vary, *rest, "--replicas", "2", "--seed", "4", "--output", "all")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    varied = [{"lr": lr, "latent-dim": z} for lr in (0.01, 0.03) for z in (2, 3)]
    assert [(r["varied"], r["seed"]) for r in record["replicas"]] == [(v, s) for v in varied for s in (4, 5)]
    assert [(c["varied"], c["runs"]) for c in record["combinations"]] == [(v, 2) for v in varied]
    place = Path("all/lr-3e-2-latent-dim-3-seed-5")
    stored = json.loads((place / "run.json").read_text())["config"]
    assert (stored["lr"], stored["latent_dim"], stored["seed"]) == (0.03, 3, 5)
    alone = json.loads(call("run", *small, *rest, "--lr", "0.03", "--latent-dim", "3", "--seed", "5").stdout)
    assert record["replicas"][-1]["test_bound"] == alone["test_bound"]
    assert call("resume", str(place), "--quiet", "--no-figures").exit_code == 0


def test_varied_runs_end_in_a_table(call, small):
    options = (*small, "--vary", "hidden=8,none", "--steps", "10", "--no-figures")
    lines = call("run", *options).stdout.splitlines()
    assert lines[0].split() == ["rank", "hidden", "seed", "train", "bound", "test", "bound", "run"]
    assert sorted(line.replace(" *", "").split()[1:3] for line in lines[1:3]) == [["8", "0"], ["none", "0"]]
    assert lines[3:] == [
        "",
        "ranked by the test bound, for display only: --validation F holds out rows that choose; * is the best",
    ]
    lines = call("run", *options, "--replicas", "2").stdout.splitlines()
    assert lines[6].split() == ["rank", "hidden", "seeds", "mean", "test", "bound", "standard", "deviation"]
    assert sorted(line.replace(" *", "").split()[1:3] for line in lines[7:9]) == [["8", "2"], ["none", "2"]]


def test_a_sweep_is_ranked_by_what_chooses(call, small):
    """The validation bound of the best checkpoint; runs that diverged are last, with the word."""
    options = (*small, "--vary", "lr=1e30,0.03,0.0001", "--validation", "0.2", "--batch-size", "50", "--steps", "60",
               "--initial", "normal", "--replicas", "2", "--no-figures", "--output")  # fmt: skip
    record = json.loads(call("run", *options, "a", "--json").stdout)
    found = {c["varied"]["lr"]: c for c in record["combinations"]}
    assert record["ranked_by"] == "validation_bound"
    assert [found[lr]["rank"] for lr in (0.0001, 0.03, 1e30)] == [1, 2, None]  # there is nothing to learn
    assert (found[1e30]["runs"], found[1e30]["diverged"]) == (0, 2)
    mine = [r["validation_bound"] for r in record["replicas"] if r["varied"]["lr"] == 0.03]
    assert found[0.03]["validation_bound"] == pytest.approx(sum(mine) / 2)
    assert found[0.03]["validation_bound_sd"] == pytest.approx(abs(mine[0] - mine[1]) / 2**0.5)
    assert [(r["seed"], r["status"]) for r in record["lost"]] == [(0, "diverged"), (1, "diverged")]
    for result in record["replicas"]:
        scored = json.loads(Path(result["run"], "checkpoints/best.json").read_text())
        assert (scored["score"], scored["step"]) == (result["validation_bound"], result["best_step"])
        assert result["checkpoint"] == {"step": result["best_step"], "which": "best"}
    lines = call("run", *options, "b").stdout.splitlines()
    assert lines[0].split("  ") == [*lines[0].split("  ")[:-1], "run"]
    assert [n in lines[0] for n in ("train bound", "validation bound", "test bound")] == [True] * 3
    assert [line.split()[:4] for line in lines[1:3]] == [["1", "*", "0.0001", "0"], ["1", "*", "0.0001", "1"]]
    assert [line.split()[:3] for line in lines[3:5]] == [["2", "0.03", "0"], ["2", "0.03", "1"]]
    assert [line.split() for line in lines[5:7]] == [
        ["-", "1e+30", str(s), "-", "-", "diverged", f"b/lr-1e30-seed-{s}"] for s in (0, 1)
    ]
    assert lines[8].split("  ")[-1] == "mean test bound"
    assert [line.split()[0] for line in lines[9:12]] == ["1", "2", "-"]
    assert "0, 2 diverged" in lines[11]
    assert lines[-1] == "ranked by the validation bound of the best checkpoint; * is the best"
    assert lines[-2] == "each run's bounds are of its best parameters for the validation rows"


def test_whose_parameters_the_bounds_are_of_is_said(call, small):
    """With validation rows those of the best step, in words and as a field; without them the last."""
    options = (*small, "--lr", "0.05", "--steps", "120", "--no-figures")
    text = call("run", *options, "--validation", "0.2", "--eval-every", "10", "--output", "r").stdout
    record = json.loads(Path("r/run.json").read_text())["result"]
    assert record["checkpoint"] == {"step": record["best_step"], "which": "best"}
    assert record["best_step"] < record["steps"] == 120
    line = f"parameters of step {record['best_step']}, the best for the validation rows"
    for said in (text, call("show", "r").stdout, call("resume", "r").stdout):
        assert line in said
    evaluated = json.loads(call("evaluate", "r", "--method", "none", "--json").stdout)
    assert evaluated["bound"]["value"] == pytest.approx(record["test_bound"], rel=1e-6)
    assert line not in call("evaluate", "r", "--method", "none").stdout  # which has words of its own
    text = call("run", *options, "--output", "s").stdout
    assert "parameters of step" not in text
    assert json.loads(Path("s/run.json").read_text())["result"]["checkpoint"] == {"step": 120, "which": "last"}


def test_a_sweep_of_runs_that_do_not_compare(call):
    options = ("--dataset", "simulated-normal", "-o", "dataset.test=50", "--vary", "dataset.train=100,200",
               "--vary", "objective.beta=1,2", "--objective", "beta", "--hidden", "4", "--steps", "5",
               "--no-figures")  # fmt: skip
    lines = call("run", *options).stdout.splitlines()
    assert [line.replace(" *", "").split()[:2] for line in lines[1:5]] == [
        ["1", "100"], ["2", "100"], ["1", "200"], ["2", "200"],
    ]  # fmt: skip
    assert lines[-1] == "runs of another dataset.train do not compare: each has ranks of its own"


def test_a_sweep_where_all_diverge_is_shown(call, small):
    result = call("run", *small, "--vary", "lr=1e30,1e29", "--steps", "10", "--no-figures", "--output", "a")
    assert result.exit_code == 1
    assert [line.split()[-2:] for line in result.stdout.splitlines()[1:]] == [
        ["diverged", "a/lr-1e30-seed-0"], ["diverged", "a/lr-1e29-seed-0"],
    ]  # fmt: skip
    assert "2 of 2 replicas diverged" in result.stderr


def test_a_sweep_without_bounds_says_what_ranks_it(call, small):
    options = (*small, "--steps", "10", "--no-figures", "--vary")
    said = {
        "objective=elbo,autoencoder": "test reconstruction, for display only: not all runs have a bound",
        "objective=elbo,mcem": "reconstruction of the training batches, for display only: not all runs have more",
    }
    for vary, words in said.items():
        lines = call("run", *options, vary).stdout.splitlines()
        assert lines[-1] == f"ranked by the {words}; * is the best"
        assert "train reconstruction" in lines[0]


def test_options_of_plugins_are_varied(call):
    """Written as for -o, into the same configuration; an option that is not varied stays."""
    options = ("--dataset", "simulated-normal", "-o", "dataset.train=60", "-o", "dataset.test=20", "--hidden", "4",
               "--steps", "3", "--batch-size", "20", "--objective", "beta", "--no-figures",
               "--json", "--quiet")  # fmt: skip
    vary = ("--vary", "objective.beta=1,4", "--vary", "decoder.min-logvar=-7,none", "--vary", "latent-dim=2,3")
    result = call("run", *options, *vary, "-o", "objective.warmup=2", "--output", "all")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert [r["varied"] for r in record["replicas"]] == [
        {"objective.beta": b, "decoder.min_logvar": f, "latent-dim": z}
        for b in (1.0, 4.0) for f in (-7.0, None) for z in (2, 3)
    ]  # fmt: skip
    place = Path("all/objective.beta-4-decoder.min_logvar-none-latent-dim-3-seed-0")
    alone = call("run", *options, "-o", "objective.beta=4", "-o", "decoder.min_logvar=none", "--latent-dim", "3",
                 "-o", "objective.warmup=2", "--output", "alone")  # fmt: skip
    assert json.loads(alone.stdout)["test_bound"] == record["replicas"][-1]["test_bound"]
    configs = [json.loads((p / "run.json").read_text())["config"] for p in (place, Path("alone"))]
    assert configs[0] == configs[1]


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ("lr", "write KEY=V1,V2"),
        ("lr=", "write KEY=V1,V2"),
        ("lr=0.1,,0.2", "write KEY=V1,V2"),
        ("=1", "write KEY=V1,V2"),
        ("latent-dmi=1", "did you mean 'latent-dim'"),
        ("backend=cpu,gpu", "cannot be varied"),
        ("latent-dim=2,x", "a value of type int is needed"),
        ("latent-dim=2,0", "a positive number is needed"),
        ("lr=0.1,nan", "a value of type float is needed"),
        ("lr=0.1,0.10", "there twice"),
        ("optimizer=adam,adamm", "did you mean 'adam'"),
        ("lr-schedule=constant,lineal", "lineal"),
        ("batch-size=10,0", "0"),
        ("objectiv.beta=1,2", "did you mean 'objective'"),
        ("objective.beta=1,2", "objective 'elbo' has no option 'beta'"),
        ("optimizer.beta3=0.9", "did you mean 'beta"),
        ("optimizer.beta1=0.9,x", "optimizer.beta1=x: a value of type float is needed"),
        ("optimizer.beta1=0.9,2", "beta1"),
        ("optimizer.beta1=0.9,0.90", "optimizer.beta1: the value 0.90 is there twice"),
        ("dataset.=1", "write KEY=V1,V2"),
        ("seed=" + ",".join(map(str, range(1001))), "1001 runs; at most 1000"),
    ],
)
def test_what_cannot_be_varied_is_one_line(call, small, vary, words):
    result = call("run", *small, "--steps", "10", "--vary", vary, "--output", "all")
    assert result.exit_code == 2, result.stderr
    assert words in result.stderr.splitlines()[-1]
    assert not Path("all").exists()
    assert not Path("runs").exists()


def test_an_option_is_varied_once_and_seeds_in_one_way(call, small):
    for more, words in (
        (("--vary", "lr=0.1", "--vary", "lr=0.2"), "lr is varied already"),
        (("--vary", "seed=1,2", "--replicas", "2"), "exclude each other"),
    ):
        result = call("run", *small, "--steps", "10", *more)
        assert result.exit_code == 2
        assert words in result.stderr


def test_options_of_an_objective_reach_it(call, small):
    result = call("run", *small, "--objective", "beta", "-o", "objective.beta=4", "-o", "objective.warmup=10",
                  "--steps", "20", "--json", "--no-figures")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert "its KL term weighs 4, grown over 10 steps" in record["warnings"][0]
    stored = json.loads(Path(record["run"], "run.json").read_text())["config"]
    assert stored["objective_options"] == {"beta": "4", "warmup": "10"}


def test_summary_goes_to_stdout_and_progress_to_stderr(call, small):
    result = call("run", *small, "--steps", "40", "--no-figures", "--output", "my run")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"^bound +train -\d+\.\d\d +test -\d+\.\d\d", result.stdout)
    assert "= reconstruction" in result.stdout
    assert "aevb-engine show 'my run'" in result.stdout
    assert "test (display only)" in result.stderr
    assert "step" not in result.stdout.replace("steps", "")


def test_the_summary_says_how_long_it_took_in_all(call, small, monkeypatch):
    """With data, evaluations and figures; of replicas once, for all of them."""
    figures = pytest.importorskip("aevb_engine.experiment.figures")

    def draw(*_):
        time.sleep(0.3)
        return []

    monkeypatch.setattr(figures, "draw", draw)
    result = call("run", *small, "--steps", "10")
    seconds, whole = re.search(r"epochs, (\d+\.\d) s, .*; (\d+\.\d) s in all$", result.stdout, re.MULTILINE).groups()
    assert float(whole) >= 0.3
    assert float(seconds) < 0.3
    many = call("run", *small, "--steps", "10", "--replicas", "2").stderr
    assert re.search(r"^2 runs, \d+\.\d s in all$", many, re.MULTILINE)
    assert many.count("in all") == 1


PLACES = (
    ("--output", "file/r"),
    ("--output", "/proc/r"),
    ("--output", "/proc/r", "--replicas", "2"),
    (),
    ("--vary", "lr=1,2"),
)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write")
@pytest.mark.parametrize("args", PLACES)
def test_a_place_that_cannot_be_written_is_known_before_the_data_are_drawn(one_error, small, monkeypatch, args):
    _no_data(monkeypatch)
    Path("file").touch()
    if "--output" not in args:
        Path("runs").touch()
    assert "choose another place" in one_error(74, "run", *small, *args)


@pytest.mark.parametrize("command", [("run",), ("study", "variance"), ("study", "learners")])
def test_a_folder_without_permission_is_known_before_the_data_are_drawn(one_error, small, monkeypatch, command):
    """Root may write anywhere, so the system's answer is made up."""
    _no_data(monkeypatch)
    make = Path.mkdir

    def mkdir(self, *args, **kwargs):
        if self.parent.resolve() == Path.cwd():
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        make(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert "Permission denied; make the place writable" in one_error(74, *command, *small, "--output", "new/r")


def _no_data(monkeypatch):
    from aevb_plugins.datasets.simulated import SimulatedBinary

    def load(*_):
        raise AssertionError("the data were drawn")

    monkeypatch.setattr(SimulatedBinary, "load", load)


def test_a_run_without_a_gpu_says_nothing_of_it(call, small):
    result = call("run", *small, "--steps", "5", "--no-figures")
    assert "GPU" not in result.stderr
    assert "backend" not in result.stderr


def test_quiet_says_nothing(call, small):
    result = call("run", *small, "--steps", "10", "--quiet", "--no-figures")
    assert (result.exit_code, result.output) == (0, "")


def test_verbose_shows_every_evaluation_and_the_configuration(call, small):
    result = call("run", *small, "--steps", "20", "--eval-every", "5", "-v", "--no-figures")
    assert [f"step {s}/20" in result.stderr for s in (5, 10, 15, 20)] == [True] * 4
    assert "latent-dim=2" in result.stderr


def test_validation_bound_is_not_called_display_only(call, small):
    result = call("run", *small, "--steps", "10", "--validation", "0.2", "--batch-size", "50", "--no-figures")
    assert "validation -" in result.stderr
    assert "display only" not in result.stderr


def test_figures_that_cannot_be_drawn_are_a_warning(call, small, monkeypatch):
    figures = pytest.importorskip("aevb_engine.experiment.figures")

    def draw(*_):
        raise RuntimeError("no\nfonts")

    monkeypatch.setattr(figures, "draw", draw)
    result = call("run", *small, "--steps", "10", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["warnings"][-1] == "the figures could not be drawn (RuntimeError: no fonts)"
    assert "warning: the figures could not be drawn" in result.stderr


def test_figures_are_named_in_the_summary(call, small, monkeypatch):
    figures = pytest.importorskip("aevb_engine.experiment.figures")
    monkeypatch.setattr(figures, "draw", lambda folder, *_: [folder.figures / f for f in ("a.png", "overview.png")])
    result = call("run", *small, "--steps", "10")
    assert re.search(r"^figures +runs/.*/figures/overview.png and 1 more$", result.stdout, re.MULTILINE)


def test_hidden_may_be_empty(train):
    one = train("--hidden", "none")["parameters"]
    assert train("--hidden", "")["parameters"] == one
    assert train("--hidden", "20,10")["parameters"] > one


def test_precedence_is_file_then_environment_then_flags(train, monkeypatch):
    Path("c.toml").write_text('latent-dim = 3\nseed = 7\nhidden = [5]\noptimizer = "adagrad"\n')
    config = lambda *args: json.loads(Path(train("--config", "c.toml", *args)["run"], "run.json").read_text())["config"]  # noqa: E731
    found = config()
    assert (found["latent_dim"], found["seed"], found["optimizer"], found["lr"]) == (3, 7, "adagrad", 0.01)
    assert found["hidden"] == [20]  # the flag
    monkeypatch.setenv("AEVB_RUN_LATENT_DIM", "4")
    monkeypatch.setenv("AEVB_RUN_SEED", "8")
    monkeypatch.setenv("AEVB_DATA_DIR", "data")
    found = config("--seed", "9")
    assert (found["latent_dim"], found["seed"]) == (4, 9)
    assert found["data_dir"] == str(Path("data").absolute())


def test_json_by_the_environment(call, small, monkeypatch):
    monkeypatch.setenv("AEVB_RUN_JSON", "1")
    result = call("run", *small, "--steps", "5", "--quiet", "--no-figures")
    assert json.loads(result.stdout)["steps"] == 5


@pytest.mark.parametrize("output", [(), ("--json",)])
def test_the_results_of_the_others_are_printed_where_one_diverges(call, small, output):
    result = call("run", *small, "--vary", "lr=0.01,1e30", "--steps", "10", "--no-figures", "--output", "all", *output)
    assert result.exit_code == 1
    assert "1 of 2 replicas diverged: lr 1e30" in result.stderr.splitlines()[-1]
    if output:
        record = json.loads(result.stdout)
        assert [r["varied"] for r in record["replicas"]] == [{"lr": 0.01}]
        assert len(record["diverged"]) == 1
    else:
        assert "all/lr-0.01-seed-0" in result.stdout


def test_plugin_options_of_file_and_flags_are_merged(call):
    Path("c.toml").write_text('dataset = "simulated-binary"\nepochs = 3\n[dataset-options]\ntrain = 200\ntest = 50\n')
    result = call("run", "--config", "c.toml", "-o", "dataset.test=60", "--steps", "5", "--json", "--no-figures")
    assert result.exit_code == 0, result.stderr
    assert "200 + 60 rows" in result.stderr
    assert json.loads(result.stdout)["steps"] == 5  # a flag --steps beats epochs of the file


def test_defaults_in_the_help_are_those_of_the_configuration():
    defaults = RunConfig().as_dict()
    for name, _, text, _ in OPTIONS:
        key = name.lstrip("-").replace("-", "_")
        found = re.search(r"\[([^\]]+)\]$", text)
        value = defaults.get(key)
        if value in (None, False) or key not in defaults:
            continue
        shown = ",".join(map(str, value)) if isinstance(value, list) else f"{value:g}" if value == 0.0 else str(value)
        assert found is not None, name
        assert found[1] == shown, name


def test_every_field_of_the_configuration_is_an_option():
    names = {name.lstrip("-").replace("-", "_") for name, *_ in OPTIONS}
    assert {f for f in RunConfig().as_dict() if not f.endswith("_options")} <= names


def test_a_finished_run_is_lengthened(call, train, small):
    train("--output", "r", "--lr-schedule", "constant")  # 30 steps
    result = call("resume", "r", "--steps", "50", "--json", "--no-figures")
    assert result.exit_code == 0, result.stderr
    longer = json.loads(result.stdout)
    alone = json.loads(
        call("run", *small, "--steps", "50", "--lr-schedule", "constant", "--json", "--no-figures").stdout
    )
    assert (longer["steps"], longer["test_bound"]) == (50, alone["test_bound"])
    shown = call("show", "r").stdout
    assert "of 50" in shown
    assert "at step 30 from 30 to 50 steps" in shown
    assert call("resume", "r", "--epochs", "20", "--quiet", "--no-figures").exit_code == 0  # 60 steps
    for args, words in (
        (("--steps", "59"), "60 steps are done"),
        (("--steps", "0"), "a positive number is needed"),
        (("--steps", "90", "--epochs", "30"), "exclude each other"),
    ):
        result = call("resume", "r", *args)
        assert result.exit_code == 2
        assert words in result.stderr.splitlines()[-1]
