"""Rows in shards, each scored by itself: what the engines, Beam and Spark, share.

An engine hands (id, row) pairs to a `RowScorer`, wherever it likes and as often as it
likes. The row's seed is `serving.batch_seed(seed, id)`: its score does not depend on
shards, workers or retries, and equals that of `serving.score(..., batch_size=1)`. Grey
values are binarized as `rows.read_rows` does it, by the config beside the export.
"""

import functools
import math
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow
from pyarrow import parquet, types

from iwae_tf import datasets
from iwae_tf.checks import readable
from iwae_tf.config.data import scored_as
from iwae_tf.config.files import read_config
from iwae_tf.datasets import table_files, tables
from iwae_tf.datasets.readers import read_npy_header
from iwae_tf.errors import InvalidInputError
from iwae_tf.io.layout import beside_export
from iwae_tf.saved_model import find_version
from iwae_tf.schema import Schema
from iwae_tf.serving.client import as_float32, batch_seed, check_images, naming
from iwae_tf.serving.score_files import COLUMNS
from iwae_tf.serving.scorer import InProcessScorer

ROWS_A_READ = 256  # the unit that is handed to a worker
NUMBERED, OUTPUTS = (".npy", ".csv"), (".csv", ".parquet")  # by place; of scores
SCHEMA = pyarrow.schema(
    [
        (COLUMNS[0], pyarrow.int64()),
        *((name, pyarrow.float32()) for name in COLUMNS[1:]),
    ]
)
LISTS = pyarrow.ListType, pyarrow.LargeListType, pyarrow.FixedSizeListType
BINARIZED = "grey values are binarized as in the evaluation of the model's config"
LAST_ROW = 2**63 - 1  # ids go through int64
OWN_ROW = (  # of the id and the number of rows that have it
    "`input` must have a `row` of its own, an integer from 0 to 2**63 - 1, in each "
    "row. Received: row={} in {} rows"
)
Opener = Callable[[str], IO[bytes]]
Reader = Callable[[str, int, int], tuple[int, Any]]  # (path, start, size): (count, x)


class RowScorer:
    """Rows in, rows out: a function that may be sent to any process.

    Args:
      saved_model: folder of an export that every worker can read; of its versions the
        one that is the newest now. A process loads it once, whatever the number of its
        scorers and threads.
      num_samples: K.
      seed: pair of integers.
      proposal: "encoder", or "refined" for proposals fitted to each image.

    Raises:
      InvalidInputError: no such export.
    """

    def __init__(
        self,
        saved_model: str | os.PathLike[str],
        *,
        num_samples: int,
        seed: Sequence[int],
        proposal: str = "encoder",
    ) -> None:
        folder = pathlib.Path(os.path.abspath(saved_model))
        newest = find_version(folder).relative_to(folder.resolve())
        self._version, self._proposal = str(folder / newest), proposal
        self._num_samples, self._seed = num_samples, tuple(seed)
        config, self._drawn = beside_export(folder, "config.json"), ("none", 0)
        if config is not None:
            options = scored_as(read_config(config))
            self._drawn = options["binarization"], options["seed"]

    def load(self) -> InProcessScorer:
        """The model of this process.

        Raises:
          InvalidInputError: a damaged export, or a conditional one.
        """
        scorer = _load(self._version, self._proposal)
        if scorer.takes_labels:
            raise InvalidInputError(
                "`saved_model` must not be conditional: no engine reads labels. "
                f"Received: {self._version}"
            )
        return scorer

    def __call__(
        self, rows: Iterable[tuple[int, np.ndarray]]
    ) -> Iterator[tuple[float, ...]]:
        """Scores rows by themselves, as `client.score` does with `batch_size=1`.

        Args:
          rows: pairs of an id, which the row's seed comes from, and an image [*event],
            or a flat one.

        Yields:
          the values of `score_files.COLUMNS`, a tuple a row.

        Raises:
          InvalidInputError: an image that is refused.
        """
        scorer = self.load()
        for row, image in rows:
            x = np.asarray(image)
            if x.ndim == 1 and x.size == math.prod(scorer.event_shape):
                x = x.reshape(scorer.event_shape)
            grey = x[np.newaxis]
            with naming(f"row id {row}"):
                x = datasets.binarize(
                    grey, *self._drawn, {}, first_row=int(row), takes_missing=True
                )
                if x is not grey:
                    warnings.warn(BINARIZED, stacklevel=2)
                check_images(x, scorer)
                seed = batch_seed(self._seed, row)
                found = scorer(as_float32(x), self._num_samples, seed)
            yield int(row), *(float(values[0]) for values in found)


_load = functools.lru_cache(maxsize=1)(InProcessScorer)


class Part(NamedTuple):
    """Consecutive rows of a file."""

    path: str
    start: int
    size: int
    first_id: int


