"""What the scripts show: aligned fields, durations, progress.

Lines that change and bold type are for terminals. A file, a pipe and TERM=dumb get
plain lines, no more than one every so often; NO_COLOR (https://no-color.org) keeps a
terminal's text plain.
"""

import contextlib
import os
import sys
import textwrap
import time
from collections.abc import Iterable
from typing import Any, TextIO

import tqdm

LINE_SECONDS = 30.0  # between two lines of a log
MARK_SECONDS = 1.0  # and between two at places of interest, such as the end of an epoch
DEFAULT_COLUMNS, MOST_COLUMNS = 80, 100
NAME_COLUMNS = 12  # of the names of fields, at least
BAR_COLUMNS = 10  # a shorter bar says nothing
LAYOUTS = (  # and how many numbers are shown; the first that fits is taken
    ("{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}", None),
    ("{desc} {percentage:3.0f}% {elapsed}<{remaining}{postfix}", None),
    ("{desc} {percentage:3.0f}% {remaining}{postfix}", 1),
    ("{desc} {percentage:3.0f}% {remaining}", 0),
    ("{percentage:3.0f}% {remaining}", 0),
    ("{percentage:3.0f}%", 0),
)


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream shows lines that change."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def columns(stream: TextIO) -> int | None:
    """Columns of a terminal, or None for a file, whose lines have any length."""
    if not is_terminal(stream):
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_COLUMNS
    except (OSError, ValueError):
        return DEFAULT_COLUMNS


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


def progress(total: float | None = None, *, initial: float = 0, label: str = "") -> Any:
    """Shows how far something is, on stderr.

    Args:
      total: amount of work, or None for one that is told later, `.total`.
      initial: what of it is done.
      label: str, what is being done.

    Returns:
      context manager with `n` (what is done), `update(more)`, `show(label, values)`,
      `above()` (within it other lines can be printed) and `close()`.
    """
    kind = _Bar if is_terminal(sys.stderr) else _Log
    return kind(total, initial=initial, label=label)


class _Bar(tqdm.tqdm):
    """A line that is drawn again and again, always as wide as the terminal allows."""

    def __init__(self, total, *, initial, label):
        self._values = {}
        super().__init__(
            desc=label,
            total=total,
            initial=initial,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.2,
        )

    def __str__(self):
        facts = dict(self.format_dict, prefix=self.desc)
        # One column is left free: some terminals go to the next line at the last one.
        width = min(facts.pop("ncols") or DEFAULT_COLUMNS, MOST_COLUMNS) - 1
        for layout, count in LAYOUTS:
            facts["postfix"] = _format(self._values, count)
            bar_columns = BAR_COLUMNS if "{bar}" in layout else 0
            facts["bar_format"] = layout.replace("{bar}", " " * bar_columns)
            if len(self.format_meter(ncols=None, **facts)) <= width:
                break
        facts["bar_format"] = layout
        return self.format_meter(ncols=width, **facts)[:width]

    @staticmethod
    def status_printer(file):
        """tqdm's writes blanks over an old line, too many where the terminal shrank."""

        def print_status(line):
            file.write(f"\r{line}\x1b[K")
            file.flush()

        return print_status

    def show(self, label=None, values=None):
        """Changes the label, or the numbers behind the bar."""
        if label is not None:
            self.set_description_str(label, refresh=False)
        if values is not None:
            self._values = values
        self.refresh()

    def above(self):
        return tqdm.tqdm.external_write_mode(file=sys.stderr)


class _Log:
    """The same as plain lines."""

    def __init__(self, total, *, initial, label):
        self.total = total
        self.n = self._initial = initial
        self._label = label
        self._values = ""
        self._start = self._told = time.monotonic()
        self._first = None  # time and work at the first update, which may have compiled
        self._line = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def update(self, more):
        self.n += more
        if self._first is None:
            self._first = time.monotonic(), self.n
        if time.monotonic() - self._told >= LINE_SECONDS:
            self._tell()

    def show(self, label=None, values=None):
        if label is not None:
            self._label = label
        if values is None:
            return
        self._values = _format(values)
        if self._line is None or time.monotonic() - self._told >= MARK_SECONDS:
            self._tell()

    def above(self):
        return contextlib.nullcontext()

    def close(self):
        if self.n > self._initial:
            self._tell()

    def _tell(self):
        """Prints where it is, unless that was the last line."""
        place = (self.n, self._label, self._values)
        if place == self._line:
            return
        self._line, self._told = place, time.monotonic()
        start, first = self._first or (self._start, self.n)
        parts = [f"{tqdm.tqdm.format_interval(self._told - self._start)} passed"]
        if self.total:
            parts.insert(0, f"{100 * self.n / self.total:.0f} %")
            if first < self.n < self.total:
                left = (self._told - start) * (self.total - self.n) / (self.n - first)
                parts.append(f"{tqdm.tqdm.format_interval(left)} left")
        if self._values:
            parts.append(self._values)
        print(f"{self._label}: {', '.join(parts)}", file=sys.stderr, flush=True)


def _format(values, count=None):
    """The first `count` of a dict of name to number; all of them for None."""
    parts = [f"{name} {value:.2f}" for name, value in values.items()]
    return ", ".join(parts[:count])
