"""Files of scores that outlast a job that is cut off."""

import csv
import io
import itertools
import json
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import LogLikelihood, concatenate
from iwae_tf.io.files import naming_file, write_atomically, write_text
from iwae_tf.saved_model.signatures import SCORES

COLUMNS = ("row", *SCORES)
OTHER_VERSION = ", or name that version of the model to continue it"
PARTIAL, COMMENT = ".partial", b"# "


class ScoreFile:
    """A CSV file of one line a row, which is whole or not there.

    Until the last row is there the lines are in PATH.partial, behind a line with the
    settings that made them, and the lines of each batch before one with their CRC. A
    job with the same settings goes on after the last batch that is intact; one with
    others is refused.

    Args:
      path: of the CSV file.
      settings: dict of JSON values, "num_rows" and "batch_size" among them.
      columns: names and values, one a row, of what follows the scores in a line.

    Raises:
      InvalidInputError: the file exists, or its beginning is another job's.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: dict[str, Any],
        columns: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.path, self._settings = pathlib.Path(path), settings
        self._columns = columns or {}
        if columns:
            self._settings = {**settings, "columns": [*columns]}
        if self.path.exists():
            raise InvalidInputError(
                f"`output` must be a new file. Received: {path}, which exists"
            )
        self.partial = self.path.with_name(self.path.name + PARTIAL)
        self._names = _lines([[*COLUMNS, *map(_in_one_line, self._columns)]])
        self.done: LogLikelihood | None = None
        if self.partial.exists():
            self._check_settings()
            self.done, size = self._read()
            os.truncate(self.partial, size)  # of a line or a batch that was cut off

    def append(self, first_row: int, result: LogLikelihood) -> None:
        """Adds the scores of consecutive rows and flushes them to the disk."""
        lines = []
        for row, *scores in zip(itertools.count(first_row), *result):
            more = [_in_one_line(values[row]) for values in self._columns.values()]
            lines.append([*fields(row, *scores), *more])
        if not self.partial.exists():
            head = f"# {json.dumps(self._settings)}\n{self._names}"
            write_text(self.partial, head)
        text = _lines(lines).encode()
        with naming_file(self.partial), open(self.partial, "ab") as file:
            file.write(text + _checksum(text))
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> pathlib.Path:
        """Moves the complete file into place; returns its path.

        Raises:
          InvalidInputError: another process has written into it as well.
        """
        done, size = self._read()
        count = 0 if done is None else len(done.estimate)
        if count != self._settings["num_rows"] or size != self.partial.stat().st_size:
            raise InvalidInputError(
                "`output` must be written by one process at a time. Received: "
                f"{self.partial}, whose lines are not rows 0, 1, 2, ..."
            )
        lines = self.partial.read_bytes().splitlines(keepends=True)
        text = b"".join(line for line in lines if not line.startswith(COMMENT))
        write_atomically(self.path, lambda file: file.write(text))
        self.partial.unlink()
        return self.path

    def _check_settings(self) -> None:
        ours = self._settings
        with open(self.partial, "rb") as file:
            head, names = file.readline(), file.readline()
        found = _settings_of(head)
        keys = [k for k in sorted({*found, *ours}) if found.get(k) != ours.get(k)]
        if not keys and names == self._names.encode():
            return
        what = "which is something else"
        if found and keys:
            what = (
                f"whose {keys[0]} is {found.get(keys[0])!r}, not "
                f"{ours.get(keys[0])!r}; delete it to start again"
                f"{OTHER_VERSION if keys[0] == 'model' else ''}"
            )
        raise InvalidInputError(
            "`output` must be new or hold the beginning of this job. Received: "
            f"{self.partial}, {what}"
        )

    def _read(self) -> tuple[LogLikelihood | None, int]:
        """(LogLikelihood of the whole batches or None, bytes up to their end)."""
        num_rows, batch_size = self._settings["num_rows"], self._settings["batch_size"]
        batches = []
        with open(self.partial, "rb") as file:
            file.readline()
            file.readline()
            size = file.tell()
            for first in range(0, num_rows, batch_size):
                rows = range(first, min(first + batch_size, num_rows))
                lines = [file.readline() for _ in rows]
                if file.readline() != _checksum(b"".join(lines)):
                    break
                cells = [line.split(b",")[: len(COLUMNS)] for line in lines]
                if [int(row) for row, *_ in cells] != [*rows]:
                    break
                scores = np.array([row[1:] for row in cells]).astype(np.float32)
                batches.append(LogLikelihood(*scores.T))
                size = file.tell()
        return (concatenate(batches) if batches else None), size


def endpoint_begun(
    endpoint: str | None, output: str | os.PathLike[str] | None
) -> str | None:
    """`endpoint`, with the version that the job has begun with which it goes on with.

    A job of another model or without a beginning has the endpoint as it is.
    """
    partial = pathlib.Path(f"{output}{PARTIAL}")
    if endpoint is None or output is None or not partial.is_file():
        return endpoint
    with open(partial, "rb") as file:
        model = str(_settings_of(file.readline()).get("model"))
    is_theirs = model.startswith(endpoint.rstrip("/") + "/versions/")
    return model if is_theirs else endpoint


def fields(row: int, *scores: float) -> list[str]:
    """The fields of a CSV line; nine digits are all of a float32."""
    return [str(row), *(format(float(score), ".9g") for score in scores)]


def _settings_of(head: bytes) -> dict[str, Any]:
    """The settings in the first line of a beginning; none in what is something else."""
    try:
        return dict(json.loads(head.removeprefix(COMMENT)))
    except (ValueError, TypeError):
        return {}


def _in_one_line(text: str) -> str:
    """A cell without line ends; bytes of a file's name that are no UTF-8: \\udcXX."""
    return " ".join(text.splitlines()).encode("utf-8", "backslashreplace").decode()


def _lines(rows: Iterable[Iterable[str]]) -> str:
    """Lines of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _checksum(text: bytes) -> bytes:
    """The line after the lines of a batch."""
    return b"%s%08x\n" % (COMMENT, zlib.crc32(text))