def reader(
    suffix: str, schema: str | os.PathLike[str] | None, open_file: Opener
) -> Reader:
    """A function of (path, start, size): the number of rows and x of `size` of them.

    Args:
      suffix: of the files, .npy or .csv.
      schema: path of the JSON file of a table's columns.
      open_file: function of a path.

    Raises:
      InvalidInputError: a table without a schema.
    """
    columns = None if schema is None else tables.load_schema(schema)
    if suffix == ".npy":
        return functools.partial(_read_npy, open_file, columns)
    if columns is None:
        raise InvalidInputError(
            "`saved_model` must have schema.json beside it for a table. "
            f"Received: none, input=*{suffix}"
        )
    return functools.partial(_read_csv, open_file, columns)


def parts_of(paths: Sequence[str], read: Reader) -> list[Part]:
    """The parts of files, whose rows are numbered through all of them; see `some`."""
    parts, first = [], 0
    for path in paths:
        count = read(path, 0, 0)[0]
        for start in range(0, count, ROWS_A_READ):
            size = min(ROWS_A_READ, count - start)
            parts.append(Part(path, start, size, first + start))
        first += count
    some(first, paths)
    return parts


def some(size: int, paths: Sequence[str]) -> None:
    """Raises InvalidInputError where files of this size, in any unit, have no row."""
    if not size:
        raise InvalidInputError(
            "`input` must have at least one row. Received: "
            f"{', '.join(paths[:3])}{', ...' * (len(paths) > 3)}, without any"
        )


def rows_of(read: Reader, part: Part) -> list[tuple[int, np.ndarray]]:
    """(id, x) of each row of a part."""
    return list(enumerate(read(part.path, part.start, part.size)[1], part.first_id))


def absolute(path: str) -> str:
    """A local path from the root, which workers start from; others as they are."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def suffix_of(path: str, name: str, suffixes: Sequence[str]) -> str:
    """The suffix of a path or pattern, one of those that there are."""
    for suffix in suffixes:
        if path.endswith(suffix):
            return suffix
    raise InvalidInputError(
        f"`{name}` must end in one of {', '.join(suffixes)}. Received: {name}={path}"
    )


def some_files(paths: Iterable[str], pattern: str) -> list[str]:
    """`paths` in the order of their names.

    Raises:
      InvalidInputError: there is none.
    """
    found = sorted(paths)
    if not found:
        raise InvalidInputError(
            f"`input` must match at least one file. Received: {pattern}"
        )
    return found


def check_columns(paths: Sequence[str], open_file: Opener) -> None:
    """Raises InvalidInputError where a .parquet file has not the columns of rows, or
    where all are without a row.
    """
    num_rows = 0
    for path in paths:
        rule = "`input` must hold readable .parquet files"
        with readable(path, rule), open_file(path) as file:
            metadata = parquet.read_metadata(file)
            found = metadata.schema.to_arrow_schema().remove_metadata()
        num_rows += metadata.num_rows
        kinds = dict.fromkeys(("row", "x"), pyarrow.null())
        kinds |= dict(zip(found.names, found.types))
        are_lists = isinstance(kinds["x"], LISTS)
        are_floats = are_lists and types.is_floating(kinds["x"].value_type)
        if not types.is_integer(kinds["row"]) or not are_floats:
            raise InvalidInputError(
                "`input` must have the columns `row`, integers, and `x`, lists of "
                f"floats. Received: {path}, {', '.join(str(found).splitlines())}"
            )
    some(num_rows, paths)


def user_mistake(error: BaseException) -> str | None:
    """The line of an InvalidInputError, raised here or by a worker, or None."""
    if "Not a valid TFRecord" in str(error):  # which Beam reads by itself
        return "`input` must hold whole .tfrecord files. Received: one that is cut off"
    is_ours = isinstance(error, InvalidInputError)
    pattern = r"InvalidInputError: (.*)"
    found = [str(error)] if is_ours else re.findall(pattern, str(error))
    line = found[-1].replace("\\n", "\n").splitlines()[0] if found else None
    return line and re.sub(r" \[while running .*", "", line)


def _read_csv(
    open_file: Opener, schema: Schema, path: str, start: int, size: int
) -> tuple[int, Any]:
    """Of a CSV file, which is parsed whole."""
    table = _csv_table(open_file, path, tables.text_columns(schema))
    return len(table), tables.encode(table.slice(start, size), schema)


@functools.lru_cache(maxsize=1)
def _csv_table(open_file, path, as_text):
    with open_file(path) as file:
        return table_files.read_csv(file, path, "input", as_text)


def _read_npy(
    open_file: Opener, columns: Schema | None, path: str, start: int, size: int
) -> tuple[int, np.ndarray]:
    """Of an .npy file on any file system; of a table's array as `read_rows` has it."""
    rule = "`input` must hold readable .npy files"
    with readable(path, rule), open_file(path) as file:
        shape, is_fortran, dtype = read_npy_header(file)
        if is_fortran or not shape or dtype.hasobject:
            raise ValueError(
                "an array of numbers in C order is needed: np.ascontiguousarray(x)"
            )
        row_bytes = dtype.itemsize * int(np.prod(shape[1:]))
        file.seek(file.tell() + start * row_bytes)
        data = file.read(size * row_bytes)
        x = np.frombuffer(data, dtype).reshape(size, *shape[1:])
    return shape[0], tables.encode_array(x, columns)
