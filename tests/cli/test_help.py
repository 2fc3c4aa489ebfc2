"""Help and version: instant, for every command, with an example each."""

import subprocess
import sys

import pytest

from tests.patience import patience

HEAVY = ("numpy", "h5py", "matplotlib", "cupy", "rich", "threadpoolctl", "aevb_plugins")
COMMANDS = [
    (),
    ("run",),
    ("resume",),
    ("show",),
    ("evaluate",),
    ("study",),
    ("study", "variance"),
    ("study", "learners"),
    ("doctor",),
    ("datasets",),
    ("datasets", "list"),
    ("datasets", "show"),
    ("datasets", "fetch"),
    ("plugins",),
    ("plugins", "list"),
    ("plugins", "show"),
]


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(call, command, flag):
    result = call(*command, flag)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "Example" in result.stdout
    assert f"aevb-engine {' '.join(command)}".strip() in result.stdout.split("Example")[1]


def test_version(call):
    result = call("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("aevb-engine ")


@pytest.mark.parametrize("group", [(), ("plugins",), ("datasets",), ("study",)])
def test_without_a_command_the_help_is_shown_as_a_usage_error(call, group):
    result = call(*group)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Commands:" in result.stderr


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["run", "--help"], ["rnu"]])
def test_imports_nothing_heavy(args):
    code = (
        "import sys\nfrom aevb_cli.main import main\n"
        f"sys.argv = ['aevb-engine', *{args!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=patience(), check=True)
    assert child.stderr.splitlines()[-1] == "[]"
