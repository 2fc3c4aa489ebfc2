"""Real processes: both entry points, streams, signals, kills, terminals, full disks."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aevb_engine.experiment.checkpoint import CheckpointStore
from aevb_engine.experiment.folder import RunFolder
from aevb_engine.experiment.log import read
from tests.patience import patience, until

posix = pytest.mark.skipif(os.name != "posix", reason="signals and pseudo-terminals of POSIX")
DATA = ("--dataset", "simulated-binary", "-o", "dataset.train=300", "-o", "dataset.test=100", "--no-figures")
STEPS = 600
# The command, which keeps a checkpoint after every block and does not go beyond a step until there is a file "go":
# what a test does to it comes before its end, however fast or slow the machine is.
HELD = """
import sys, time
from pathlib import Path
from aevb_cli.main import main
from aevb_engine.backend import crew
from aevb_engine.experiment import run
from aevb_engine.training.trainer import Trainer

advance, last = Trainer.advance, int(sys.argv.pop(1))

def held(self, steps):
    while self.step >= last and not Path("go").exists():
        time.sleep(0.01)
    return advance(self, steps)

Trainer.advance = held
run.CHECKPOINT_SECONDS = run.CHECKPOINT_SHARE = 0
crew.REST = crew.START = 1e6
main()
"""


def held(*args: str, step: int = STEPS - 200) -> list[str]:
    """The command line of that command."""
    return [sys.executable, "-c", HELD, str(step), *args]


def long(*args: str) -> tuple[str, ...]:
    """A run of some blocks."""
    return ("run", *DATA, "--hidden", "60", "--threads", "1", "--steps", str(STEPS), *args)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Folder of the run that resumed ones must equal."""
    place = tmp_path_factory.mktemp("reference") / "run"
    command = [sys.executable, "-m", "aevb_engine", *long("--quiet", "--output", str(place))]
    subprocess.run(command, check=True, timeout=patience())
    return place


def assert_same(one: Path, other: Path) -> None:
    """Parameters, optimizer state and every logged row agree to the bit."""
    first, second = (CheckpointStore(p / "checkpoints").newest() for p in (one, other))
    assert first.step == second.step == STEPS
    assert first.arrays.keys() == second.arrays.keys()
    for name in first.arrays:
        assert np.array_equal(first.arrays[name], second.arrays[name]), name
    logs = [read(p / "metrics.h5") for p in (one, other)]
    for name in ("train", "eval"):
        assert logs[0][name][1].tobytes() == logs[1][name][1].tobytes(), name


def await_line(child, words: str) -> None:
    for line in child.stderr:
        if words in line:
            return
    raise AssertionError(f"no {words!r} before the end ({child.wait()})")


def await_checkpoint(folder: Path) -> None:
    until(lambda: list(folder.glob("checkpoints/ckpt-*.h5")), "a checkpoint")


def test_the_installed_script():
    script = shutil.which("aevb-engine", path=Path(sys.executable).parent)
    assert script is not None, "the package is not installed with its script"
    command = [script, "run", *DATA, "--steps", "5", "--json"]
    child = subprocess.run(command, capture_output=True, text=True, timeout=patience(), check=True)
    assert json.loads(child.stdout)["steps"] == 5
    assert "\x1b" not in child.stderr
    bad = subprocess.run([script, "run", "--lr", "-1"], capture_output=True, text=True, timeout=patience(), check=False)
    assert (bad.returncode, bad.stdout, len(bad.stderr.splitlines())) == (2, "", 1)


