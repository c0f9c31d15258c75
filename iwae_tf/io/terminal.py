"""What the scripts show: aligned fields, durations, progress.

Lines that change and bold type are for terminals. A file, a pipe and TERM=dumb get
plain lines, no more than one every so often; NO_COLOR (https://no-color.org) keeps a
terminal's text plain.
"""

import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TextIO

from rich import live
from rich import progress as rich_progress
from rich.console import Console, ConsoleOptions, RenderResult

LINE_SECONDS = 30.0  # between two lines of a log
MARK_SECONDS = 1.0  # and between two at places of interest, such as the end of an epoch
SPEED_SECONDS = 3600.0  # of the past, from which it is said what is left
NAME_COLUMNS = 12  # of the names of fields, at least
LABEL = rich_progress.TextColumn("{task.description}", markup=False)
BAR = rich_progress.BarColumn(bar_width=20)
PERCENT = rich_progress.TaskProgressColumn()
LEFT = rich_progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True)
FIRST = rich_progress.TextColumn("{task.fields[first]}", markup=False)
VALUES = rich_progress.TextColumn("{task.fields[values]}", markup=False)
LAYOUTS = (  # the first that fits is taken
    (LABEL, BAR, PERCENT, LEFT, VALUES),
    (LABEL, PERCENT, LEFT, VALUES),
    (LABEL, PERCENT, LEFT, FIRST),
    (LABEL, PERCENT, LEFT),
    (PERCENT, LEFT),
    (PERCENT,),
)


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream shows lines that change."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def columns(stream: TextIO) -> int | None:
    """Columns of a terminal, or None for a file, whose lines have any length."""
    return shutil.get_terminal_size().columns if is_terminal(stream) else None


def bold(text: str, stream: TextIO) -> str:
    """`text` in bold type where the stream is a terminal and NO_COLOR is not set."""
    if not is_terminal(stream) or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[1m{text}\x1b[0m"


def wrap(text: str, stream: TextIO, indent: int = 0) -> str:
    """`text` broken between words to fit a terminal; later lines are indented.

    A word that is too long, such as a path, stays whole.
    """
    width = columns(stream)
    if width is None:
        return text
    lines = textwrap.wrap(
        text,
        max(width - indent, 1),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return ("\n" + " " * indent).join(lines)


def tell(line: str) -> None:
    """Prints a line, broken between words to fit a terminal."""
    print(wrap(line, sys.stdout, indent=2), flush=True)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Prints pairs of name and text, a line each, in two aligned columns.

    A text with a word too long for the second column, such as a path, stands below its
    name.
    """
    shown = [(name, str(text)) for name, text in fields]
    width = max(NAME_COLUMNS, *(len(name) for name, _ in shown))
    space = (columns(sys.stdout) or sys.maxsize) - width - 2
    for name, text in shown:
        if max(map(len, text.split())) > space:
            text = "\n  " + wrap(text, sys.stdout, indent=2)
        else:
            text = "  " + wrap(text, sys.stdout, indent=width + 2)
        print(f"{bold(name.rjust(width), sys.stdout)}{text}", flush=True)


def duration(seconds: float) -> str:
    """A time in words of two figures at most: 40 s, 12 min, 3 h 20 min, 2 days 4 h."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 24:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} day{'s' * (hours >= 48)} {hours % 24} h"


class Progress:
    """How far something is, on stderr: a bar on a terminal, plain lines elsewhere.

    Args:
      total: amount of work, or None for one that is told later, `task.total`.
      initial: what of it is done.
      label: what is being done.

    Attributes:
      task: rich.progress.Task; `completed` is what is done, of `total`.
    """

    def __init__(
        self, total: float | None = None, *, initial: float = 0, label: str = ""
    ) -> None:
        self._is_log = not is_terminal(sys.stderr)
        self._drawing = threading.Lock()
        self._bars = rich_progress.Progress(
            speed_estimate_period=SPEED_SECONDS, get_time=time.monotonic
        )
        self._id = self._bars.add_task(label, total=total, first="", values="")
        self.task = self._bars.tasks[0]
        self.task.completed = self._initial = initial
        self._told = time.monotonic()
        self._last: tuple[float, str, str] | None = None  # place of the last log line
        self._live = live.Live(
            self,
            console=Console(stderr=True, force_terminal=True),
            # Lines that are printed meanwhile stand above the bar.
            redirect_stdout=is_terminal(sys.stdout),
        )
        if not self._is_log:
            self._live.start()
            self._live.console.show_cursor(True)  # a killed process could not do it

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        with self._drawing:  # by the clock, and where a line is printed above it
            for layout in LAYOUTS:
                self._bars.columns = layout
                table = self._bars.make_tasks_table(self._bars.tasks)
                wanted = console.measure(table, options=options.update_width(1000))
                if wanted.maximum <= options.max_width:
                    break
        yield table

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, more: float) -> None:
        """Some more work is done."""
        self._bars.advance(self._id, more)
        if time.monotonic() - self._told >= LINE_SECONDS:
            self._tell()

    def show(
        self, label: str | None = None, values: Mapping[str, float] | None = None
    ) -> None:
        """Changes the label, or the numbers behind the bar."""
        self._bars.update(self._id, description=label)
        if values is not None:
            texts = [f"{name} {value:.2f}" for name, value in values.items()]
            self.task.fields.update(first="".join(texts[:1]), values=", ".join(texts))
            if self._last is None or time.monotonic() - self._told >= MARK_SECONDS:
                self._tell()

    def close(self) -> None:
        """Ends the line; once more does nothing."""
        self._live.stop()
        if self.task.completed > self._initial:
            self._tell()

    def _tell(self) -> None:
        """Prints where it is as a line of a log, unless that was the last one."""
        task = self.task
        place = (task.completed, task.description, task.fields["values"])
        if not self._is_log or place == self._last:
            return
        self._last, self._told = place, time.monotonic()
        parts = [f"{duration(task.elapsed or 0)} passed"]
        if task.total:
            parts.insert(0, f"{task.percentage:.0f} %")
        if task.time_remaining:
            parts.append(f"{duration(task.time_remaining)} left")
        parts += filter(None, [task.fields["values"]])
        print(f"{task.description}: {', '.join(parts)}", file=sys.stderr, flush=True)
