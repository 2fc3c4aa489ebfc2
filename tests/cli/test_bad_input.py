"""Bad input: one line with the value and the mend, the exit code of its kind, nothing left behind."""

import json
import os
import shutil
from pathlib import Path

import pytest

import aevb_engine as aevb

FLAGS = [
    (("--decoder", "bernouli"), "did you mean 'bernoulli'?"),
    (("--optimizer", "adma"), "did you mean 'adam'?"),
    (("--dataset", "glyhps"), "did you mean 'glyphs'?"),
    (("--objective", "elbow"), "did you mean 'elbo'?"),
    (("--objective", "wakesleep"), "did you mean 'wake-sleep'?"),
    (("--objective", "beta", "-o", "objective.bta=4"), "did you mean 'beta'?"),
    (("--objective", "beta", "-o", "objective.beta=much"), "objective.beta=much"),
    (("--objective", "beta", "-o", "objective.beta=-1"), "objective.beta=-1"),
    (("-o", "objective.beta=4"), "objective 'elbo' has no option 'beta'"),
    (("-o", "objectiv.beta=4"), "did you mean 'objective'?"),
    (("--objective", "autoencoder", "--samples", "2"), "--samples 2"),
    (("--objective", "autoencoder", "-o", "objective.loss=cube"), "objective.loss=cube"),
    (("--objective", "mcem", "--until-converged"), "give --epochs or --steps"),
    (("--objective", "mcem", "-o", "objective.updates=0"), "objective.updates=0"),
    (("--activation", "tanhh"), "tanh"),
    (("--lrr", "1"), "--lr"),
    (("--binarize", "grey"), "--binarize"),
    (("--lr", "-1"), "--lr -1"),
    (("--lr", "nan"), "--lr nan"),
    (("--lr", "inf"), "--lr inf"),
    (("--lr", "abc"), "--lr"),
    (("--weight-decay", "nan"), "--weight-decay nan"),
    (("--validation", "1"), "--validation 1"),
    (("--validation", "nan"), "--validation nan"),
    (("--steps", "0"), "--steps 0"),
    (("--steps", "-5"), "--steps -5"),
    (("--steps", "1e3"), "--steps"),
    (("--epochs", "nan"), "--epochs nan"),
    (("--epochs", "1", "--steps", "1"), "exclude each other"),
    (("--trainer", "graph", "--backend", "cpu"), "leave it out, or use --backend gpu"),
    (("--trainer", "eager", "--backend", "cpu"), "--trainer eager: the CPU has one way"),
    (("--graph", "--backend", "cpu"), "--graph: the CPU has one way"),
    (("--precision", "tf32", "--backend", "cpu"), "use float32, or --backend gpu"),
    (("--graph", "--trainer", "persistent"), "exclude each other"),
    (("--trainer", "fast"), "--trainer"),
    (("--hidden", "20,x"), "--hidden 20,x"),
    (("--hidden", "20,,20"), "--hidden 20,,20"),
    (("--hidden", "-3"), "--hidden -3"),
    (("--hidden", "0"), "--hidden 0"),
    (("--seed", "-1"), "--seed -1"),
    (("--latent-dim", "1" + "0" * 30), "--latent-dim 1000"),
    (("--samples", "1" + "0" * 20), "--samples 1000"),
    (("--lr-schedule", "expontial:0.5"), "did you mean 'exponential'?"),
    (("--binarize", "static"), "already binary"),
    (("-o", "decoder"), "decoder.KEY=VALUE"),
    (("-o", "decodr.mean=1"), "did you mean 'decoder'?"),
    (("-o", "optimizer.betta1=1"), "betta1"),
    (("-o", "dataset.train=many"), "dataset.train"),
    (("-o", "dataset.train=0"), "dataset.train"),
    (("--config", "missing.toml"), "missing.toml"),
    (("surplus",), "surplus"),
]


