"""The ways a GPU runs the steps of training: the same numbers, bit-identical repeats, errors that say what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb_engine.backend.base import Plan
from aevb_engine.errors import BackendError, Stopped, UsageError
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.run import Quiet, resume, start
from aevb_engine.experiment.session import Session, prepare
from aevb_engine.training.trainer import Diverged

DOUBLE = Path(__file__).parents[1] / "cuda_on_cpu" / "double"
PATHS = ("eager", "graph", "persistent")
REPLAYED = PATHS[1:]
BASE: dict[str, Any] = {
    "dataset": "simulated-binary",
    "dataset_options": {"train": 200, "test": 50},
    "hidden": (8,),
    "latent_dim": 2,
    "batch_size": 10,
    "steps": 60,
    "seed": 3,
}
IWAE: dict[str, Any] = {"dataset": "simulated-normal", "objective": "iwae", "samples": 3, "optimizer": "adagrad"}


def session(path: str | None = None, **more: Any) -> Session:
    where = {"backend": "cpu"} if path is None else {"backend": "gpu", "trainer": path}
    return prepare(RunConfig(**{**BASE, **where, **more}))


def state(s: Session) -> dict[str, Any]:
    return s.trainer.arrays()


def assert_same_bits(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# The same numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [{}, IWAE, {"dataset": "simulated-normal", "standardize": "always"}],
    ids=["elbo", "iwae", "standardized"],
)
def test_every_path_follows_the_cpu(more: dict[str, Any], gpu: str) -> None:
    """The gradient of the first step to 1e-5 by norm, the bounds of 50 steps to 1e-3 nats; in double precision, too."""
    wanted = []
    for precision in ("float32", "float64"):
        cpu = session(precision=precision, **more)
        first = cpu.trainer.advance(1)
        gradient = np.array(cpu.model.parameters.grad)
        wanted.append((gradient, np.concatenate([first, cpu.trainer.advance(49)])))
    for path in PATHS:
        s = session(path, **more)
        assert (s.config.trainer, s.trainer.warnings) == (path, [])
        found = s.trainer.advance(1)
        own = s.backend.download(s.model.parameters.grad)
        found = np.concatenate([found, s.trainer.advance(49)])
        for gradient, rows in wanted:
            assert np.linalg.norm(own - gradient) <= 1e-5 * np.linalg.norm(gradient), path
            np.testing.assert_allclose(found, rows, atol=1e-3, rtol=0, err_msg=path)


@pytest.mark.parametrize("path", PATHS)
def test_repeated_and_resumed_steps_have_the_same_bits(path: str, gpu: str) -> None:
    """However the steps are cut into blocks; 52 steps are a long graph and two short ones."""
    lengths = [[50, 2], [13, 39]] if path == "eager" else [[52], [13, 39]]
    found = []
    for cut in lengths:
        s = session(path)
        rows = np.concatenate([s.trainer.advance(n) for n in cut])
        found.append((rows, state(s)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert_same_bits(found[0][1], found[1][1])
    begun, resumed = session(path), session(path)
    begun.trainer.advance(31)
    resumed.trainer.restore(31, state(begun))
    resumed.trainer.advance(21)
    assert_same_bits(found[0][1], state(resumed))


def test_graph_and_persistent_path_have_the_same_bits(gpu: str) -> None:
    """They run the same texts on the same virtual blocks."""
    found = []
    for path in REPLAYED:
        s = session(path, **IWAE)
        s.trainer.advance(21)
        found.append(state(s))
    assert_same_bits(*found)


def test_the_number_of_blocks_does_not_show_in_the_bits(double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for multiprocessors in (1, 2, 5):
        monkeypatch.setattr(double, "MULTIPROCESSORS", multiprocessors)
        s = session("persistent")
        assert s.trainer.inner.replay.blocks == multiprocessors  # type: ignore[union-attr]
        s.trainer.advance(6)
        found.append(state(s))
    assert_same_bits(found[0], found[1])
    assert_same_bits(found[0], found[2])


@pytest.mark.parametrize("path", PATHS)
def test_tf32_rounds_the_products(path: str, gpu: str) -> None:
    """Factors of 10 bits: each product is off by 2^-11 of its size, a bound of 5 nats by far less than 0.05."""
    exact, rounded = (session(path, precision=p) for p in ("float32", "tf32"))
    assert rounded.model.dtype == np.float32
    rows = [s.trainer.advance(5)[:, 2] for s in (exact, rounded)]
    if path != "eager":  # what the library does with so small a product is its own affair; it is asked to, see below
        assert (rows[0] != rows[1]).any()
    np.testing.assert_allclose(*rows, atol=0.05, rtol=0)


@pytest.mark.parametrize("path", ["auto", "eager", "graph", "persistent"])
def test_tf32_needs_a_device_that_has_it(path: str, double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would take float32 instead, and the record of the run would not tell."""
    monkeypatch.setattr(double, "MAJOR", 7)
    with pytest.raises(UsageError, match=r"--precision tf32: shim has none.*use float32"):
        session(path, precision="tf32")
    assert session("eager").trainer.advance(1).shape[0] == 1


