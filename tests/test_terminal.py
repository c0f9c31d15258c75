"""What a person sees: on screens of three widths, in files, without colour."""

import io
import os
import re
import sys

import children
import pytest
from emulator import Terminal
from running import REPOSITORY, SCRIPTS, run_script

from iwae_tf.config import default_config
from iwae_tf.io import terminal
from iwae_tf.runs import callbacks

PLAIN = {"NO_COLOR": "", "TERM": "xterm-256color"}


class TTY(io.StringIO):
    def isatty(self):
        return True


def start(columns, *arguments, cwd=REPOSITORY, **environment):
    """A script of the package, or the code that is given, on a terminal."""
    option = "-m" if len(arguments) > 1 else "-c"
    command = [sys.executable, option, *map(str, arguments)]
    environment = os.environ | PLAIN | {"PYTHONPATH": str(REPOSITORY)} | environment
    for name in ("COLUMNS", "LINES"):  # would stand for the terminal's own size
        environment.pop(name, None)
    return Terminal(command, columns, cwd=cwd, env=environment)


def assert_silent(text):
    """Nothing but what the package itself says."""
    for noise in ("WARNING", "Warning", "I0000", "oneDNN", "cpu_feature", "absl"):
        assert noise not in text


# Real runs on a terminal -----------------------------------------------------------


@pytest.mark.slow
def test_a_narrow_terminal_shows_a_run_whole(tiny, tmp_path):
    screen = start(40, "iwae_tf.train", *tiny, "--workdir=r", cwd=tmp_path).read()
    lines = screen.lines
    text = " ".join(line.strip() for line in lines)
    assert screen.process.returncode == 0, text
    assert_silent(text)
    assert text.startswith("IWAE (latent 2, reparameterized) on npz, 54 images:")
    assert "maximises log mean w, K=3, for 2 epochs of 3 steps on CPU" in text
    # One line each is left of the bars.
    (bar,) = [line for line in lines if line.startswith("epoch ")]
    assert re.fullmatch(r"epoch 2/2 100% \d\d:\d\d bound -\d+\.\d\d", bar)
    (bar,) = [line for line in lines if "samples" in line and "%" in line]
    assert bar.startswith("40 samples 100%")
    # The table: names end, and texts begin, at one column.
    table = lines[lines.index(bar) + 1 :]
    assert table[0].startswith("     test NLL  ") and " nats (+- " in table[0]
    assert " active units  2 of 2" in table
    assert "   SavedModel  r/saved_model/1" in table
    assert all(line[13:15] == "  " and line[15] != " " for line in table)
    assert b"\x1b[1m" in screen.output


BAR = """
import sys, time
sys.argv[0] = "-m"  # as a script, which does not wait for TensorFlow
from iwae_tf.io import terminal
with terminal.Progress(60, label="epoch 1/60") as bar:
    for epoch in range(60):
        values = {"bound": -100.0 - epoch, "val_bound": -101.5}
        bar.show(f"epoch {epoch + 1}/60", values)
        bar.update(1)
        if epoch == 20:
            terminal.tell("training is expected to take 2 min more")
        time.sleep(0.05)
"""


def test_a_wide_terminal_that_is_made_narrow():
    screen = start(200, BAR)
    screen.read(until=b"val_bound")
    (wide,) = screen.lines
    assert re.search(r"━{10,} +\d+% +\S+ bound -\S+, val_bound -101.50$", wide)
    screen.read(until=b"take 2 min more")
    screen.resize(40)
    before = len(screen.output)
    screen.read()
    assert screen.process.returncode == 0
    later = screen.output[before:].decode()
    drawn = re.sub("\x1b\\[[0-9;]*m", "", later).split("\r\x1b[2K")[1:]
    assert len(drawn) > 4
    # What was under way when the window changed may still be wide.
    assert all(line.startswith("epoch ") and len(line) <= 40 for line in drawn[2:-1])
    first, *_, last = screen.lines
    assert first.startswith("training is expected to take 2 min more")
    assert re.fullmatch(r"epoch 60/60 100% \d\d:\d\d bound -159.00", last)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_it_is_not_wanted(monkeypatch, environment):
    screen = start(80, BAR, **environment).read()
    assert screen.process.returncode == 0 and b"\x1b[3" not in screen.output
    assert ("\x1b" in screen.output.decode()) == ("TERM" not in environment)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal.bold("title", TTY()) == "\x1b[1mtitle\x1b[0m"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert terminal.bold("title", TTY()) == "title"