def test_lines_every_few_seconds_without_a_terminal(spawn, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    code = "import aevb_cli.display as d; d.LINE_SECONDS = 0; from aevb_cli.main import main; main()"
    command = [sys.executable, "-c", code, *long("--steps", "300")]
    child = subprocess.run(command, capture_output=True, text=True, timeout=patience(), check=True)
    lines = [line for line in child.stderr.splitlines() if line.startswith("step ")]
    assert len(lines) >= 4  # every block is told, of at most 50 steps
    assert "steps/s" in lines[-2]
    assert any(" left" in line for line in lines)
    assert "\x1b" not in child.stderr
    assert "\r" not in child.stderr


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_stops_and_resume_equals_an_uninterrupted_run(spawn, process, uninterrupted, number):
    child = spawn(command=held(*long("--output", "my run", "--json")))
    await_checkpoint(Path("my run"))
    child.send_signal(number)
    await_line(child, "once more to leave at once")
    Path("go").touch()
    out, err = child.communicate(timeout=patience())
    assert child.returncode == 75
    assert out == ""
    assert err.splitlines()[-1].endswith("go on with: aevb-engine resume 'my run'")
    assert json.loads(process("show", "my run", "--json").stdout)["status"] == "stopped"
    resumed = process("resume", "my run", "--exact", "--json", "--no-figures")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["steps"] == STEPS
    assert_same(Path("my run"), uninterrupted)


@posix
def test_resume_after_a_kill_equals_an_uninterrupted_run(spawn, process, uninterrupted):
    child = spawn(command=held(*long("--quiet", "--output", "r")))
    await_checkpoint(Path("r"))
    child.kill()
    child.communicate()
    shown = process("show", "r")
    assert shown.returncode == 0
    assert "interrupted" in shown.stdout
    assert "aevb-engine resume r" in shown.stdout
    resumed = process("resume", "r", "--quiet", "--no-figures")
    assert (resumed.returncode, resumed.stdout, resumed.stderr) == (0, "", "")
    assert_same(Path("r"), uninterrupted)


@posix
def test_resume_of_a_run_killed_before_its_first_checkpoint(spawn, process):
    child = spawn(command=held("run", *DATA, "--steps", "1000000", "--output", "r", step=0))
    await_line(child, "run folder")
    child.kill()
    child.communicate()
    assert not list(Path("r/checkpoints").iterdir())
    other = spawn("resume", "r")
    await_line(other, "run folder")
    other.send_signal(signal.SIGINT)
    other.communicate(timeout=patience())
    assert other.returncode == 75


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_second_signal_leaves_at_once(spawn, process, number, code, tmp_path):
    # A step that never ends: the first signal alone would wait for it for ever.
    source = (
        "import sys, time\n"
        "from aevb_engine.training.trainer import Trainer\n"
        "def advance(self, steps):\n"
        "    print('in a step', file=sys.stderr, flush=True)\n"
        "    time.sleep(1e6)\n"
        "Trainer.advance = advance\n"
        "from aevb_cli.main import main\nmain()\n"
    )
    command = [sys.executable, "-c", source, *long("--output", "r")]
    child = spawn(command=command)
    await_line(child, "in a step")
    child.send_signal(number)
    await_line(child, "once more to leave at once")
    child.send_signal(number)
    out, err = child.communicate(timeout=patience())
    assert (child.returncode, out) == (code, "")
    assert "aevb-engine resume r" in err


@posix
def test_signal_while_the_data_are_loaded_leaves_nothing(spawn):
    code = "import aevb_cli.display as d; d.LINE_SECONDS = 0.1; from aevb_cli.main import main; main()"
    command = [sys.executable, "-c", code, "run", "--dataset", "glyphs", "-o", "dataset.train=1000000", "--json"]
    child = spawn(command=command)
    await_line(child, "drawing train glyphs")
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=patience())
    assert (child.returncode, out) == (130, "")
    assert "no run was begun" in err
    assert not Path("runs").exists()


LEAVES = {
    "bench": "import aevb_engine.bench as m; m.measure = wait",
    "evaluate r": "import aevb_engine.experiment.evaluate as m; m.evaluate_run = wait",
    "study variance": "import aevb_engine.experiment.study as m; m.variance_study = wait",
    "study learners": "import aevb_engine.experiment.learners as m; m.learners_study = wait",
    "datasets fetch mnist": "import aevb_engine.data.download as m; m.fetch = wait",
    "doctor": "import aevb_cli.doctor as m; m.examine = wait",
}


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("args", LEAVES)
def test_a_signal_ends_what_cannot_be_resumed_where_it_stands(spawn, args, number):
    """Also where the work never looks up, and what is under way drops the exception once."""
    source = (
        "import ctypes, sys, time\n"
        "def wait(*_, **__):\n"
        "    print('ready', file=sys.stderr, flush=True)\n"
        "    ctypes.CFUNCTYPE(None)(lambda: time.sleep(600))()\n"  # which drops the first exception
        "    time.sleep(600)\n"
        f"{LEAVES[args]}\n"
        "from aevb_cli import main, signals\nsignals.AGAIN = 0.2\nmain.main()\n"
    )
    child = spawn(command=[sys.executable, "-c", source, *args.split()])
    await_line(child, "ready")
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number, (out, err)
    assert len(err.splitlines()) == 1
    assert err.startswith("error: interrupted")


