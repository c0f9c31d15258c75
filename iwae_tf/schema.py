"""What the columns of a table are: a name, a kind, categories, a place and a scale.

Plain data that needs neither TensorFlow nor a file. `datasets.tables` makes a schema
from a table, `probability.mixed` makes p(x|z) from a schema.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from iwae_tf.checks import check_choice, is_number
from iwae_tf.errors import InvalidInputError

# Parameters of p(x|z) that one column of a kind takes; a categorical one takes as many
# as it has categories.
NUM_PARAMETERS = {
    "normal": 2,
    "student": 3,
    "lognormal": 2,
    "bernoulli": 1,
    "categorical": 0,
    "poisson": 1,
    "negative_binomial": 2,
}
KINDS = tuple(NUM_PARAMETERS)
SHOWN = 10  # columns of a kind in a line


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
      name: what it is called.
      kind: one of `KINDS`, the family of p(x|z).
      loc: mean of the training values (of their logarithms for "lognormal").
      scale: their standard deviation.
      categories: names of the codes 0, 1, ... of a "categorical" column.

    Raises:
      InvalidInputError: an unknown kind, or values that do not go with it.
    """

    name: str
    kind: str
    loc: float = 0.0
    scale: float = 1.0
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice(self.kind, f"kind of column {self.name}", KINDS)
        numbers, texts = (self.loc, self.scale), (self.name, *self.categories)
        good = all(is_number(n) and math.isfinite(n) for n in numbers)
        good = good and self.scale > 0 and all(isinstance(t, str) for t in texts)
        good = good and len({*self.categories}) == len(self.categories)
        if not good or (self.kind == "categorical") != (len(self.categories) > 1):
            raise InvalidInputError(
                f"`column` {self.name} must have a text as its name, a finite loc, a "
                "finite scale above 0, and two or more categories, different texts, "
                f"where it is categorical and only there. Received: {self}"
            )

    @property
    def num_parameters(self) -> int:
        """Numbers that the decoder returns for it."""
        return NUM_PARAMETERS[self.kind] or len(self.categories)


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a table, in the order of x [batch, columns].

    Args:
      columns: tuple of `Column`.
      label: optional categorical column that is no part of x: its codes are labels.

    Raises:
      InvalidInputError: no column, two of one name, or a label of another kind.
    """

    columns: tuple[Column, ...]
    label: Column | None = None

    def __post_init__(self) -> None:
        label = [self.label] if self.label else []
        names = [column.name for column in (*self.columns, *label)]
        is_label = all(column.kind == "categorical" for column in label)
        if not self.columns or len({*names}) < len(names) or not is_label:
            raise InvalidInputError(
                "`schema` must have a column, names that are different, and a label "
                f"that is categorical. Received: columns {names}"
            )

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [column.name for column in self.columns]

    @property
    def num_parameters(self) -> int:
        """Width of the decoder's output under `likelihood="mixed"`."""
        return sum(column.num_parameters for column in self.columns)

    def describe(self) -> str:
        """One line: the columns of each kind, with the numbers of categories."""

        def named(columns):
            texts = [
                f"{c.name} of {len(c.categories)}" if c.categories else c.name
                for c in columns[:SHOWN]
            ]
            return ", ".join([*texts, *["..."] * bool(columns[SHOWN:])])

        parts = []
        for kind in dict.fromkeys(column.kind for column in self.columns):
            columns = [column for column in self.columns if column.kind == kind]
            parts.append(f"{len(columns)} {kind} ({named(columns)})")
        label = f"; label {named([self.label])}" if self.label else ""
        return f"{len(self.columns)} columns: {', '.join(parts)}{label}"

    def to_json(self) -> dict[str, Any]:
        """The schema as JSON values; `from_json` reads it."""

        def of(column):
            values = dataclasses.asdict(column)
            return {**values, "categories": [*values["categories"]]}

        label = {"label": of(self.label)} if self.label else {}
        return {"columns": [of(column) for column in self.columns], **label}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Schema":
        """The schema that `to_json` wrote.

        Raises:
          InvalidInputError: it is something else.
        """

        def of(column):
            return Column(
                **{**column, "categories": tuple(column.get("categories", ()))}
            )

        try:
            columns = tuple(of(column) for column in values["columns"])
            label = of(values["label"]) if "label" in values else None
        except (AttributeError, KeyError, TypeError) as error:
            raise InvalidInputError(
                '`schema` must be {"columns": [{"name": ..., "kind": ..., "loc": ..., '
                f'"scale": ..., "categories": [...]}}, ...]}}. Received: {error}'
            ) from error
        return cls(columns, label)
