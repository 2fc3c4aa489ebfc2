"""Text for people fits the terminal: the one function that breaks lines, tables, and every command at two widths."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from aevb_cli import text
from aevb_cli.text import columns, grid, pairs, prose, say, setting, table, wrap
from aevb_engine.experiment.atomic import quoted

posix = pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals of POSIX")


@pytest.fixture
def width(monkeypatch):
    """Let stdout be a terminal of so many columns."""
    return lambda count: monkeypatch.setattr(text, "columns", lambda stream=None: count)


def stuck(line):
    """Whether nothing can be broken: one word, such as a path, beside a name; or an option with its choices."""
    return len(re.split(r" {2,}", line.strip().removesuffix(" \\"))[-1].split()) == 1 or line.lstrip().startswith("--")


def test_lines_break_at_words_and_hang():
    line = "warning: the figures could not be drawn as the disk is full"
    assert wrap(line, None) == line
    assert wrap(line, 80) == line
    assert wrap(line, 30) == "warning: the figures could not\n  be drawn as the disk is full"
    assert wrap("  a line that is indented", 16) == "  a line that is\n  indented"


def test_values_hang_below_their_beginning():
    rows = pairs(
        [("bound", "train -249.27   test -215.58 +- 4.91   nats"), ("", "test = reconstruction -211.59 - KL 3.98")]
    )
    assert wrap(rows, 40).splitlines() == [
        "bound  train -249.27   test -215.58",
        "       +- 4.91   nats",
        "       test = reconstruction -211.59",
        "       - KL 3.98",
    ]


def test_a_sign_stays_with_its_number():
    for line in ("0123456789 +- 4.91", "0123456789 - KL", "0123456 K = 500"):
        head, tail = wrap(line, 13).split("\n")
        assert line == f"{head} {tail.strip()}"
        assert re.fullmatch(r"\+- 4.91|- KL|K = 500", tail.strip())


def test_a_value_without_room_stands_below():
    lines = wrap("train-images-idx3-ubyte.gz  not here; downloaded when needed", 40).splitlines()
    assert lines == ["train-images-idx3-ubyte.gz", "    not here; downloaded when needed"]
    assert wrap("figures        runs/a-rather-long-name", 30).splitlines() == ["figures", "    runs/a-rather-long-name"]


@pytest.mark.parametrize("count", [1, 2, 5, 20, 40])
def test_no_word_is_cut_or_lost(count):
    line = "  figures  /a/very/long/path/of/a/run/that/no/terminal/holds and 3 more; a dash-ed word"
    broken = wrap(line, count)
    assert broken.split() == line.split()
    for part in broken.splitlines():
        assert len(part) <= count or stuck(part) or count < 10


def test_a_table_that_fits_is_as_ever(width):
    head, rows = ("", "nats", "kind"), [("bound", "-1.00", "lower"), ("a longer title of a row", "10.00", "upper")]
    whole = table(head, rows, right=(1,))
    width(len(whole.splitlines()[2]))
    assert table(head, rows, right=(1,)) == whole
    width(len(whole.splitlines()[2]) - 2)
    assert table(head, rows, right=(1,)).splitlines()[2] == "a longer title of a row 10.00 upper"
    width(30)
    assert table(head, rows, right=(1,)).splitlines()[2:] == ["a longer title of  10.00 upper", "  a row"]


def test_a_last_column_of_long_words_moves_below(width):
    width(30)
    lines = table(("name", "target"), [("adam", "aevb_plugins.optimizers:Adam"), ("b", "c")]).splitlines()
    assert lines == ["name", "    target", "adam", "    aevb_plugins.optimizers:Adam", "b", "    c"]


def test_a_table_becomes_records_where_nothing_else_fits(width):
    width(12)
    assert table(("", "nats", "se"), [("bound", "-100.00", "10.00")], right=(1, 2)).splitlines() == [
        "bound",
        "  nats  -100.00",
        "  se    10.00",
    ]
    width(11)
    two = table(("seed", "bound"), [("1", "-100.00"), ("2", "-1.00")], right=(0, 1))
    assert two == "seed   1\nbound  -100.00\n\nseed   2\nbound  -1.00"


def test_cells_side_by_side(width):
    cells = [f"z{i}" for i in range(9)]
    assert grid(cells) == ["  z0  z1  z2  z3  z4  z5", "  z6  z7  z8"]
    width(11)
    assert grid(cells) == ["  z0  z1", "  z2  z3", "  z4  z5", "  z6  z7", "  z8"]


def test_paragraphs_are_joined_on_a_terminal_alone(width):
    doc = "One\ntwo.\n\n    x = 1\nthree"
    assert prose(doc) == doc
    width(80)
    assert prose(doc) == "One two.\n\n    x = 1\nthree"


def test_nothing_is_wrapped_where_a_program_may_read(monkeypatch, call, train):
    """Piped stdout is whole unless COLUMNS is set; JSON and stderr are whole in any case."""
    assert columns() is None
    train("--output", "r")
    whole, told = call("show", "r").stdout, call("show", "r", "--json").stdout
    assert max(map(len, whole.splitlines())) > 60
    monkeypatch.setenv("COLUMNS", "40")
    assert columns() == 40
    assert columns(sys.stderr) is None
    narrow = call("show", "r").stdout
    assert narrow.split() == whole.split()
    assert all(len(line) <= 40 or stuck(line) for line in narrow.splitlines())
    assert call("show", "r", "--json").stdout == told
    assert len(call("resume", "a run that is not there and has a long name").stderr.splitlines()) == 1
    for bad in ("0", "-1", "many", "٣"):
        monkeypatch.setenv("COLUMNS", bad)
        assert columns() is None


SMALL = "--dataset simulated-binary -o dataset.train=300 -o dataset.test=100 --hidden 20 --steps 30"
STUDY = "--dataset simulated-binary -o dataset.train=300 -o dataset.test=100 --hidden 20"
COMMANDS = [
    f"run {SMALL} -v --objective beta -o objective.beta=4 --output new --no-figures",
    f"run {SMALL} --vary hidden=8,none --replicas 2 --no-figures",
    "run --lr -1 --hidden 20",
    "run --dataset glyphz",
    "show r",
    "show r -v",
    "resume r",
    "evaluate r --method is,ais --samples is=20,ais=2 --rows 5 --temperatures 3 --bracket -v",
    "datasets list",
    "datasets show mnist",
    "plugins list -v",
    "plugins show objective mcem",
    "doctor",
    pytest.param(f"study variance {STUDY} --minibatch 4 --latent-samples 1 --replicates 4", marks=pytest.mark.slow),
    pytest.param(
        f"study learners {STUDY} --objectives elbo,mcem --seen 100 --rows 2 --temperatures 2 --chains 2 --threads 1",
        marks=pytest.mark.slow,
    ),
    pytest.param("bench --workloads W1 --threads 1", marks=pytest.mark.slow),
    "--help",
    "run --help",
    "study learners --help",
    "plugins --help",
]


@posix
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_fits_the_terminal(command, terminal, train):
    if " r" in command:
        train("--output", "r", "--eval-every", "5")
    slow = command.split()[0] in ("bench", "study") and "--help" not in command
    for count, env in ((40, {"NO_COLOR": "1"}),) if slow else ((40, {"NO_COLOR": "1"}), (80, {})):
        shown = terminal(*command.replace("new", f"new{count}").split(), columns=count, **env)
        assert shown.code in (0, 2), shown.output
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.output)
        for line in re.split(r"[\r\n]+", plain):
            assert len(line) <= count or stuck(line), line


def test_names_neither_break_a_table_nor_reach_the_terminal_as_they_are(capsys):
    name = "a\nb\x1b[31m\u202e" + "x" * 1000
    say(table(["name", "value"], [[name, "1"]]))
    say(pairs([(name, name)]))
    say(name)
    say(setting([name]) + setting({"k": name}) + setting(name))
    out = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in out)
    lines = out.splitlines()
    assert lines[1].startswith(r"a\nb\x1b[31m\u202exxx")
    assert "more)...xxx" in lines[1]
    assert len(lines[1]) < 400
    assert len(lines) == 6  # head, row, pair, two of the bare text, settings


def test_a_path_in_a_command_stays_whole_and_is_read_by_a_shell():
    for path in ("a b", "-x", "it's", "a\nb\x1b'\\c\u202e", "x" * 2000, os.fsdecode(b"\xff\xfe")):
        word = quoted(path)
        assert word.isprintable()
        if bash := shutil.which("bash"):
            said = subprocess.run([bash, "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
            assert said == os.fsencode(f"./{path}" if path.startswith("-") else path)