@pytest.mark.parametrize(("args", "words"), FLAGS, ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_bad_flags(one_error, small, args, words):
    assert words in one_error(2, "run", *small, *args)


FILES = [
    ("lr = -1", "--lr -1"),
    ("lr = nan", "lr=nan"),
    ("learning-rate = 1", "unknown key 'learning-rate'"),
    ("latent_dims = 1", "did you mean 'latent_dim'?"),
    ("steps = 2.5", "steps"),
    ("steps = true", "steps"),
    ("seed = [1]", "seed"),
    ('binarize = "grey"', "binarize"),
    ('optimizer = "adma"', "did you mean 'adam'?"),
    ('dataset = "glyhps"', "did you mean 'glyphs'?"),
    ('objective = "elbow"', "did you mean 'elbo'?"),
    ('objective = "beta"\n[objective-options]\nbta = 1', "did you mean 'beta'?"),
    ('lr-schedule = "x"', "--lr-schedule x"),
    ('optimizer = "adam"\n[optimizer-options]\nbetta1 = 1', "betta1"),
    ("optimizer-options = 3", "a table of options"),
    ("epochs = 1\nsteps = 1", "exclude each other"),
    ("lr = = 1", "not TOML"),
    ("\udcff", "not TOML"),
]


@pytest.mark.parametrize(("text", "words"), FILES)
def test_bad_files(one_error, text, words):
    Path("c.toml").write_bytes(text.encode(errors="surrogateescape"))
    line = one_error(3, "run", "--config", "c.toml")
    assert words in line
    assert "c.toml" in line


def test_a_folder_is_no_configuration_file(one_error, tmp_path):
    assert "cannot be read" in one_error(3, "run", "--config", str(tmp_path))


def test_misspelt_variable(one_error, monkeypatch):
    monkeypatch.setenv("AEVB_RUN_AS_JSON", "1")
    assert "did you mean 'AEVB_RUN_JSON'?" in one_error(2, "run")
    monkeypatch.delenv("AEVB_RUN_AS_JSON")
    monkeypatch.setenv("AEVB_RUN_LATENT_DIMS", "3")
    assert "did you mean 'AEVB_RUN_LATENT_DIM'?" in one_error(2, "run")


def test_bad_variable(one_error, monkeypatch):
    monkeypatch.setenv("AEVB_RUN_LR", "fast")
    assert "--lr" in one_error(2, "run")


def test_grey_data_under_a_binary_decoder(one_error):
    args = ("--dataset", "faces", "--decoder", "bernoulli", "-o", "dataset.train=50")
    assert "needs 0 and 1" in one_error(3, "run", *args)


def test_missing_file_without_download(one_error):
    line = one_error(3, "run", "--dataset", "mnist", "--offline")
    assert "--offline" in line
    assert "https://" in line


def test_data_dir_that_is_a_file(one_error):
    Path("file").touch()
    assert "--data-dir" in one_error(3, "run", "--dataset", "mnist", "--data-dir", "file")


def test_data_dir_that_is_not_there(one_error, monkeypatch):
    line = one_error(3, "run", "--dataset", "mnist", "--data-dir", "gone")
    assert f"--data-dir: there is no folder {Path('gone').absolute()}; create it" in line
    assert "the name of a folder" in one_error(2, "run", "--data-dir", "")
    monkeypatch.setenv("AEVB_DATA_DIR", "gone")
    assert "AEVB_DATA_DIR: there is no folder" in one_error(3, "run", "--dataset", "mnist", "--offline")


def test_gpu_that_is_not_there(call, small):
    result = call("run", *small, "--steps", "1", "--backend", "gpu", "--no-figures")
    if result.exit_code != 0:  # a machine with a device may go on
        assert result.exit_code == 5
        assert len(result.stderr.splitlines()) == 1
        assert list(Path().iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_existing_output(one_error, small, kind):
    place = Path("there")
    if kind == "file":
        place.touch()
    else:
        place.mkdir()
        (place / "precious").touch()
    assert "there exists" in one_error(2, "run", *small, "--output", "there", "--quiet")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is unwritable for root")
def test_unwritable_output(one_error, small):
    Path("locked").mkdir(mode=0o500)
    assert "locked" in one_error(74, "run", *small, "--output", "locked/run", "--quiet")


def test_output_below_a_file(one_error, small):
    Path("file").touch()
    one_error(74, "run", *small, "--output", "file/run", "--quiet")


def test_output_with_a_null_byte_or_too_long(one_error, small):
    assert "not a path" in one_error(2, "run", *small, "--output", "a\0b", "--quiet")
    assert "not a path" in one_error(2, "run", *small, "--output", "x" * 300, "--quiet")


def test_too_large_a_model_is_one_line(call, small):
    result = call("run", *small, "--latent-dim", str(10**9), "--hidden", "9999", "--no-figures")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: not enough memory")
    assert len(result.stderr.splitlines()) == 1
    assert list(Path().iterdir()) == []


def test_names_with_control_characters_stay_in_one_line(one_error, small):
    assert "\x1b" not in one_error(2, "run", *small, "--decoder", "a\nb\x1b[31mc")


@pytest.mark.parametrize(
    ("code", "args", "words"),
    [
        (2, ("rnu",), "did you mean 'run'?"),
        (2, ("plugins", "lst"), "did you mean 'list'?"),
        (2, ("plugins", "show", "decodr", "x"), "did you mean 'decoder'?"),
        (2, ("plugins", "show", "decoder", "gausian"), "did you mean 'gaussian'?"),
        (2, ("datasets", "show", "mnits"), "did you mean 'mnist'?"),
        (2, ("--verson",), "--version"),
        (2, ("resume",), "RUN"),
        (2, ("resume", "nowhere"), "no run nowhere"),
        (2, ("show", "latest"), "start one with"),
        (2, ("show", "latest", "--jsn"), "--json"),
    ],
)
def test_other_commands(one_error, code, args, words):
    assert words in one_error(code, *args)


def test_a_folder_without_record_is_no_run(one_error):
    Path("plain").mkdir()
    assert "run.json" in one_error(4, "show", "plain")
    assert "run.json" in one_error(4, "resume", "plain")


def test_a_folder_of_runs_is_no_run(one_error, train):
    for name in ("b", "a"):
        train("--output", f"all/{name}")
    line = one_error(4, "resume", "all", "--steps", "50")
    assert line == "error: all is no run but holds 2, such as all/a; name one of them"


def test_damaged_record(one_error, train):
    Path(train("--output", "r")["run"], "run.json").write_text("{")
    assert "damaged" in one_error(4, "show", "r")
    assert "damaged" in one_error(4, "resume", "r")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[optimizer-options]\nfoo = 1", "has no option 'foo'"),
        ("[decoder_options]\nfoo = 1", "has no option 'foo'"),
        ('activation = "foo"', "unknown activation 'foo'"),
        ("latent-dim = 3\nlatent_dim = 4", "given twice"),
        ("threads = 5000", "at most 4096"),
    ],
)
def test_what_is_wrong_in_a_file_names_it(one_error, text, words):
    Path("c.toml").write_text(text)
    line = one_error(3, "run", "--config", "c.toml")
    assert "c.toml" in line
    assert words in line


