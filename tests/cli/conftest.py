"""What the tests of the command line share: small data, a runner in an empty folder, real processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aevb_cli.main import cli
from tests.patience import patience

SMALL = ("--dataset", "simulated-binary", "-o", "dataset.train=300", "-o", "dataset.test=100", "--hidden", "20")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, no variables of the user's, no files of the user's."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("AEVB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def small() -> tuple[str, ...]:
    """Options of a run that takes a moment."""
    return SMALL


@pytest.fixture
def call() -> Callable[..., Result]:
    """The command in this process; result.stdout and result.stderr apart."""

    def invoke(*args: str, **kwargs: Any) -> Result:
        return CliRunner().invoke(cli, list(args), prog_name="aevb-engine", **kwargs)

    return invoke


@pytest.fixture
def train(call: Callable[..., Result]) -> Callable[..., dict[str, Any]]:
    """A small run without figures; its JSON object."""

    def invoke(*args: str) -> dict[str, Any]:
        result = call("run", *SMALL, "--steps", "30", "--json", "--quiet", "--no-figures", *args)
        assert result.exit_code == 0, result.stderr
        record: dict[str, Any] = json.loads(result.stdout)
        return record

    return invoke


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command as a process of its own."""

    def invoke(*args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        options: dict[str, Any] = {
            "capture_output": True,
            "text": True,
            "timeout": patience(),
            "check": False,
            **kwargs,
        }
        return subprocess.run([sys.executable, "-m", "aevb_engine", *args], **options)

    return invoke


@pytest.fixture
def spawn() -> Any:
    """Start the command as a process that the test sends signals to; killed at the end if it is still there."""
    started: list[subprocess.Popen[str]] = []

    def invoke(*args: str, command: list[str] | None = None, group: bool = False) -> subprocess.Popen[str]:
        whole = command or [sys.executable, "-m", "aevb_engine", *args]
        pipe = subprocess.PIPE
        child = subprocess.Popen(whole, stdout=pipe, stderr=pipe, text=True, start_new_session=group)
        started.append(child)
        return child

    yield invoke
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()


@pytest.fixture
def one_error(call: Callable[..., Result]) -> Callable[..., str]:
    """Call that must fail with a code, one line on stderr, nothing on stdout, and leave nothing behind."""

    def invoke(code: int, *args: str, **kwargs: Any) -> str:
        before = set(Path().rglob("*"))
        result = call(*args, **kwargs)
        assert result.exit_code == code, (result.exit_code, result.stderr)
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        assert "Traceback" not in result.stderr
        assert set(Path().rglob("*")) == before
        return lines[0]

    return invoke


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    """A folder for PYTHONPATH with a distribution whose entry points are given as {group: {name: target}}."""

    def make(points: dict[str, dict[str, str]], source: str) -> Path:
        site = tmp_path / "site"
        info = site / "thirdparty-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
        lines = [f"[aevb_engine.{g}]\n" + "".join(f"{n} = {t}\n" for n, t in p.items()) for g, p in points.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        (site / "thirdparty.py").write_text(source)
        return site

    return make


@pytest.fixture
def terminal() -> Callable[..., SimpleNamespace]:
    """The command on a pseudo-terminal; code and everything it wrote."""

    def invoke(*args: str, columns: int = 80, **env: str) -> SimpleNamespace:
        pty = pytest.importorskip("pty")
        import fcntl
        import struct
        import termios

        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", **env}
        environment.pop("NO_COLOR", None) if "NO_COLOR" not in env else None
        for name in ("COLUMNS", "LINES"):
            environment.pop(name, None)
        child = subprocess.Popen(
            [sys.executable, "-m", "aevb_engine", *args], stdout=slave, stderr=slave, stdin=slave, env=environment
        )
        os.close(slave)
        written = b""
        while True:
            try:
                block = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not block:
                break
            written += block
        os.close(master)
        return SimpleNamespace(code=child.wait(), output=written.decode())

    return invoke
