"""Tables: CSV, Parquet, npz, npy and data frames as float32 [rows, columns].

Numbers stay in their units, categories become integer codes, and what is empty NaN. The
`Schema` says what each column is; its statistics are those of the training rows.
"""

import json
import os
import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from iwae_tf.checks import check_choice, readable
from iwae_tf.datasets.columns import (
    DROP,
    check_support,
    describe,
    encoded,
    filled,
)
from iwae_tf.datasets.table_files import WORDS, as_table
from iwae_tf.errors import InvalidInputError
from iwae_tf.schema import KINDS, Schema

LABEL = "label"  # in place of a kind: a column of classes, no part of x


def infer_schema(
    data: Any,
    kinds: Mapping[str, str] | None = None,
    *,
    rows: np.ndarray | slice = slice(None),
) -> Schema:
    """What the columns of a table are.

    Text and pandas' categories are categorical; booleans, and numbers that are 0 or 1,
    are Bernoulli; all other numbers are normal. Ask for Student t, lognormal and counts
    by `kinds`. The index of a pandas.DataFrame and columns without a name are left out
    unless `kinds` has them.

    Args:
      data: pandas.DataFrame or another Arrow table, dict of name to column, float
        [rows, columns], or the path of a .csv, .parquet or .npy file.
      kinds: optional dict of column name to one of `schema.KINDS`, to "drop", or, of
        one column, to "label".
      rows: the training rows, which loc and scale come from.

    Returns:
      schema: Schema.

    Raises:
      InvalidInputError: a column of one value, of too many categories, or not of its
        kind; a name in `kinds` that the table does not have.
    """
    table = as_table(data, text_columns(kinds or {}))
    if not table.num_rows:
        raise InvalidInputError("`data` must have at least one row. Received: none")
    # A header `a, b` names the second column " b", which `b` means too.
    names = {name.strip(): name for name in table.column_names}
    names |= {name: name for name in table.column_names}
    kinds = {names.get(name, name): kind for name, kind in (kinds or {}).items()}
    for name, kind in kinds.items():
        check_choice(name, "column", table.column_names)
        check_choice(kind, f"kind of column {name}", (*KINDS, DROP, LABEL))
    pandas = table.schema.pandas_metadata or {}
    for name in ("", *pandas.get("index_columns", ())):  # "": row names in a CSV file
        if isinstance(name, str):
            kinds.setdefault(name, DROP)
    for column in pandas.get("columns", ()):  # a Parquet file has its integers
        if column["pandas_type"] == "categorical":
            kinds.setdefault(column["field_name"], "categorical")
    labels = [name for name, kind in kinds.items() if kind == LABEL]
    if labels[1:]:
        raise InvalidInputError(
            f"`kinds` must have one label at most. Received: {', '.join(labels)}"
        )
    kept = [name for name in table.column_names if kinds.get(name) not in (DROP, LABEL)]
    if not kept:
        raise InvalidInputError("`kinds` must leave a column. Received: none is left")
    kinds |= dict.fromkeys(labels, "categorical")
    found = {
        name: describe(name, _column(table, name), kinds.get(name), rows)
        for name in (*kept, *labels)
    }
    constant = [name for name, column in found.items() if column is None]
    if constant:
        drop = ",".join(f"{name}={DROP}" for name in constant)
        raise InvalidInputError(
            "`data` must have columns with at least two categories, or two numbers in "
            "the training rows that differ in float32: leave the others out, "
            f"schema={drop!r}. Received: one value, or none, in {', '.join(constant)}"
        )
    for name, column in found.items():
        words = _words_of(table, name)
        if words and column and column.kind == "categorical":
            counts = ", ".join(f"{count} {word}" for word, count in words.items())
            warnings.warn(
                f"column {name} has {counts}: taken as missing values, not as "
                "categories",
                stacklevel=2,
            )
    columns = tuple(c for n, c in found.items() if c is not None and n not in labels)
    return Schema(columns, found[labels[0]] if labels else None)


def encode(data: Any, schema: Schema) -> np.ndarray:
    """A table as x of a model: raw numbers, codes of categories, NaN for empty cells.

    Args:
      data: as of `infer_schema`; columns that are not in the schema are left out.
      schema: Schema.

    Returns:
      x: float32 [rows, columns].

    Raises:
      InvalidInputError: a column that is missing, an unknown category, a value that the
        column's kind cannot have.
    """
    table = as_table(data, text_columns(schema))
    _check_names(table, schema.names)
    x = np.empty((table.num_rows, len(schema.columns)), np.float32)
    for place, column in enumerate(schema.columns):
        values = encoded(_column(table, column.name), column)
        both = {*column.categories} & {*_words_of(table, column.name)}
        if both:
            raise InvalidInputError(
                f"`{column.name}` must have no cell {', '.join(sorted(both))} in a CSV "
                "file, which is a missing value there and a category of the schema: "
                "give a Parquet file. Received: one in a CSV file"
            )
        with np.errstate(over="ignore"):
            x[:, place] = values
        check_support(x[:, place], column)
    return x


def encode_labels(data: Any, schema: Schema) -> np.ndarray | None:
    """The codes of a table's label column, int32 [rows]; None where there is none.

    Raises:
      InvalidInputError: the column is missing, a row has no label or an unknown one.
    """
    if schema.label is None:
        return None
    table, name = as_table(data, text_columns(schema)), schema.label.name
    _check_names(table, [name])
    codes = encoded(_column(table, name), schema.label)
    if np.isnan(codes).any():
        raise InvalidInputError(
            f"`{name}` must have a label in every row. Received: none in row "
            f"{np.flatnonzero(np.isnan(codes))[0]}"
        )
    return codes.astype(np.int32)


