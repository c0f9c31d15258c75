"""Processes that end with the one that started them, and where they write errors.

The child holds one end of a pipe, and is told by its end that nobody holds the other.
"""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

PIPE = "IWAE_TF_PARENT_PIPE"  # variable with the number of the child's end


@contextlib.contextmanager
def child(
    command: Sequence[str], environment: Mapping[str, str], **settings: Any
) -> Iterator[subprocess.Popen]:
    """Starts a process whose `follow_parent` sees the end of the block or of this one.

    The settings are those of subprocess.Popen.
    """
    theirs, ours = os.pipe()
    try:
        try:
            process = subprocess.Popen(
                command,
                env={**environment, PIPE: str(theirs)},
                pass_fds=[theirs],
                **settings,
            )
        finally:
            os.close(theirs)
        yield process
    finally:
        os.close(ours)


@contextlib.contextmanager
def stderr_to(file: IO[Any]) -> Iterator[None]:
    """Has this process and those that it starts write to a file instead of stderr."""
    sys.stderr.flush()
    original = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)
        os.close(original)


def follow_parent() -> None:
    """Sends this process SIGTERM once its parent is gone; without `child` nothing."""
    pipe = int(os.environ.pop(PIPE, "-1"))

    def watch():
        with contextlib.suppress(OSError):  # closed by what started us in between
            if stat.S_ISFIFO(os.fstat(pipe).st_mode) and not os.read(pipe, 1):
                os.kill(os.getpid(), signal.SIGTERM)

    if pipe >= 0:
        threading.Thread(target=watch, daemon=True).start()
