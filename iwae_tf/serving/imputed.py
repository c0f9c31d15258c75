"""A file of rows with their missing values filled in, by a SavedModel."""

import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from pyarrow import csv

from iwae_tf.datasets import table_files, tables
from iwae_tf.errors import InvalidInputError
from iwae_tf.io.files import write_atomically
from iwae_tf.io.layout import TABLES
from iwae_tf.saved_model import (
    call_signature,
    find_version,
    inputs_of,
    signature_of,
)
from iwae_tf.serving.client import (
    BATCH_SIZE,
    batch_seed,
    check_labels,
    checked_batches,
    naming,
)
from iwae_tf.serving.scorer import InProcessScorer


def imputer(
    path: str | os.PathLike[str],
    x: np.ndarray,
    saved_model: str | os.PathLike[str] | None,
    schema: str | os.PathLike[str] | None = None,
    source: str | os.PathLike[str] | None = None,
    *,
    observed: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    num_samples: int = 1000,
    seed: Sequence[int] = (0, 0),
    proposal: str = "encoder",
    name: str = "x",
) -> Callable[[], None]:
    """Writes rows, each missing value in them replaced by its estimated mean.

    What is observed stays as it is, in a table as the file has it. What can be checked
    is checked here, before anything is computed.

    Args:
      path: NAME.csv of a table, or NAME.npy.
      x: float [N, *event], NaN where it is missing.
      saved_model: folder of an export, NAME or NAME/1, which has to be given.
      schema: path of the JSON file of a table's columns, for a CSV file.
      source: the file that `x` was read from.
      observed: `x` as it was before it was binarized, to be written; `x` unless given.
      labels: of a conditional model, integers [N].
      num_samples: K.
      seed: pair of integers.
      proposal: "encoder", or "refined" for proposals fitted to each row.
      name: what messages call x.

    Returns:
      function that computes the file and writes it.

    Raises:
      InvalidInputError: a model that takes no missing values; labels that it refuses; a
        file that cannot be written of what is there; by the function, bad images.
    """
    suffix = pathlib.Path(path).suffix
    if suffix != ".npy" and not (suffix == ".csv" and schema):
        raise InvalidInputError(
            "`imputed` must be NAME.npy, or NAME.csv of a table. "
            f"Received: imputed={path}"
        )
    if saved_model is None:
        raise InvalidInputError(
            "`saved_model` must be given for `imputed`: no endpoint fills in values. "
            f"Received: saved_model=None, imputed={path}"
        )
    scorer = InProcessScorer(saved_model, proposal)
    if "impute" not in scorer.signatures:
        raise InvalidInputError(
            "`saved_model` must be of a model that takes missing values, with a "
            "likelihood that has a mean. "
            f"Received: {find_version(saved_model)}, without the signature impute"
        )
    signature = "refined_impute" if proposal == "refined" else "impute"
    impute = signature_of(scorer.signatures, signature)
    names = impute.structured_input_signature[1]
    labels = check_labels(labels, len(x), scorer.takes_labels)
    seen = x if observed is None else observed

    def write():
        filled: list[np.ndarray] = []
        for batch in checked_batches(x, scorer, name=name):
            start = len(filled) * BATCH_SIZE
            rows = slice(start, start + len(batch))
            y = None if labels is None else labels[rows]
            inputs = inputs_of(names, batch, num_samples, batch_seed(seed, start), y)
            with naming(f"rows {start} to {rows.stop - 1}"):
                filled.append(call_signature(impute, inputs)["mean"])
        values = np.where(np.isnan(x), np.concatenate(filled), seen)
        columns = tables.load_schema(schema) if schema else None
        if suffix == ".npy" or columns is None:
            values = tables.decode_array(values, columns)
            write_atomically(path, lambda file: np.save(file, values))
            return
        if source and pathlib.Path(source).suffix in TABLES:
            as_text = tables.text_columns(columns)
            table = table_files.read_table(source, "input", as_text)
            filled_in = tables.fill(table, values, columns)
        else:
            filled_in = tables.decode(values, columns)
        write_atomically(path, lambda file: csv.write_csv(filled_in, file))

    return write
