"""Arrow tables of CSV, Parquet and npy files, of arrays and of data frames."""

import functools
import json
import os
import pathlib
import re
import warnings
from typing import IO, Any

import numpy as np
import pyarrow as pa
from pyarrow import compute, csv, parquet

from iwae_tf.checks import absence, readable
from iwae_tf.datasets.columns import EMPTY, NAMED, is_numeric, is_text
from iwae_tf.errors import InvalidInputError

SUFFIXES = (".csv", ".parquet", ".npy", ".npz")
WORDS = b"missing"  # in the metadata of a field: how many cells of which words


def as_table(data: Any, as_text: tuple[str, ...] = ()) -> Any:
    """`data` of any kind that `tables.infer_schema` takes as a pyarrow.Table.

    Args:
      data: as of `tables.infer_schema`.
      as_text: as of `read_csv`, where it is a path of one.
    """
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, (str, os.PathLike)):
        return read_table(data, as_text=as_text)
    if isinstance(data, np.ndarray):
        if data.ndim != 2 or data.dtype.kind not in "fiub":
            raise InvalidInputError(
                "`data` must be numbers [rows, columns]. "
                f"Received: shape={data.shape}, dtype={data.dtype}"
            )
        data = data.astype(np.uint8) if data.dtype.kind == "b" else data
        data = {f"column_{i}": column for i, column in enumerate(data.T)}
    try:
        return pa.table(data)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise InvalidInputError(
            "`data` must be a table. Received: "
            f"a {type(data).__name__} ({' '.join(str(error).split())[:200]})"
        ) from error


def read_table(
    path: str | os.PathLike[str],
    name: str = "data_dir",
    as_text: tuple[str, ...] = (),
) -> Any:
    """The table in a .csv (with a line of names), .parquet or .npy file.

    Args:
      path: of the file.
      name: the argument that it comes from.
      as_text: as of `read_csv`.

    Raises:
      InvalidInputError: no such file, or another format.
    """
    path = pathlib.Path(path)
    if path.suffix not in SUFFIXES[:3] or not path.is_file():
        raise InvalidInputError(
            f"`{name}` must be a {', '.join(SUFFIXES)} file. Received: "
            f"{path}{absence(path)}"
        )
    stat = path.stat()
    return _read_table(path, name, as_text, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1)
def _read_table(path, name, as_text, *_state):
    """The file's table, read once as long as it does not change."""
    with readable(path, f"`{name}` must be a readable table"):
        if path.suffix == ".npy":
            return as_table(np.load(path, allow_pickle=False))
        if path.suffix == ".parquet":
            return parquet.read_table(path)
        with open(path, "rb") as file:
            return read_csv(file, path, name, as_text)


def read_csv(
    file: IO[bytes],
    path: str | os.PathLike[str],
    name: str,
    as_text: tuple[str, ...] = (),
) -> Any:
    """The table in a CSV file with a line of names.

    The type of a column is guessed from all of its cells. So a category 01 would be a
    number in a file that has no words beside it: name these columns in `as_text`. Where
    there is but one column, an empty line is a row whose value is missing.

    Args:
      file: the file, open, at its start.
      path: what a message calls it.
      name: the argument that it comes from.
      as_text: names of columns whose cells stay as they are written.

    Raises:
      InvalidInputError: no such table.
    """
    spellings = [*as_text, *(f" {column}" for column in as_text)]  # header `a, b`
    options = csv.ConvertOptions(
        null_values=[
            a + word + b for word in EMPTY for a in ("", " ") for b in ("", " ")
        ],
        column_types=dict.fromkeys(spellings, pa.string()),
    )
    with readable(path, f"`{name}` must be a readable table"):
        line = file.readline()
        if b"\0" in line:
            raise InvalidInputError(
                f"`{name}` must be in UTF-8: pandas.read_csv(..., encoding='utf-16')"
                f".to_csv(..., index=False) writes such a file. Received: {path}, "
                "whose first line has bytes of zero, as in UTF-16"
            )
        head = line.decode("utf-8-sig", errors="replace").strip()
        if re.fullmatch('"?sep=.?"?', head):  # tells a spreadsheet the separator
            raise InvalidInputError(
                f"`{name}` must have the columns' names in its first line: delete that "
                f"line. Received: {path}, whose first line is {head!r}"
            )
        unquoted = re.sub('"[^"]*"', "", head)
        if unquoted.count(",") < max(map(unquoted.count, ";\t|")):
            raise InvalidInputError(
                f"`{name}` must have commas between its columns, and points in its "
                "numbers: pandas.read_csv(..., sep=';', decimal=',').to_csv(..., "
                f"index=False) writes such a file. Received: {path}, whose first line "
                f"is {head[:200]!r}"
            )

        def parse(**more):
            file.seek(0)
            parsing = csv.ParseOptions(newlines_in_values=True, **more)
            return csv.read_csv(file, parse_options=parsing, convert_options=options)

        table = parse()
        if table.num_columns == 1:
            table = parse(ignore_empty_lines=False)
    names = table.column_names
    given = [column for column in names if is_numeric(column)]
    if len(given) == len(names):
        raise InvalidInputError(
            f"`{name}` must have the columns' names in its first line. "
            f"Received: {path}, whose first line is numbers"
        )
    if given:
        warnings.warn(
            f"the first line of {path}, the columns' names, has the numbers "
            f"{', '.join(given[:3])}: if it is a row, put a line of names before it",
            stacklevel=2,
        )
    return _without_words(table)


def _without_words(table):
    """A table with nulls for missing texts; the field says which words they were."""
    for place, field in enumerate(table.schema):
        if not is_text(field.type):
            continue
        column = table.column(place)
        trimmed = compute.utf8_trim_whitespace(column)
        is_missing = compute.is_in(trimmed, pa.array(EMPTY))
        counts = trimmed.filter(is_missing).value_counts().to_pylist()
        words = {c["values"]: c["counts"] for c in counts if c["values"] in NAMED}
        if words:
            field = field.with_metadata({WORDS: json.dumps(words)})
        column = compute.if_else(is_missing, pa.scalar(None, field.type), column)
        table = table.set_column(place, field, column)
    return table