def test_dashes_in_the_tables_of_a_file(call, small):
    Path("c.toml").write_text('decoder = "gaussian"\n[decoder-options]\nmin-logvar = -3.0')
    given = ("--dataset", "simulated-normal", "-o", "dataset.train=100", "-o", "dataset.test=20", "--hidden", "5")
    result = call("run", *given, "--config", "c.toml", "--steps", "2", "--no-figures", "--json")
    assert result.exit_code == 0, result.stderr


def test_flags_come_before_the_environment(call, small, monkeypatch):
    monkeypatch.setenv("AEVB_RUN_EPOCHS", "2")
    result = call("run", *small, "--steps", "3", "--no-figures", "--json")
    assert json.loads(result.stdout)["steps"] == 3, result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--output", ""), "--output: the name of a folder is needed"),
        (("--config", ""), "--config: the name of a file is needed"),
        (("--threads", "5000"), "at most 4096"),
        (("--lr", "1e300"), "at most 1e+30"),
        (("--decoder", "gaussian", "-o", "decoder.min_logvar=inf"), "a finite number is needed"),
    ],
)
def test_more_that_no_run_can_use(one_error, args, words):
    assert words in one_error(2, "run", *args)


LONG = "x" * 5000
DEEP = "/".join("x" * 1500)  # below the longest path, but deeper than Python calls itself


