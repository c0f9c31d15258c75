"""Files that are whole or not there, and folders that one process has to itself."""

import contextlib
import json
import os
import pathlib
import re
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import IO, Any

import filelock
import numpy as np

from iwae_tf.errors import InvalidInputError

# What is written before it is moved into place, also by earlier versions.
_TEMPORARY = re.compile(r"\.(.+\.)?[0-9a-f]{32}(\.\w+)+")


def write_atomically(
    path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]
) -> None:
    """Writes a file aside and moves it into place, flushed to the disk.

    Args:
      path: where; its folder is made.
      write: function of a binary file.
    """

    def write_and_flush(temporary):
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())

    write_through(path, write_and_flush)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a file of text, atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def save_arrays(path: str | os.PathLike[str], **arrays: Any) -> None:
    """Writes an npz file, atomically."""
    write_atomically(path, lambda file: np.savez(file, **arrays))


def write_through(
    path: str | os.PathLike[str], write: Callable[[pathlib.Path], object]
) -> None:
    """As `write_atomically`, for a `write` that wants a path of the same suffix."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp{path.suffix}")
    try:
        with naming_file(path):
            write(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Puts the file into an OSError that names none, as of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Removes what writers left that were killed; only the folder's owner may."""
    folder = pathlib.Path(folder)
    for path in folder.iterdir() if folder.is_dir() else ():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


class FolderLock:
    """A folder that one process has to itself until `release`, or until it dies.

    The operating system drops the lock of a killed process: none goes stale.

    Args:
      folder: path, made if need be.
      name: what a message calls the folder.
      seconds: how long to wait for a process that has it.

    Raises:
      InvalidInputError: another process has it.
    """

    def __init__(
        self, folder: str | os.PathLike[str], name: str, seconds: float = 0.0
    ) -> None:
        path = pathlib.Path(folder) / ".lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(path, timeout=seconds, thread_local=False)
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            owner = "another process"
            with contextlib.suppress(FileNotFoundError):  # it may end just now
                owner = path.read_text() or owner
            raise InvalidInputError(
                f"`{name}` must not be in use by another run. Received: {folder}, "
                f"in use by {owner}"
            ) from error
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}")

    def release(self) -> None:
        """Gives the folder back; once more does nothing."""
        if self._lock.is_locked:
            pathlib.Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()


def check_place(
    path: str | os.PathLike[str],
    name: str,
    *,
    is_file: bool = False,
    will_write: bool = True,
) -> None:
    """Raises InvalidInputError where a folder or a file could not be written.

    Nothing is left behind.

    Args:
      path: of the folder or the file.
      name: what a message calls it.
      is_file: which of the two it is.
      will_write: whether this process is the one that writes.
    """
    folder = pathlib.Path(path)
    try:
        if is_file and folder.is_dir():
            raise IsADirectoryError(f"{folder} is a folder")
        folder = folder.parent if is_file else folder
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file")
        if will_write:
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        kind = "file in a folder" if is_file else "folder"
        raise InvalidInputError(
            f"`{name}` must be a {kind} that can be written to. "
            f"Received: {name}={path}, {error}"
        ) from error


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Writes indented JSON, atomically; NaN and infinity become null."""
    known = json.loads(json.dumps(value), parse_constant=lambda constant: None)
    write_text(path, json.dumps(known, indent=2) + "\n")


def keep_json(path: str | os.PathLike[str], value: object | None) -> None:
    """As `write_json`; None removes what was there of something older."""
    if value is None:
        pathlib.Path(path).unlink(missing_ok=True)
    else:
        write_json(path, value)