def is_of_array(schema: Schema) -> bool:
    """Whether a schema is of an array, whose columns have no names of their own."""
    return all(re.fullmatch(r"column_\d+", name) for name in schema.names)


def encode_array(x: np.ndarray, schema: Schema | None) -> np.ndarray:
    """An array as x of a model: encoded if the schema is of an array too.

    With any other schema, or none, it has codes already and is returned as it is.
    """
    return x if schema is None or not is_of_array(schema) else encode(x, schema)


def decode(x: np.ndarray, schema: Schema) -> Any:
    """The inverse of `encode`: a pyarrow.Table, with the names of categories.

    Args:
      x: float [rows, columns]; NaN becomes empty.
      schema: Schema.
    """
    columns = {}
    for values, column in zip(np.asarray(x).T, schema.columns):
        found = pa.array(values, from_pandas=True)  # NaN is null
        if column.kind == "categorical":
            found = pa.array(column.categories).take(found.cast(pa.int32()))
        columns[column.name] = found
    return pa.table(columns)


def decode_array(x: np.ndarray, schema: Schema | None) -> np.ndarray:
    """The inverse of `encode_array`, in float64 where it decodes; NaN for empty."""
    if schema is None or not is_of_array(schema):
        return x
    columns = decode(x, schema).columns
    return np.stack([column.cast("double").to_numpy() for column in columns], axis=1)


def fill(data: Any, x: np.ndarray, schema: Schema) -> Any:
    """A table with its empty cells replaced: a pyarrow.Table of the schema's columns.

    All other cells stay as they are, in the type of their column. Where this type does
    not hold what is filled in, integers and booleans become floating-point numbers.

    Args:
      data: as of `infer_schema`.
      x: float [rows, columns], as `encode` makes it of `data`, with values for NaN.
      schema: Schema.

    Raises:
      InvalidInputError: as `encode`, or x of another shape.
    """
    table = as_table(data, text_columns(schema))
    missing = np.isnan(encode(table, schema))
    if np.shape(x) != missing.shape:
        raise InvalidInputError(
            f"`x` must be the rows of `data`, {list(missing.shape)}. "
            f"Received: shape={np.shape(x)}"
        )
    found = decode(x, schema)
    return pa.table(
        {
            name: filled(table.column(name), found.column(name), is_missing)
            for name, is_missing in zip(schema.names, missing.T)
        }
    )


def read_schema(text: str | None, data: Any, rows: np.ndarray | slice) -> Schema:
    """The schema that a config names.

    Args:
      text: NAME.json of a whole schema or of {column: kind}; or "column=kind,...";
        None: all is inferred.
      data: the table, for what is inferred.
      rows: its training rows.

    Raises:
      InvalidInputError: something else, or as `infer_schema`.
    """
    found = _parsed(text)
    return found if isinstance(found, Schema) else infer_schema(data, found, rows=rows)


def text_columns(schema: Schema | Mapping[str, str] | str | None) -> tuple[str, ...]:
    """Names of the columns that are categories, `as_text` of `table_files.read_table`.

    Args:
      schema: whole, or kinds, or the text of a config as of `read_schema`.
    """
    found = schema if isinstance(schema, (Schema, Mapping)) else _parsed(schema)
    if isinstance(found, Schema):
        columns = (*found.columns, *filter(None, [found.label]))
        found = {column.name: column.kind for column in columns}
    return tuple(name for name, kind in found.items() if kind in ("categorical", LABEL))


def load_schema(path: str | os.PathLike[str]) -> Schema:
    """The whole schema in a JSON file, with the codes of the training.

    Raises:
      InvalidInputError: it is something else.
    """
    found = _from_json(path)
    if not isinstance(found, Schema):
        raise InvalidInputError(
            "`schema` must be the schema.json of a run or beside an export: kinds have "
            f"not the codes of the training. Received: schema={path}"
        )
    return found


def _from_json(path: str | os.PathLike[str]) -> Schema | dict[str, str]:
    """The schema, or the kinds of columns, in a JSON file."""
    path = os.path.expanduser(path)
    with readable(path, "`schema` must be a readable JSON file"):
        values = json.loads(pathlib.Path(path).read_text())
    if not isinstance(values, dict) or "columns" in values:
        return Schema.from_json(values)
    return values


def _parsed(text: str | None) -> Schema | dict[str, str]:
    """The schema, or the kinds of columns, that a config names."""
    if text and text.endswith(".json"):
        return _from_json(text)
    # A name may have commas and signs of equality in it; a kind has none.
    *parts, rest = re.split("=([^,=]*)(?:,|$)", text or "")
    names, kinds = ([part.strip() for part in parts[i::2]] for i in (0, 1))
    if rest.strip() or len({*names}) < len(names):
        raise InvalidInputError(
            "`schema` must be column=kind,..., each column once, or NAME.json. "
            f"Received: schema={text!r}"
        )
    return dict(zip(names, kinds))


def _words_of(table: Any, name: str) -> dict[str, int]:
    """How many cells of which words a CSV file's column has for missing values."""
    return json.loads((table.field(name).metadata or {}).get(WORDS, "{}"))


def _check_names(table: Any, names: list[str]) -> None:
    """Raises InvalidInputError unless a table has columns of these names."""
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise InvalidInputError(
            "`data` must have the columns of the schema. Received: no "
            f"{missing[0]!r} among {', '.join(map(repr, table.column_names))}"
        )


def _column(table: Any, name: str) -> Any:
    """The one column of this name."""
    count = table.column_names.count(name)
    if count > 1:
        raise InvalidInputError(
            "`data` must have a name of its own for each column: rename all but one. "
            f"Received: {count} columns {name}"
        )
    return table.column(name)
