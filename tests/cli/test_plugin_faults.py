"""Whatever a plugin does wrong, wherever: one line with its name and the method, exit code 5, a record that says so."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import aevb_engine
from aevb_engine.errors import BackendError

SOURCE = '''
import numpy as np
from aevb_engine.data.dataset import Dataset
from aevb_engine.kernel import kernel
from aevb_engine.objectives.elbo import Elbo
from aevb_engine.operation import custom, operation
from aevb_plugins.decoders.bernoulli import Bernoulli
from aevb_plugins.optimizers.sgd import Sgd

class Rude(Exception):
    def __str__(self): raise self

WRONG = {"tuple": (1, 2), "none": None, "text": ["x"], "set": {"facts": {1, 2}}}

class Boom:
    """A mix-in: the method called ``at`` fails, after ``after`` calls, or gives something ``wrong``."""

    def __init__(self, *, at: str = "", wrong: str = "", after: int = 0, what: str = "ValueError"):
        self.at, self.wrong, self.left = at, wrong, after
        self.what = {"ValueError": ValueError("of the\\nplugin"), "exit": SystemExit(0), "key": KeyError("k"),
                     "rude": Rude()}[what]
        super().__init__()

    def gives(self, name, otherwise):
        if self.at != name:
            return otherwise()
        self.left -= 1
        if self.left >= 0:
            return otherwise()
        if self.wrong:
            return WRONG[self.wrong]
        raise self.what

class Decoder(Boom, Bernoulli):
    def __init__(self, *, at: str = "", wrong: str = "", after: int = 0, heads: str = ""):
        super().__init__(at=at, wrong=wrong, after=after)
        if heads:
            self.heads = {"none": None, "twice": (*self.heads, *self.heads), "text": "logits"}[heads]
    def adapt(self, **facts): return self.gives("adapt", lambda: super(Decoder, self).adapt(**facts))
    def start(self, columns): return self.gives("start", lambda: super(Decoder, self).start(columns))
    def log_prob(self, *a, **k): return self.gives("log_prob", lambda: super(Decoder, self).log_prob(*a, **k))
    def log_prob_and_backward(self, *a, **k):
        return self.gives("backward", lambda: super(Decoder, self).log_prob_and_backward(*a, **k))
    def mean(self, *a, **k): return self.gives("mean", lambda: super(Decoder, self).mean(*a, **k))
    def sample(self, *a, **k): return self.gives("sample", lambda: super(Decoder, self).sample(*a, **k))
    def scalar(self, exp, log1p): return None

class Optimizer(Boom, Sgd):
    scalar = None
    def coefficients(self, step, lr):
        return self.gives("coefficients", lambda: super(Optimizer, self).coefficients(step, lr))
    def update(self, *a): return self.gives("update", lambda: super(Optimizer, self).update(*a))

@kernel("x: r -> y: r!")
def broken(xp, x, y):
    raise ArithmeticError("in a kernel")

class Objective(Boom, Elbo):
    def build(self, p):
        program = self.gives("build", lambda: super(Objective, self).build(p))
        if self.at == "operation":
            def bind(xp, rows):
                def run(): raise IndexError("in an operation")
                return run
            program.rows.append(custom("mine", bind))
        if self.at == "kernel":
            program.rows.append(operation(broken, p.ws.one("bound"), p.ws.one("kl")))
        return program
    def coefficients(self, step): return self.gives("coefficients", lambda: super(Objective, self).coefficients(step))
    def remarks(self, batch, count): return self.gives("remarks", lambda: super(Objective, self).remarks(batch, count))

class Data(Boom):
    summary = "of a third party"
    decoder = "bernoulli"

    def load(self, request):
        rows = np.random.default_rng(0).integers(0, 2, (40, 6)).astype(np.uint8)
        if self.at == "info":
            return Dataset("mine", rows, rows[:9], info=WRONG[self.wrong])
        if self.at == "train":
            return Dataset("mine", rows.tolist(), rows[:9])
        return self.gives("load", lambda: Dataset("mine", rows, rows[:9], true_log_prob=self.log_prob))

    def log_prob(self, x):
        return self.gives("true_log_prob", lambda: np.full(len(x), -6 * np.log(2)))
'''
POINTS = {
    "decoders": {"mine": "thirdparty:Decoder"},
    "optimizers": {"mine": "thirdparty:Optimizer"},
    "objectives": {"mine": "thirdparty:Objective"},
    "datasets": {"mine": "thirdparty:Data"},
}
RUN = ("run", "--dataset", "mine", "--hidden", "4", "--batch-size", "10", "--no-figures", "--quiet")
TARGETS = {"decoder": "Decoder", "optimizer": "Optimizer", "objective": "Objective", "dataset": "Data"}


@pytest.fixture(autouse=True)
def _installed(plugin, monkeypatch):
    monkeypatch.syspath_prepend(str(plugin(POINTS, SOURCE)))
    monkeypatch.delitem(sys.modules, "thirdparty", raising=False)
    yield
    sys.modules.pop("thirdparty", None)


def options(kind, text):
    return [part for option in text.split() for part in ("-o", f"{kind}.{option}")]


BEFORE = [  # nothing has been trained: nothing is left
    ("decoder", "at=adapt", "failed in adapt: ValueError: of the plugin"),
    ("decoder", "at=start", "failed in start: ValueError: of the plugin"),
    ("decoder", "at=start wrong=tuple", "start returns a tuple; values by the name of the head are needed"),
    ("decoder", "at=backward", "failed in log_prob_and_backward: ValueError: of the plugin"),
    ("decoder", "heads=none", "heads is None; a tuple of Head is needed"),
    ("decoder", "heads=twice", "each with a name of its own"),
    ("decoder", "heads=text", "heads is 'logits'"),
    ("optimizer", "at=coefficients what=key", "failed in coefficients: KeyError: 'k'"),
    ("optimizer", "at=coefficients wrong=none", "coefficients returns None; numbers are needed"),
    ("optimizer", "at=coefficients wrong=text", "coefficients returns ['x']; numbers are needed"),
    ("optimizer", "at=coefficients wrong=tuple after=1", "coefficients returns (1, 2); 1 numbers, as for the first"),
    ("optimizer", "at=update", "failed in update: ValueError: of the plugin"),
    ("objective", "at=build", "failed in build: ValueError: of the plugin"),
    ("objective", "at=build wrong=tuple", "build returns a tuple, not a Program"),
    ("objective", "at=coefficients", "failed in coefficients: ValueError: of the plugin"),
    ("objective", "at=operation", "failed in build: IndexError: in an operation"),
    ("objective", "at=kernel", "failed in broken: ArithmeticError: in a kernel"),
    ("objective", "at=remarks", "failed in remarks: ValueError: of the plugin"),
    ("objective", "at=remarks wrong=none", "remarks returns None; a list of lines is needed"),
    ("dataset", "at=load", "failed in load: ValueError: of the plugin"),
    ("dataset", "at=load what=exit", "failed in load: SystemExit: 0"),
    ("dataset", "at=load what=rude", "failed in load: Rude;"),
    ("dataset", "at=load wrong=tuple", "load returns a tuple, not a Dataset"),
    ("dataset", "at=load wrong=none", "load returns a NoneType, not a Dataset"),
    ("dataset", "at=info wrong=set", "info['facts']={1, 2}; text or a finite number is needed"),
    ("dataset", "at=info wrong=tuple", "info=(1, 2); names with text or numbers are needed"),
    ("dataset", "at=train", "the training data of 'mine' are a list; a NumPy array"),
    ("dataset", "at=true_log_prob", "true_log_prob raised ValueError: of the plugin"),
]


@pytest.mark.parametrize(("kind", "given", "words"), BEFORE)
def test_before_anything_is_trained(one_error, kind, given, words):
    line = one_error(
        5, *RUN, "--steps", "3", *([] if kind == "dataset" else [f"--{kind}", "mine"]), *options(kind, given)
    )
    assert f"{kind} plugin 'mine' (thirdparty 1.0, thirdparty:{TARGETS[kind]})" in line
    assert given == "at=kernel" or line.count(" plugin '") == 1  # a bare function may be of any in its module
    assert words in line
    assert "correct the plugin" in line


AFTER = [
    ("decoder", "at=backward after=400", "failed in log_prob_and_backward"),
    ("optimizer", "at=update after=200", "failed in update"),
    ("optimizer", "at=coefficients after=200 wrong=none", "coefficients returns None"),
]


@pytest.mark.parametrize(("kind", "given", "words"), AFTER)
def test_the_record_of_a_run_says_that_it_failed(call, kind, given, words):
    names = [] if kind == "dataset" else [f"--{kind}", "mine"]
    args = (*RUN[:-1], "--steps", "500", *names, *options(kind, given), "--threads", "1", "--output", "r")
    result = call(*args)
    assert (result.exit_code, result.stdout) == (5, ""), result.stderr
    assert result.stderr.splitlines()[-1].startswith(f"error: {kind} plugin 'mine' (thirdparty 1.0")
    record = json.loads(Path("r/run.json").read_text())
    assert record["status"] == "failed"
    assert words in record["error"]
    assert f"{kind} plugin 'mine'" in record["error"]
    assert record["step"] >= 50
    shown = call("show", "r")
    assert "failed" in shown.stdout
    assert "interrupted" not in shown.stdout


def test_what_comes_after_training(call):
    """Figures alone need the draws of a decoder: they are left out with a note, as other drawings that fail."""
    args = (*RUN[:-2], "--steps", "3", "--decoder", "mine", "-o", "decoder.at=sample", "--output", "r")
    result = call(*args)
    assert result.exit_code == 0, result.stderr
    assert json.loads(Path("r/run.json").read_text())["status"] == "done"


def test_evaluate_names_it_too(one_error, call):
    done = call(*RUN, "--steps", "3", "--decoder", "mine", "--output", "r")
    assert done.exit_code == 0, done.stderr
    record = json.loads(Path("r/run.json").read_text())
    record["config"]["decoder_options"] = {"at": "log_prob"}
    del record["id"], record["digest"]  # which would tell that the file was changed
    Path("r/run.json").write_text(json.dumps(record))
    assert "decoder plugin 'mine' (thirdparty 1.0" in one_error(5, "evaluate", "r", "--quiet")


def test_with_debug_its_traceback(call):
    result = call(*RUN, "--debug", "--steps", "3", "--decoder", "mine", "-o", "decoder.at=start")
    assert result.exit_code == 5
    assert 'thirdparty.py", line' in result.stderr


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("decoder", {"at": "backward", "after": 60}, "failed in log_prob_and_backward: ValueError"),
        ("optimizer", {"at": "update"}, "failed in update: ValueError"),
        ("objective", {"at": "operation"}, "failed in build: IndexError"),
    ],
)
def test_in_python(name, given, words, threads):
    x = np.random.default_rng(0).integers(0, 2, (40, 6))
    named = {name: "mine", f"{name}_options": given}
    with pytest.raises(BackendError, match=words) as caught:
        aevb_engine.VAE(**{"hidden": 4, "batch_size": 10, "threads": threads, **named}).fit(x, steps=200)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{name} plugin 'mine' (thirdparty 1.0, thirdparty:")
    assert "--debug" not in str(caught.value)


def test_a_decoder_given_as_an_object():
    import thirdparty  # type: ignore[import-not-found]

    x = np.random.default_rng(0).integers(0, 2, (40, 6))
    model = aevb_engine.VAE(thirdparty.Decoder(at="mean"), hidden=4, batch_size=10)
    model.fit(x, steps=3)
    with pytest.raises(BackendError, match="decoder Decoder failed in mean: ValueError: of the plugin"):
        model.reconstruct(x)
    with pytest.raises(BackendError, match="decoder Decoder: heads is None"):
        aevb_engine.VAE(thirdparty.Decoder(heads="none"))


def test_a_callbacks_error_is_the_users():
    def callback(row):
        raise ZeroDivisionError("mine")

    x = np.random.default_rng(0).integers(0, 2, (40, 6))
    with pytest.raises(ZeroDivisionError, match="mine"):
        aevb_engine.VAE("mine", hidden=4, batch_size=10).fit(x, steps=60, callback=callback)


def test_a_member_of_a_crew_names_it():
    """An exception travels from a worker process without its traceback."""
    from aevb_engine import blame, registry
    from aevb_engine.backend import crew

    if not crew.possible():
        pytest.skip("no crews here")
    made = registry.create("optimizer", "mine", {"at": "update"})
    team = crew.Crew([[[lambda: None], [made.update]]], lambda: None)
    try:
        with pytest.raises(BackendError, match=r"optimizer plugin 'mine' .* failed in update: ValueError"):
            team.run(1)
    finally:
        team.close()
    assert blame.of(ValueError("without any frame")) is None
