"""A terminal emulator around a process: what a person would see."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

import pyte

ROWS = 60


class Terminal:
    """A process on a pseudo-terminal, and the screen that it draws.

    Args:
      command: list of str.
      columns: int, of the screen.
      **kwargs: of subprocess.Popen.
    """

    def __init__(self, command, columns, **kwargs):
        self.screen = pyte.HistoryScreen(columns, ROWS, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self.output = b""
        self._master, slave = pty.openpty()
        _set_size(slave, columns)
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, **kwargs
        )
        os.close(slave)

    def read(self, *, until=None, timeout=300.0):
        """Shows what the process writes, until it has written this or has ended."""
        deadline, found = time.monotonic() + timeout, b""
        while until is None or until not in found:
            assert time.monotonic() < deadline, self.output
            if not select.select([self._master], [], [], 1.0)[0]:
                continue
            try:
                data = os.read(self._master, 65536)
            except OSError:  # how Linux tells that the other end is closed
                data = b""
            if not data:
                os.close(self._master)
                self.process.wait(timeout)
                return self
            found += data
            self.output += data
            self._stream.feed(data)
        return self

    def resize(self, columns):
        """As when a person drags the window's corner."""
        _set_size(self._master, columns)
        self.screen.resize(ROWS, columns)
        self.process.send_signal(signal.SIGWINCH)

    @property
    def lines(self):
        """Lines that have text, without blanks at their ends."""
        lines = (line.rstrip() for line in self.screen.display)
        return [line for line in lines if line]


def _set_size(descriptor, columns):
    size = struct.pack("HHHH", ROWS, columns, 0, 0)
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, size)