def test_handlers_are_restored(call, small):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert call("run", *small, "--steps", "5", "--quiet", "--no-figures").exit_code == 0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@posix
def test_a_run_in_use_cannot_be_resumed(spawn, one_error):
    child = spawn(command=held("run", *DATA, "--steps", "100000", "--output", "r", step=0))
    await_line(child, "run folder")
    # The run itself goes on writing meanwhile, so only the error is looked at.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rglob", lambda *_: [])
        assert "in use" in one_error(74, "resume", "r", "--quiet")


def test_exact_refuses_other_libraries(call, train, one_error):
    folder = RunFolder(Path(train("--output", "r")["run"]))
    recorded = folder.read_record()["environment"]
    folder.update(status="stopped", environment={**recorded, "numpy": "0.1"})  # a done one stays as it is
    assert "not bit-identical" in one_error(4, "resume", "r", "--exact", "--quiet")
    result = call("resume", "r", "--no-figures")
    assert result.exit_code == 0
    assert "warning: resume is correct but not bit-identical" in result.stderr


@posix
def test_live_display_on_a_terminal(terminal):
    shown = terminal(*long("--steps", "2000", "--validation", "0.2"))
    assert shown.code == 0
    assert "\x1b[?25l" in shown.output
    assert shown.output.count("\x1b[?25h") >= 1  # the cursor is back
    for words in ("steps/s", " left", "validation -", "bound "):
        assert words in shown.output


@posix
@pytest.mark.parametrize("columns", [1, 30])
def test_narrow_terminal(terminal, columns):
    shown = terminal(*long("--steps", "500"), columns=columns)
    assert shown.code == 0
    assert "Traceback" not in shown.output


@posix
@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_no_codes_where_they_are_not_wanted(terminal, env):
    shown = terminal(*long("--steps", "200"), **env)
    assert shown.code == 0
    assert "\x1b" not in shown.output


@posix
def test_reader_that_closes_early(process):
    ours, theirs = os.pipe()
    os.close(ours)
    child = process("plugins", "list", capture_output=False, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert (child.returncode, child.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_stdout(process):
    with Path("/dev/full").open("w") as full:
        child = process("plugins", "list", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert child.returncode == 74
    assert len(child.stderr.splitlines()) == 1


@posix
@pytest.mark.parametrize("limit", [100, 1500])
def test_full_disk_at_the_start_leaves_no_folder(limit, small):
    assert _limited(limit, "run", *small, "--steps", "20", "--quiet", "--no-figures") == 74
    assert not Path("runs").exists() or list(Path("runs").iterdir()) == []


@posix
def test_full_disk_at_a_checkpoint_is_one_line_and_the_run_is_readable(process):
    assert _limited(60_000, "run", *DATA, "--steps", "20", "--output", "r") == 74
    assert "failed" in process("show", "r").stdout


def _limited(limit: int, *args: str) -> int:
    """Exit code of a process that cannot write files larger than ``limit`` bytes; its last line is the error."""
    import resource

    child = subprocess.run(
        [sys.executable, "-B", "-m", "aevb_engine", *args], capture_output=True, text=True, check=False,
        timeout=patience(), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert child.stderr.splitlines()[-1].startswith("error: cannot ")
    assert "Traceback" not in child.stderr
    return child.returncode


def test_ascii_output(process, train):
    train("--output", "r", "--eval-every", "5")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    shown = process("show", "r", env=environment)
    assert shown.returncode == 0, shown.stderr


@posix
@pytest.mark.parametrize("closed", ["1>&- 2>&-", "0<&- 1>&- 2>&-", "2>&-"])
def test_with_closed_streams_nothing_is_said_into_the_files_of_the_run(closed, tmp_path):
    """The first file that a program opens takes the lowest free number: that of the closed stream."""
    folder = tmp_path / "r"
    command = shlex.join(held(*long("--output", str(folder)), "--steps", "10000000", step=10**9))
    command = f"exec {command} {closed}"
    child = subprocess.Popen(["sh", "-c", command], cwd=tmp_path)
    try:
        await_checkpoint(folder)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=patience()) == 75
    finally:
        child.kill()
        child.wait()
    for file in folder.rglob("*"):
        if file.is_file():
            assert b"at once" not in file.read_bytes(), file
    step = CheckpointStore(folder / "checkpoints").newest().step
    assert read(folder / "metrics.h5")["train"][1][-1, 0] == step