@pytest.mark.parametrize(
    ("code", "args"),
    [
        (3, ("run", "--dataset", "mnist", "--offline", "--data-dir", LONG)),
        (3, ("run", "--data-dir", "~no-such-user")),
        (2, ("run", "--output", LONG)),
        (3, ("run", "--config", LONG)),
        (2, ("show", LONG)),
        (2, ("resume", DEEP)),
        (2, ("evaluate", LONG)),
        (2, ("study", "variance", "--output", LONG)),
        (2, ("study", "learners", "--output", LONG)),
        (3, ("datasets", "list", "--data-dir", LONG)),
        (3, ("datasets", "list", "--data-dir", "~no-such-user")),
        (3, ("datasets", "show", "mnist", "--data-dir", LONG)),
        (3, ("datasets", "fetch", "mnist", "--data-dir", "a\0b")),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else None,
)
def test_paths_that_no_system_knows(one_error, code, args):
    assert len(one_error(code, *args)) < 1000


def test_a_cache_whose_name_is_too_long_holds_nothing(call, one_error, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", f"/{LONG}")
    assert "is missing in" in one_error(3, "run", "--dataset", "mnist", "--offline")
    assert call("datasets", "list").exit_code == 0
    assert call("doctor").exit_code == 0


def test_a_folder_below_very_many(call, small):
    result = call("run", *small, "--steps", "1", "--no-figures", "--output", DEEP)
    shutil.rmtree(DEEP)  # pytest would go down one call a folder
    for folder in list(Path(DEEP).parents)[:-1]:
        folder.rmdir()
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("args", [("run", "--steps", "1"), ("study", "variance", "--replicates", "4")])
def test_a_path_that_is_full_leaves_nothing(call, small, args):
    """The folder itself can be made; a file in it cannot have a name."""
    place = "x/" * ((4080 - len(str(Path().absolute()))) // 2)
    result = call(*args, *small, "--no-figures", "--output", str(Path().absolute() / place))
    assert result.exit_code == 74, result.stderr
    assert "File name too long" in result.stderr.splitlines()[-1]
    assert not Path("x").exists()


def test_the_working_folder_is_gone(call, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for args in (("run", "--steps", "1", "--data-dir", "x"), ("doctor",)):
        result = call(*args)
        assert result.exit_code == 74
        assert "change to another one" in result.stderr


def test_names_are_escaped_and_shortened(one_error):
    line = one_error(2, "run", "--dataset", "a\nb\x1b[31m\u202e")
    assert r"'a\nb\x1b[31m\u202e'" in line
    line = one_error(2, "run", "--dataset", LONG)
    assert "more)...xxx" in line
    assert len(line) < 1000
    Path("c.toml").write_text(f'"a\\u001b[31m{LONG}" = 1')
    line = one_error(3, "run", "--config", "c.toml")
    assert r"unknown key 'a\x1b[31mxxx" in line
    assert len(line) < 1000


def test_threads_far_beyond_the_cores_are_said(call, small, monkeypatch):
    """They fix the bits of a run that another machine began, so they are no error."""
    monkeypatch.setattr("aevb_engine.backend.cores.most_workers", lambda: 2)
    given = ("--steps", "3", "--threads", "1000", "--no-figures", "--output", "r")
    result = call("run", *small, *given)
    assert result.exit_code == 0, result.stderr
    assert "--threads 1000: 2 workers do the shares of 1000" in result.stderr
    result = call("evaluate", "r", "--threads", "1000", "--method", "none")
    assert "warning: --threads 1000: 2 workers" in result.stderr
    result = call("bench", "--threads", "5000")
    assert result.exit_code == 2
    with pytest.warns(UserWarning, match="threads=1000: 2 workers"):
        aevb.VAE(hidden=5, threads=1000).fit("simulated-binary", steps=2)