def test_a_file_gets_plain_lines(finished):
    output, error = (
        (finished.parents[1] / name).read_text() for name in ("stdout", "stderr")
    )
    for text in (output, error):
        assert "\r" not in text and "\x1b" not in text and "█" not in text
        assert_silent(text)
    first, *table = output.splitlines()
    assert first.startswith("IWAE") and first.endswith("cores)")
    assert [line[:14].strip() for line in table] == [
        *("note: 54 train", "note: 6 steps", "test NLL", "95 % interval"),
        *("Pareto k", "bound", "active units", "results", "model", "SavedModel"),
        *("figures", "metrics"),
    ]
    # First and last, and those between where a second has passed.
    lines = error.splitlines()
    assert re.fullmatch(
        r"epoch 1/2: 50 %, \d+ s passed, "  # what is left is not known yet
        r"bound -\d+\.\d\d, val_bound -\d+\.\d\d",
        lines[0],
    )
    assert len([line for line in lines if line.startswith("epoch 2/2: 100 %, ")]) == 1
    scored = r"40 samples: 100 %, \d+ s passed, nll \d+\.\d\d"
    assert re.fullmatch(scored, lines[-1])


# Help ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_of_a_console_command_is_short(name, capsys):
    assert run_script(name, "--help") == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert output.err == "" and len(lines) < 100
    assert all(len(line) <= 80 or "python -m" in line for line in lines)
    assert f"python -m iwae_tf.{name} " in output.out
    assert "Flags" in lines and "  --helpfull" in output.out
    for noise in ("flags:", "(default:", "repeat this option", "alsologtostderr"):
        assert noise not in output.out
    own = set(re.findall(r'_[A-Z_]+ = .*?"(\w+)",', own_text(name), re.DOTALL))
    assert {f for f in own if f"  --{f}" not in output.out} == set()


@pytest.mark.parametrize("name", ["sweep", "reproduce", "score_beam"])
def test_commands_in_help_can_be_pasted(name, capsys):
    for options in (["--help"], ["--helpfull"]):
        assert run_script(name, *options) == 0
        text = capsys.readouterr().out
        start = text.index("python -m")
        command = text[start : text.index("\n\n", start)]
        first, *rest = command.splitlines()
        assert rest and first.endswith(" \\") and not rest[-1].endswith("\\")
        assert not set("[]") & set(command)


def own_text(name):
    """The part of a script that defines its flags."""
    text = (REPOSITORY / "iwae_tf" / f"{name}.py").read_text()
    return text[text.index("\n_") : text.index("\ndef ")].replace("(\n    ", "(")


def test_help_has_every_config_key_with_its_value(capsys):
    assert run_script("train", "--config=mnist_iwae_short", "--help") == 0
    output = capsys.readouterr().out
    config = default_config()
    for key in config:
        assert f"\n  {key}=" in output
    assert "\n  epochs=68 " in output and "\n  optimizer=muon  " in output
    assert "  constant, cosine, burda, burda_code" in output
    assert run_script("train", "-h") == 0
    assert "\n  epochs=3280 " in capsys.readouterr().out
    assert run_script("train", "--helpfull") == 0
    assert "alsologtostderr" in capsys.readouterr().out


def test_help_of_a_module_is_that_of_its_command(capsys):
    assert run_script("train", "--help") == 0
    done = children.run_without_tensorflow("iwae_tf.train", "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == capsys.readouterr().out


# The parts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seconds, words",
    [
        *((0.2, "1 s"), (40, "40 s"), (59.7, "1 min"), (700, "12 min")),
        *((3560, "59 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min")),
        *((90_000, "1 day 1 h"), (187_200, "2 days 4 h")),
    ],
)
def test_durations(seconds, words):
    assert terminal.duration(seconds) == words


def test_a_bar_knows_that_draws_cost_time(monkeypatch):
    """Two epochs of 10 steps, the second with steps nine times as dear."""
    said, clock = [], [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    shown = callbacks.Progress(
        [1.0, 9.0], steps_per_epoch=10, first_step=0, report=said.append
    )
    shown.on_train_begin()
    shown.on_epoch_begin(0)
    for batch, begin, end in ((1, 0, 60), (3, 60, 61), (7, 70, 75), (8, 75, 76)):
        clock[0] = begin
        shown.on_train_batch_begin(batch)
        clock[0] = end
        shown.on_train_batch_end(batch)
    # After the first call, which compiled, a second a step: two and 90 are left.
    assert said == ["training is expected to take 2 min more"]
    shown.close()


def test_a_log_says_now_and_then_where_it_is(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with terminal.Progress(100, initial=50, label="work") as shown:
        for _ in range(4):
            clock[0] += 16.0
            shown.update(10)
        shown.show(values={"nll": 1.234})
    assert capsys.readouterr().err.splitlines() == [
        "work: 70 %, 32 s passed, 48 s left",
        "work: 90 %, 1 min passed, 16 s left",
        "work: 90 %, 1 min passed, 16 s left, nll 1.23",
    ]


def test_fields_of_a_file_are_whole(capsys):
    path = "/a/" + 30 * "long/" + "path"
    terminal.print_fields([("name", "words " * 40), ("a longer name", path)])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("         name  words") and len(first) > 200
    assert second == f"a longer name  {path}"


def test_a_terminal_of_no_width_is_of_the_usual_one(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((0, 0)))
    assert terminal.columns(TTY()) == 80
    assert terminal.columns(io.StringIO()) is None
    monkeypatch.setenv("TERM", "dumb")
    assert terminal.columns(TTY()) is None
