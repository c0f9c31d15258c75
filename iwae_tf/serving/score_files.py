"""Files of scores that outlast a job that is cut off."""

import json
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import LogLikelihood
from iwae_tf.io.files import write_atomically
from iwae_tf.saved_model.signatures import SCORES

COLUMNS = ("row", *SCORES)
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
        self._names = ",".join([*COLUMNS, *self._columns]) + "\n"
        self.done: LogLikelihood | None = None
        if self.partial.exists():
            self._check_settings()
            self.done, size = self._read()
            os.truncate(self.partial, size)  # of a line or a batch that was cut off

    def append(self, first_row: int, result: LogLikelihood) -> None:
        """Adds the scores of consecutive rows and flushes them to the disk."""
        rows = range(first_row, first_row + len(result.estimate))
        more = [[_field(v[row]) for v in self._columns.values()] for row in rows]
        lines = [
            ",".join([as_line(scores), *fields]) + "\n"
            for scores, fields in zip(zip(rows, *result), more)
        ]
        if not self.partial.exists():
            head = f"# {json.dumps(self._settings)}\n{self._names}"
            write_atomically(self.partial, lambda file: file.write(head.encode()))
        text = "".join(lines).encode()
        with open(self.partial, "ab") as file:
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
        try:
            with open(self.partial, encoding="utf-8") as file:
                found = dict(json.loads(file.readline().removeprefix("# ")))
                names = file.readline()
            different = [
                key
                for key in sorted({*found, *self._settings})
                if found.get(key) != self._settings.get(key)
            ]
            if not different and names == self._names:
                return
            if not different:
                raise ValueError(names)
            key = different[0]
            what = (
                f"whose {key} is {found.get(key)!r}, not {self._settings.get(key)!r}; "
                "delete it to start again"
            )
        except (ValueError, TypeError):
            what = "which is something else"
        raise InvalidInputError(
            "`output` must be new or hold the beginning of this job. Received: "
            f"{self.partial}, {what}"
        )

    def _read(self) -> tuple[LogLikelihood | None, int]:
        """(LogLikelihood of the whole batches or None, bytes up to their end)."""
        num_rows, batch_size = self._settings["num_rows"], self._settings["batch_size"]
        values: list[tuple[float, ...]] = []
        batch: list[tuple[float, ...]] = []
        text = b""
        with open(self.partial, "rb") as file:
            file.readline()
            file.readline()
            size = file.tell()
            for line in file:
                row = _parsed(line)
                count = len(values) + len(batch)
                if row is None or row[0] != count or count == num_rows:
                    break
                batch.append(row[1:])
                text += line
                if len(batch) == batch_size or count + 1 == num_rows:
                    if file.readline() != _checksum(text):
                        break
                    values += batch
                    batch, text, size = [], b"", file.tell()
        if not values:
            return None, size
        return LogLikelihood(*np.array(values, np.float32).T), size


def as_line(scores: Iterable[float]) -> str:
    """Fields of a CSV line, a row id and floats; nine digits are all of a float32."""
    row, *values = scores
    return ",".join([str(row), *(format(float(value), ".9g") for value in values)])


def _checksum(text: bytes) -> bytes:
    """The line after the lines of a batch."""
    return b"%s%08x\n" % (COMMENT, zlib.crc32(text))


def _field(text: str) -> str:
    """A field of a CSV file: in quotes where it has to be, and on one line."""
    text = " ".join(text.splitlines())
    quoted = text.replace('"', '""')
    return f'"{quoted}"' if {*text} & {*',"'} else text


def _parsed(line: bytes) -> tuple[float, ...] | None:
    """(row, six floats) of a whole line, or None."""
    fields = line.split(b",", len(COLUMNS))[: len(COLUMNS)]
    if len(fields) != len(COLUMNS) or not line.endswith(b"\n"):
        return None
    try:
        return int(fields[0]), *map(float, fields[1:])
    except ValueError:
        return None
