"""One Arrow column of a table: what it is, and its values as numbers."""

import io
import itertools
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute, csv

from iwae_tf.errors import InvalidInputError
from iwae_tf.schema import Column

DROP = "drop"  # in place of a kind: a column that is left out
FEW = 10  # distinct values, up to which a density of them gets a warning
MOST_CATEGORIES, SHOWN = 1000, 3  # of a column, and in a message
# Of a scale to the largest value, below which float32 cannot tell values apart.
RESOLUTION = 1e-5
# Cells of a CSV file that are missing values, with or without a blank on each side.
EMPTY = (
    *("", "?", "NA", "N/A", "n/a", "#N/A", "<NA>"),
    *("NaN", "nan", "NULL", "null", "None"),
)
NAMED = EMPTY[2:]  # of these, those that could be a category


def describe(name: str, column: Any, kind: str | None, rows: Any) -> Column | None:
    """The Column of an Arrow column; None where it holds one value.

    Categories are those of all rows, so that none of them is refused; the numbers that
    count are those of the training rows.
    """
    is_guess, kind = kind is None, kind or _guess(name, column)
    if kind == "categorical":
        cells = texts(name, column).drop_null().to_pylist()
        known = sorted({*cells}, key=_in_order)
        if len(known) > MOST_CATEGORIES:
            raise InvalidInputError(
                f"`{name}` must have at most {MOST_CATEGORIES} categories: leave it "
                f"out, schema='{name}={DROP}', or change the cells that keep it from "
                f"being a column of numbers. Received: {len(known)}, one is "
                f"{known[-1]!r}"
            )
        words = [text for text in known if not is_numeric(text)]
        if is_guess and FEW < len(cells) < 2 * len(known):
            warnings.warn(
                f"column {name} has {len(known)} categories in {len(cells)} cells, one "
                f"is {known[-1]!r}: leave it out, schema='{name}={DROP}', or change "
                "the cells that keep it from being a column of numbers",
                stacklevel=3,
            )
        elif is_guess and words and len(known) - len(words) > FEW * len(words):
            warnings.warn(
                f"column {name} is categorical because of {', '.join(words[:SHOWN])}; "
                "its other cells are numbers: leave such cells empty if they are "
                "missing values",
                stacklevel=3,
            )
        _warn_of_twins(name, known)
        return Column(name, kind, categories=tuple(known)) if known[1:] else None
    values = numbers(name, column)[rows]
    values = values[~np.isnan(values)]
    check_support(values, Column(name, kind))
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
    kind = column.type
    if pa.types.is_boolean(kind):
        return "bernoulli"
    if is_text(kind):
        return "categorical"
    values = numbers(name, column)
    is_binary = np.isin(values[~np.isnan(values)], (0.0, 1.0)).all()
    return "bernoulli" if is_binary else "normal"


def _warn_of_twins(name: str, categories: list[str]) -> None:
    """Warns of two categories that are one number, truth value or time."""
    seen: dict[Any, str] = {}
    for text, value in zip(categories, guessed(categories) or []):
        if seen.setdefault(value, text) != text:
            warnings.warn(
                f"column {name} has the categories {seen[value]} and {text}, which are "
                "the same value: write them alike if they are one category",
                stacklevel=4,
            )
            return


def _in_order(text: str) -> tuple[bool, float, str]:
    """Sorts "10" after "9", and numbers before words."""
    is_number = is_numeric(text)
    return not is_number, float(text) if is_number else 0.0, text


def encoded(column: Any, of: Column) -> np.ndarray:
    """Float values of an Arrow column, NaN for what is empty."""
    if of.kind != "categorical":
        return numbers(of.name, column, is_known=True)
    found, names = texts(of.name, column), [*of.categories]
    codes = [*range(len(names))]
    is_known = compute.is_in(found, pa.array([*names, None], pa.string()))
    for text in found.filter(compute.invert(is_known)).unique().to_pylist():
        codes.append(_code_by_value(text, of))
        names.append(text)
    places = compute.index_in(found, pa.array(names, pa.string()))
    return pa.array(codes, pa.float64()).take(places).to_numpy()


def _code_by_value(text: str, of: Column) -> int:
    """The code of the one category that is the same number, truth value or time."""
    *known, value = guessed([*of.categories, text]) or [None]
    if value not in known or len({*known}) < len(known):
        names = ", ".join(of.categories[:20])
        raise InvalidInputError(
            f"`{of.name}` must be one of its {len(of.categories)} categories, {names}"
            f"{', ...' if of.categories[20:] else ''}. Received: {text!r}"
        )
    return known.index(value)


def guessed(cells: Iterable[str]) -> list[Any] | None:
    """The values of a CSV column of these cells; None where they are mere texts."""
    cells = [*cells]
    try:
        column = csv.read_csv(
            io.BytesIO("\n".join(cells).encode()),
            csv.ReadOptions(use_threads=False, column_names=["cell"]),
            csv.ParseOptions(
                delimiter="\t", quote_char=False, ignore_empty_lines=False
            ),
            csv.ConvertOptions(null_values=EMPTY),
        ).column(0)
    except pa.ArrowInvalid:  # a tab, or an end of line
        return None
    if is_text(column.type) or column.null_count or len(column) != len(cells):
        return None
    return column.to_pylist()


def texts(name: str, column: Any) -> Any:
    """An Arrow column as strings; NaN is empty."""
    if pa.types.is_floating(column.type):
        column = compute.if_else(compute.is_nan(column), None, column)
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _wrong_type(name, column) from error


def numbers(name: str, column: Any, is_known: bool = False) -> np.ndarray:
    """An Arrow column as float64, NaN for what is empty.

    Args:
      name: of the column.
      column: pyarrow.ChunkedArray or Array.
      is_known: whether a schema has the column already: no advice to leave it out.
    """
    kind = column.type
    if is_text(kind) or pa.types.is_temporal(kind):  # "3" is no number by mistake
        raise _wrong_type(name, column, is_known)
    try:
        return column.cast(pa.float64(), safe=False).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _wrong_type(name, column, is_known) from error


def filled(column: Any, values: Any, is_missing: np.ndarray) -> Any:
    """An Arrow column with the cells of another one where it is empty."""
    kind = column.type if pa.types.is_floating(column.type) else pa.float64()
    if is_text(values.type):
        kind = pa.string()
    elif not is_missing.any():
        return column
    try:
        column = column.cast(kind)
    except pa.ArrowInvalid:  # an integer of more digits than a float64 has
        kind = pa.string()
        column = column.cast(kind)
    values = values.cast(pa.string()).cast(kind)  # with the digits that it needs
    return compute.if_else(pa.array(is_missing), values, column)


def _wrong_type(name: str, column: Any, is_known: bool = False) -> InvalidInputError:
    what = " (in a CSV file: not UTF-8)" if pa.types.is_binary(column.type) else ""
    if is_text(column.type):
        words = (text for text in column.to_pylist() if text and not is_numeric(text))
        what = "".join(f", one cell is {text!r}" for text in itertools.islice(words, 1))
    rule = ", as the model's schema has it"
    if not is_known:
        rule = ", or of text that is categorical: leave it out, "
        rule += f"schema='{name}={DROP}'"
    return InvalidInputError(
        f"`{name}` must be a column of numbers{rule}. Received: {column.type}{what}"
    )


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is one of texts."""
    types = pa.types
    is_string = types.is_string(kind) or types.is_large_string(kind)
    return is_string or types.is_dictionary(kind) or types.is_string_view(kind)


def is_numeric(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_support(values: np.ndarray, column: Column) -> None:
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
