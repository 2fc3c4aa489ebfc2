"""Every error crosses one boundary: internal errors name a log file, tracebacks come with --debug alone."""

import errno
import re
from pathlib import Path

import pytest

import aevb_engine.experiment.run as engine


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """Let the engine fail with an error; log files go to a folder of the test."""
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail(error):
        def start(*_, **__):
            raise error

        monkeypatch.setattr(engine, "start", start)

    return fail


def test_internal_error_names_its_log_file(call, broken):
    broken(ZeroDivisionError("a\nb"))
    result = call("run")
    assert result.exit_code == 70
    assert len(result.stderr.splitlines()) == 1
    found = re.search(r"internal error \(ZeroDivisionError: a b\); details in (\S+)", result.stderr)
    assert "ZeroDivisionError" in Path(found[1]).read_text()


@pytest.mark.parametrize("args", [("--debug", "run"), ("run", "--debug")])
def test_debug_shows_the_traceback(call, broken, args):
    broken(ZeroDivisionError())
    result = call(*args)
    assert result.exit_code == 70
    assert "Traceback" in result.stderr
    assert "Traceback" not in call("run").stderr  # and is forgotten afterwards


def test_log_file_that_cannot_be_written(call, broken, monkeypatch, tmp_path):
    import tempfile

    broken(ZeroDivisionError())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    result = call("run")
    assert result.exit_code == 70
    assert "--debug" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), 1, "not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), 74, "No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 74, "no permission for a/b; allow it"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0, ""),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, BaseException) else "",
)
def test_other_errors(call, broken, error, code, words):
    broken(error)
    result = call("run")
    assert result.exit_code == code
    assert words in result.stderr
    assert len(result.stderr.splitlines()) <= 1


def test_diverged_run_is_kept(call, small):
    result = call("run", *small, "--optimizer", "sgd", "--lr", "1e30", "--steps", "50", "--no-figures", "--output", "r")
    assert result.exit_code == 1
    assert "is not finite" in result.stderr.splitlines()[-1]
    assert result.stdout == ""
    shown = call("show", "r")
    assert "diverged" in shown.stdout
    assert "is not finite" in shown.stdout