def test_the_library_is_asked_for_tf32_in_training_alone(double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    matmul = double.matmul
    monkeypatch.setattr(double, "matmul", lambda *a, **k: (seen.append(double._core.compute_type), matmul(*a, **k))[1])
    s = session("eager", precision="tf32")
    seen.clear()  # the probe's
    s.trainer.advance(1)
    assert set(seen) == {7}
    seen.clear()
    assert s.test is not None
    s.test.run()
    assert set(seen) == {1}


# Nothing in between -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", REPLAYED)
def test_a_block_allocates_and_reads_nothing(path: str, double: Any) -> None:
    s = session(path)
    s.trainer.advance(2)
    before = dict(double.counts)
    s.trainer.inner.run(53)
    changed = {k: double.counts[k] - before[k] for k in before}
    assert (changed["reads"], changed["allocations"], changed["products"]) == (0, 0, 0)
    if path == "graph":
        assert changed["graphs"] == 1 + 3  # of 50 steps, of one
        assert changed["launches"] == 0
    else:
        assert changed["launches"] == 1


@pytest.mark.parametrize("path", PATHS)
def test_a_block_is_read_once(path: str, double: Any) -> None:
    """Metrics, the check of the parameters and what the path notes come in one copy."""
    s = session(path)
    s.trainer.advance(3)
    before = double.counts["reads"]
    s.trainer.advance(20)
    assert double.counts["reads"] == before + 1


@pytest.mark.parametrize("path", PATHS)
def test_the_next_tables_are_uploaded_beside_the_work(path: str, double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is copied from the host before the second block runs; without the event it would be a race."""
    straight, s = session(path), session(path)
    uploads: list[str] = []
    upload = type(s.backend)._copied
    monkeypatch.setattr(type(s.backend), "_copied", lambda b, a: (uploads.append("upload"), upload(b, a))[1])
    run = s.trainer.inner.run
    monkeypatch.setattr(s.trainer.inner, "run", lambda *a: (uploads.append("run"), run(*a))[1])
    s.trainer.advance(10)
    s.trainer.advance(10)
    assert uploads == ["upload", "upload", "run", "upload", "upload", "run", "upload", "upload"]
    straight.trainer.advance(20)
    assert_same_bits(state(s), state(straight))
    monkeypatch.setattr(double.cuda.Stream, "wait_event", lambda *_: None)
    s.trainer.advance(5)
    with pytest.raises(RuntimeError, match="a race"):
        s.trainer.advance(5)
    double._State.unordered.clear()


def test_the_double_is_as_strict_as_a_capture(double: Any) -> None:
    """What would spoil a graph on a device is refused: products of the library, memory, reads, code not loaded."""
    stream = double.cuda.Stream(non_blocking=True)
    one = double.ones((2, 2), np.float32)
    kernel = double.RawModule(code='extern "C" __global__ void probe() {}').get_function("probe")
    forbidden = [
        lambda: double.matmul(one, one, out=one),
        lambda: double.empty((2,)),
        lambda: double.asnumpy(one),
        lambda: float(one[0, 0]),
        lambda: kernel((1, 1, 1), (1, 1, 1), ()),
        stream.synchronize,
        stream.begin_capture,
    ]
    for act in forbidden:
        stream.begin_capture()
        with pytest.raises(RuntimeError):
            act()
        stream.end_capture()
    with pytest.raises(RuntimeError):
        stream.end_capture()
    with pytest.raises(RuntimeError):
        double.cuda.Stream().begin_capture()
    kernel.num_regs  # noqa: B018 - loads the code
    stream.begin_capture()
    kernel((1, 1, 1), (1, 1, 1), ())
    assert len(stream.end_capture()._launches) == 1


def test_code_that_is_not_loaded_spoils_the_capture(double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the backend loads it: without that the graph path is not taken."""
    from aevb_engine.backend import replay

    monkeypatch.setattr(replay, "loaded", lambda function: function)
    s = session("graph")
    assert s.config.trainer == "eager"
    assert "loading a function" in s.warnings[0]


# What cannot run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", REPLAYED)
def test_a_plugin_without_text_trains_eagerly_with_one_warning(
    path: str, double: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aevb_plugins.decoders.bernoulli import Bernoulli

    monkeypatch.setattr(Bernoulli, "cuda", None)
    s = session(path)
    assert len(s.warnings) == 1
    assert s.warnings[0].startswith(f"trainer {path} cannot run this step: log_prob")
    assert s.warnings[0].endswith("has no CUDA text; the steps run eagerly")
    assert (s.config.trainer, s.trainer.block) == ("eager", 50)
    rows = s.trainer.advance(5)
    np.testing.assert_allclose(rows, session().trainer.advance(5), atol=1e-3)
    if path == "graph":
        with pytest.raises(BackendError, match="no CUDA text; leave out --graph"):
            session("graph", graph=True)


def test_several_steps_on_a_batch_run_eagerly(double: Any) -> None:
    s = session("persistent", objective="mcem", objective_options={"leapfrogs": 1})
    assert s.config.trainer == "eager"
    assert "uses a batch for several steps" in s.warnings[0]


def test_a_kernel_that_does_not_fit_is_not_launched(double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy would launch fewer blocks than asked for, and all would wait."""
    monkeypatch.setattr(double, "OCCUPANCY", 0)
    monkeypatch.setattr(double.driver, "occupancyMaxActiveBlocksPerMultiprocessor", lambda *given: 0)
    s = session("persistent")
    assert s.config.trainer == "eager"
    assert "does not fit" in s.warnings[0]


def test_a_block_that_came_too_late_ends_the_run(gpu: str) -> None:
    from aevb_engine.cuda.persistent import LATE

    s = session("persistent")
    s.trainer.advance(3)
    s.trainer.inner.replay.barriers[:1, LATE : LATE + 1] = 1  # type: ignore[union-attr]
    with pytest.raises(BackendError, match="--trainer graph"):
        s.trainer.advance(3)


def command(tmp_path: Path, *options: str, state: str = "") -> subprocess.CompletedProcess[str]:
    """The command line on the double of CuPy."""
    small = [
        "--dataset", "simulated-binary", "-o", "dataset.train=100", "-o", "dataset.test=50", "--hidden", "8",
        "--batch-size", "20", "--steps", "20", "--no-figures", "--json",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": f"{DOUBLE}:{os.environ.get('PYTHONPATH', '')}", "AEVB_DOUBLE": state}
    return subprocess.run(
        [sys.executable, "-m", "aevb_engine", "run", *small, *options],
        capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300,
    )  # fmt: skip


def test_a_failed_capture_on_the_command_line(tmp_path: Path) -> None:
    """One warning and the eager path, which the record names; with --graph exit code 5, and no run is left."""
    done = command(tmp_path, "--backend", "gpu", "--trainer", "graph", state="no capture")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["trainer"] == "eager"
    assert len(result["warnings"]) == 1
    assert "cudaErrorStreamCaptureUnsupported" in result["warnings"][0]
    assert sum(line.startswith("warning: ") for line in done.stderr.splitlines()) == 1
    assert json.loads(Path(tmp_path, result["run"], "run.json").read_text())["config"]["trainer"] == "eager"
    other = tmp_path / "other"
    other.mkdir()
    done = command(other, "--backend", "gpu", "--graph", state="no capture")
    assert done.returncode == 5, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "leave out --graph" in done.stderr
    assert not (other / "runs").exists()


def test_a_run_records_its_path_and_precision(tmp_path: Path) -> None:
    done = command(tmp_path, "--backend", "gpu", "--graph", "--precision", "tf32")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["trainer"], result["precision"], result["warnings"]) == ("graph", "tf32", [])


# Stopping, resuming, diverging ------------------------------------------------------------------------------


class StopAfter(Quiet):
    """Asks to stop once some steps are shown, as Ctrl-C does."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def steps(self, rows: Any, total: int, seconds: float) -> None:
        self.event.set()


@pytest.mark.parametrize("path", REPLAYED)
def test_a_stopped_run_goes_on_to_the_same_bits(path: str, gpu: str, tmp_path: Path) -> None:
    config = RunConfig(**BASE, backend="gpu", trainer=path, eval_every=20)  # type: ignore[arg-type]
    _, whole, _ = start(config, tmp_path / "whole")
    event = threading.Event()
    with pytest.raises(Stopped):
        start(config, tmp_path / "parts", display=StopAfter(event), stop=event)
    folder, resumed, result = resume(tmp_path / "parts")
    assert folder.read_record()["resumed_from"] < 60
    assert (result["trainer"], resumed.trainer.step) == (path, 60)
    assert_same_bits(state(whole), state(resumed))


@pytest.mark.parametrize("path", REPLAYED)
def test_resume_keeps_the_path_or_says_why_not(
    path: str, double: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other path, and no CPU, takes its place; a checkpoint evaluates anywhere."""
    from aevb_engine.backend import choose
    from aevb_engine.backend import replay as module
    from aevb_engine.experiment.evaluate import open_run

    monkeypatch.setattr(choose, "driver_present", lambda: True)
    config = RunConfig(**BASE, backend="auto", trainer=path, precision="tf32", eval_every=20)  # type: ignore[arg-type]
    event = threading.Event()
    with pytest.raises(Stopped):
        start(config, tmp_path / "run", display=StopAfter(event), stop=event)

    def refuse(*given: Any) -> Any:
        raise RuntimeError("planted")

    with monkeypatch.context() as broken:
        broken.setattr(module, "layered", refuse)
        with pytest.raises(BackendError, match=f"planted; the run began with trainer {path}"):
            resume(tmp_path / "run")
    monkeypatch.setattr(choose, "driver_present", lambda: False)
    with pytest.raises(BackendError, match=f"trainer {path}.*no NVIDIA driver; resume it on a machine with a GPU"):
        resume(tmp_path / "run")
    opened = open_run(tmp_path / "run")
    assert opened.session.backend.name == "cpu"


@pytest.mark.parametrize("path", PATHS)
def test_the_diverged_step_is_found(path: str, gpu: str) -> None:
    """A step that ruins the parameters in the middle of a block; what is left is the state before it."""
    reference = session(path)
    reference.trainer.advance(23)
    s = session(path)
    tables = s.trainer._tables

    def ruinous(first: int, steps: int) -> Any:
        made = tables(first, steps)
        place = 23 - made.first
        if 0 <= place < len(made):
            made.coefficients[place] = np.inf  # step 24
        return made

    s.trainer._tables = ruinous  # type: ignore[method-assign]
    with pytest.raises(Diverged) as found:
        s.trainer.advance(40)
    assert (found.value.step, s.trainer.step) == (24, 23)
    assert_same_bits(state(reference), state(s))


@pytest.mark.parametrize("path", PATHS)
def test_a_state_that_is_not_finite_is_found_on_the_device(path: str, gpu: str) -> None:
    """A gradient whose square is beyond float32 leaves parameters and bound finite; the CPU finds the same step."""
    said = []
    for where in (path, None):
        s = session(where, dataset="simulated-normal", standardize="never", lr=1e-6)
        s.trainer.data.data.array[17] = 1e12
        with pytest.raises(Diverged, match=r"the optimizer's 'second' of \S+ .* is not finite") as found:
            s.trainer.advance(40)
        assert all(np.isfinite(array).all() for array in state(s).values())
        said.append((found.value.step, s.trainer.step))
    assert said[0] == said[1]


def test_a_plan_is_eager_unless_told() -> None:
    assert Plan() == Plan("eager", "fp32", "")
