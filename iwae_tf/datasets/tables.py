"""Tables: CSV, Parquet, npz, npy and data frames as float32 [rows, columns].

Numbers stay in their units, categories become integer codes, and what is empty NaN. The
`Schema` says what each column is; its statistics are those of the training rows.
"""

import functools
import json
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from iwae_tf.checks import check_choice, readable
from iwae_tf.errors import InvalidInputError
from iwae_tf.schema import KINDS, Column, Schema

SUFFIXES = (".csv", ".parquet", ".npy", ".npz")
DROP = "drop"  # in place of a kind: a column that is left out
LABEL = "label"  # in place of a kind: a column of classes, no part of x
FEW = 10  # distinct values, up to which a density of them gets a warning
MOST_CATEGORIES = 1000
# Of a scale to the largest value, below which float32 cannot tell values apart.
RESOLUTION = 1e-5
EMPTY = ("", "?", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None")


def infer_schema(
    data: Any,
    kinds: Mapping[str, str] | None = None,
    *,
    rows: np.ndarray | slice = slice(None),
) -> Schema:
    """What the columns of a table are.

    Text is categorical; booleans, and numbers that are 0 or 1, are Bernoulli; all other
    numbers are normal. Ask for Student t, lognormal and counts by `kinds`.

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
    table, kinds = as_table(data), dict(kinds or {})
    for name, kind in kinds.items():
        check_choice(name, "column", table.column_names)
        check_choice(kind, f"kind of column {name}", (*KINDS, DROP, LABEL))
    labels = [name for name, kind in kinds.items() if kind == LABEL]
    if labels[1:]:
        raise InvalidInputError(
            f"`kinds` must have one label at most. Received: {', '.join(labels)}"
        )
    names = [
        name for name in table.column_names if kinds.get(name) not in (DROP, LABEL)
    ]
    if not names:
        raise InvalidInputError("`kinds` must leave a column. Received: none is left")
    kinds |= dict.fromkeys(labels, "categorical")
    found = {
        name: _describe(name, table.column(name), kinds.get(name), rows)
        for name in (*names, *labels)
    }
    constant = [name for name, column in found.items() if column is None]
    if constant:
        drop = ",".join(f"{name}={DROP}" for name in constant)
        raise InvalidInputError(
            "`data` must have columns with at least two values in the training rows "
            f"that differ in float32: leave the others out, schema={drop!r}. Received: "
            f"one value in {', '.join(constant)}"
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
    table = as_table(data)
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise InvalidInputError(
            f"`data` must have the columns of the schema. Received: no {missing[0]} "
            f"among {', '.join(table.column_names)}"
        )
    x = np.empty((table.num_rows, len(schema.columns)), np.float32)
    for place, column in enumerate(schema.columns):
        values = _encoded(table.column(column.name), column)
        with np.errstate(over="ignore"):
            x[:, place] = values
        _check_support(x[:, place], column)
    return x


def encode_labels(data: Any, schema: Schema) -> np.ndarray | None:
    """The codes of a table's label column, int32 [rows]; None where there is none.

    Args:
      data: as of `infer_schema`.
      schema: Schema.

    Raises:
      InvalidInputError: the column is missing, a row has no label or an unknown one.
    """
    if schema.label is None:
        return None
    table, name = as_table(data), schema.label.name
    check_choice(name, "label column", table.column_names)
    codes = _encoded(table.column(name), schema.label)
    if np.isnan(codes).any():
        raise InvalidInputError(
            f"`{name}` must have a label in every row. Received: none in row "
            f"{np.flatnonzero(np.isnan(codes))[0]}"
        )
    return codes.astype(np.int32)


def decode(x: np.ndarray, schema: Schema) -> Any:
    """The inverse of `encode`: a pyarrow.Table, with the names of categories.

    Args:
      x: float [rows, columns]; NaN becomes empty.
      schema: Schema.
    """
    import pyarrow as pa

    columns = {}
    for values, column in zip(np.asarray(x, np.float32).T, schema.columns):
        if column.kind == "categorical":
            codes = pa.array(values, mask=np.isnan(values)).cast(pa.int32())
            names = pa.array(column.categories)
            columns[column.name] = names.take(codes)
        else:
            columns[column.name] = pa.array(values, mask=np.isnan(values))
    return pa.table(columns)


def as_table(data: Any) -> Any:
    """`data` of any kind that `infer_schema` takes as a pyarrow.Table."""
    import pyarrow as pa

    if isinstance(data, pa.Table):
        return data
    if isinstance(data, (str, os.PathLike)):
        return read_table(data)
    if isinstance(data, np.ndarray):
        if data.ndim != 2 or data.dtype.kind not in "fiub":
            raise InvalidInputError(
                "`data` must be numbers [rows, columns]. "
                f"Received: shape={data.shape}, dtype={data.dtype}"
            )
        return pa.table({f"column_{i}": column for i, column in enumerate(data.T)})
    try:
        return pa.table(data)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise InvalidInputError(
            "`data` must be a table. Received: "
            f"a {type(data).__name__} ({' '.join(str(error).split())[:200]})"
        ) from error


def read_table(path: str | os.PathLike[str], name: str = "data_dir") -> Any:
    """The table in a .csv (with a line of names), .parquet or .npy file.

    Raises:
      InvalidInputError: no such file, or another format.
    """
    path = pathlib.Path(path)
    if path.suffix not in SUFFIXES[:3] or not path.is_file():
        raise InvalidInputError(
            f"`{name}` must be a {', '.join(SUFFIXES)} file. Received: {path}"
        )
    stat = path.stat()
    return _read_table(path, name, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1)
def _read_table(path, name, *_state):
    """The file's table, read once as long as it does not change."""
    with readable(path, f"`{name}` must be a readable table"):
        if path.suffix == ".npy":
            return as_table(np.load(path, allow_pickle=False))
        if path.suffix == ".parquet":
            from pyarrow import parquet

            return parquet.read_table(path)
    return read_csv(path, path, name)


def read_csv(file: Any, path: str | os.PathLike[str], name: str) -> Any:
    """The table in a CSV file with a line of names.

    Args:
      file: path of it, or the file itself, open.
      path: what a message calls it.
      name: the argument that it comes from.

    Raises:
      InvalidInputError: no such table.
    """
    from pyarrow import csv

    options = csv.ConvertOptions(null_values=EMPTY, strings_can_be_null=True)
    with readable(path, f"`{name}` must be a readable table"):
        table = csv.read_csv(file, convert_options=options)
    if all(map(_is_number, table.column_names)):
        raise InvalidInputError(
            f"`{name}` must have the columns' names in its first line. "
            f"Received: {path}, whose first line is numbers"
        )
    return table


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
    kinds: dict[str, str] = {}
    if text and text.endswith(".json"):
        path = os.path.expanduser(text)
        with readable(path, "`schema` must be a readable JSON file"):
            values = json.loads(pathlib.Path(path).read_text())
        if not isinstance(values, dict) or "columns" in values:
            return Schema.from_json(values)
        kinds = values
    elif text:
        for part in text.split(","):
            name, equals, kind = part.partition("=")
            if not equals:
                raise InvalidInputError(
                    "`schema` must be column=kind,... or NAME.json. "
                    f"Received: schema={text!r}"
                )
            kinds[name.strip()] = kind.strip()
    return infer_schema(data, kinds, rows=rows)


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def _describe(name: str, column: Any, kind: str | None, rows: Any) -> Column | None:
    """The Column of an Arrow column; None where the training rows hold one value."""
    kind = kind or _guess(name, column)
    if kind == "categorical":
        known = sorted({*_texts(name, column).drop_null().to_pylist()}, key=_in_order)
        if len(known) > MOST_CATEGORIES:
            raise InvalidInputError(
                f"`{name}` must have at most {MOST_CATEGORIES} categories: leave it "
                f"out, schema='{name}={DROP}'. Received: {len(known)}"
            )
        return Column(name, kind, categories=tuple(known)) if known[1:] else None
    values = _numbers(name, column)[rows]
    values = values[~np.isnan(values)]
    _check_support(values, Column(name, kind))
    transformed = np.log(values) if kind == "lognormal" else values
    if not len(values):
        return None
    loc, scale = float(transformed.mean()), float(transformed.std())
    if scale <= RESOLUTION * np.abs(transformed).max():
        return None
    num_distinct = len(np.unique(values))
    if num_distinct <= FEW < len(values) and kind in ("normal", "student", "lognormal"):
        warnings.warn(
            f"column {name} has only {num_distinct} distinct values, so its density "
            f"says little: use schema='{name}=categorical' or a kind of counts",
            stacklevel=3,
        )
    return Column(name, kind, loc, scale)


def _guess(name: str, column: Any) -> str:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_boolean(kind):
        return "bernoulli"
    if _is_text(kind):
        return "categorical"
    values = _numbers(name, column)
    is_binary = np.isin(values[~np.isnan(values)], (0.0, 1.0)).all()
    return "bernoulli" if is_binary else "normal"


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    is_string = types.is_string(kind) or types.is_large_string(kind)
    return is_string or types.is_dictionary(kind) or types.is_string_view(kind)


def _encoded(column: Any, of: Column) -> np.ndarray:
    """Float values of an Arrow column, NaN for what is empty."""
    if of.kind != "categorical":
        return _numbers(of.name, column)
    import pyarrow as pa
    from pyarrow import compute

    texts = _texts(of.name, column)
    codes = compute.index_in(texts, value_set=pa.array(of.categories))
    unknown = compute.and_(compute.is_null(codes), compute.is_valid(texts))
    bad = texts.filter(unknown)
    if len(bad):
        known = ", ".join(of.categories[:20])
        raise InvalidInputError(
            f"`{of.name}` must be one of its {len(of.categories)} categories, {known}"
            f"{', ...' if of.categories[20:] else ''}. Received: {bad[0].as_py()!r}"
        )
    return codes.cast(pa.float64()).to_numpy()


def _texts(name: str, column: Any) -> Any:
    """An Arrow column as strings."""
    import pyarrow as pa

    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _wrong_type(name, column) from error


def _numbers(name: str, column: Any) -> np.ndarray:
    """An Arrow column as float64, NaN for what is empty."""
    import pyarrow as pa

    kind = column.type
    if _is_text(kind) or pa.types.is_temporal(kind):  # "3" is no number by mistake
        raise _wrong_type(name, column)
    try:
        return column.cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _wrong_type(name, column) from error


def _wrong_type(name: str, column: Any) -> InvalidInputError:
    return InvalidInputError(
        f"`{name}` must be a column of numbers, or of text that is categorical: leave "
        f"it out, schema='{name}={DROP}'. Received: {column.type}"
    )


def _in_order(text: str) -> tuple[bool, float, str]:
    """Sorts "10" after "9", and numbers before words."""
    is_number = _is_number(text)
    return not is_number, float(text) if is_number else 0.0, text


def _check_support(values: np.ndarray, column: Column) -> None:
    """Raises InvalidInputError for a value that the column's kind cannot have."""
    known = values[~np.isnan(values)]
    bad, rule = known[np.isinf(known)], "finite"
    if column.kind == "lognormal" and not bad.size:
        bad, rule = known[known <= 0.0], "positive"
    elif column.kind == "bernoulli" and not bad.size:
        bad, rule = known[(known != 0.0) & (known != 1.0)], "0 or 1"
    elif column.kind in ("poisson", "negative_binomial") and not bad.size:
        bad, rule = known[(known < 0.0) | (known != np.floor(known))], "a count"
    if bad.size:
        raise InvalidInputError(
            f"`{column.name}` must be {rule} where it is {column.kind}. "
            f"Received: {bad[0]:g}"
        )
