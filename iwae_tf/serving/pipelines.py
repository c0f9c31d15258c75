"""Log-likelihoods of sets too large for one machine, as an Apache Beam pipeline.

Each row is scored by itself under a seed of its own, `serving.batch_seed(seed, row)`:
its score does not depend on shards, bundles, workers or retries, and equals that of
`serving.score(..., batch_size=1)`. Needs the extra `beam`.
"""

import contextlib
import functools
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow
import tensorflow as tf
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference import base
from apache_beam.options.pipeline_options import PipelineOptions

from iwae_tf.datasets import tables
from iwae_tf.datasets.readers import read_npy_header, readable
from iwae_tf.errors import InvalidInputError
from iwae_tf.schema import Schema
from iwae_tf.serving.client import score_each
from iwae_tf.serving.endpoints import InProcessScorer
from iwae_tf.serving.score_files import COLUMNS, as_line

ROWS_A_READ = 256  # of an .npy shard, the unit that is handed to a worker
MAX_BATCH_SIZE = 64  # rows that one call of the handler gets
REMOTE_OPTIONS = ("PortableRunner", "FlinkRunner", "SparkRunner")  # have their own
USER_MISTAKE = "InvalidInputError: (.*)"
SCHEMA = pyarrow.schema(
    [
        (COLUMNS[0], pyarrow.int64()),
        *((name, pyarrow.float32()) for name in COLUMNS[1:]),
    ]
)


class SavedModelHandler(base.ModelHandler):
    """Scores (row, image) with a signature of a SavedModel.

    Beam's own handler of TensorFlow models loads through Keras, which takes no
    SavedModel. One copy of the model serves all threads of a process.

    Args:
      saved_model: folder of an export that every worker can read.
      num_samples: K.
      seed: pair of integers.
      proposal: "encoder", or "refined" for proposals fitted to each image.
    """

    def __init__(
        self,
        saved_model: str | os.PathLike[str],
        *,
        num_samples: int,
        seed: Sequence[int],
        proposal: str = "encoder",
    ) -> None:
        super().__init__()
        self._saved_model, self._proposal = str(saved_model), proposal
        self._num_samples, self._seed = num_samples, tuple(seed)

    def load_model(self) -> InProcessScorer:
        scorer = InProcessScorer(self._saved_model, self._proposal)
        if scorer.takes_labels:
            raise InvalidInputError(
                "`saved_model` must not be conditional: the pipeline reads no labels. "
                f"Received: {self._saved_model}"
            )
        return scorer

    def run_inference(
        self,
        batch: Iterable[tuple[int, np.ndarray]],
        model: InProcessScorer,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterator[tuple[float, ...]]:
        """Yields the values of `score_files.COLUMNS`, a tuple a row."""
        del inference_args
        return score_each(batch, model, self._num_samples, self._seed)

    def batch_elements_kwargs(self) -> dict[str, Any]:
        return {"max_batch_size": MAX_BATCH_SIZE}


def pipeline(
    source: str,
    output: str,
    handler: SavedModelHandler,
    root: beam.Pipeline,
    schema: str | os.PathLike[str] | None = None,
) -> Any:
    """Adds reading, scoring and writing to a pipeline.

    Args:
      source: pattern of input shards; see `read`.
      output: prefix of output shards with the suffix .csv or .parquet, which the shard
        numbers come before.
      handler: `SavedModelHandler`.
      root: beam.Pipeline.
      schema: path of the schema.json beside the export of a table's model.

    Raises:
      InvalidInputError: an unknown suffix, or no such shards.
    """
    scores = (
        root | "read" >> read(source, schema) | "score" >> base.RunInference(handler)
    )
    return scores | "write" >> write(output)


def read(pattern: str, schema: str | os.PathLike[str] | None = None) -> beam.PTransform:
    """A transform that reads (row, image) from shards.

    NAME*.npy: arrays [N, *event]; rows are numbered through all shards in the order of
    their names, as are those of NAME*.csv: tables with a line of column names, which
    `schema` encodes. NAME*.tfrecord: `tf.train.Example`s with an int64 `row` and floats
    `x`. NAME*.parquet: columns `row` and `x`, a list of floats, flat.

    Args:
      pattern: path with * for the shards, on any file system that Beam knows.
      schema: path of the JSON file of a table's columns.

    Returns:
      transform: beam.PTransform from a pipeline.
    """
    pattern = absolute(pattern)
    paths = matching(pattern)
    suffix = suffix_of(pattern, "input", (".npy", ".csv", ".tfrecord", ".parquet"))
    if suffix == ".npy":
        return _ReadRanges(paths, _read_rows)
    if suffix == ".csv":
        if schema is None:
            raise InvalidInputError(
                "`saved_model` must have schema.json beside it for a table. "
                f"Received: none, input={pattern}"
            )
        columns = tables.read_schema(str(schema), None, slice(None))
        return _ReadRanges(paths, functools.partial(_read_csv, columns))
    if suffix == ".parquet":
        reader = beam.io.ReadFromParquet(pattern, columns=["row", "x"])
        return _Chain(reader, beam.Map(lambda record: (record["row"], record["x"])))
    return _Chain(beam.io.ReadFromTFRecord(pattern), beam.Map(parse_example))


def write(output: str) -> beam.PTransform:
    """A transform that writes (row, scores) into CSV or Parquet shards.

    Args:
      output: path with the suffix .csv or .parquet, before which the number of the
        shard comes.

    Raises:
      InvalidInputError: another suffix, or such shards are there already.
    """
    suffix = suffix_of(output, "output", (".csv", ".parquet"))
    prefix = absolute(output).removesuffix(suffix)
    # Shards of two jobs would be read as one.
    (match,) = FileSystems.match([f"{prefix}-*-of-*{suffix}"])
    if match.metadata_list:
        raise InvalidInputError(
            "`output` must have no shards yet. Received: "
            f"{match.metadata_list[0].path}, which exists"
        )
    if suffix == ".csv":
        lines = beam.Map(as_line)
        sink = beam.io.WriteToText(prefix, suffix, header=",".join(COLUMNS))
        return _Chain(lines, sink)
    records = beam.Map(lambda score: dict(zip(COLUMNS, score)))
    parquet = beam.io.WriteToParquet(prefix, SCHEMA, file_name_suffix=suffix)
    return _Chain(records, parquet)


def absolute(path: str) -> str:
    """A local path from the root, which workers start from; others as they are."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def matching(pattern: str) -> list[str]:
    """Paths of the shards in the order of their names.

    Raises:
      InvalidInputError: there is none.
    """
    (match,) = FileSystems.match([pattern])
    paths = sorted(metadata.path for metadata in match.metadata_list)
    if not paths:
        raise InvalidInputError(
            f"`input` must match one file at least. Received: {pattern}"
        )
    return paths


def suffix_of(path: str, name: str, suffixes: Iterable[str]) -> str:
    """The suffix of a path or pattern, one of those that there are."""
    for suffix in suffixes:
        if path.endswith(suffix):
            return suffix
    raise InvalidInputError(
        f"`{name}` must end in one of {', '.join(suffixes)}. Received: {name}={path}"
    )


def parse_example(record: bytes) -> tuple[int, np.ndarray]:
    """(row, image) of a serialized `tf.train.Example`."""
    features = tf.train.Example.FromString(record).features.feature
    rows, values = features["row"].int64_list.value, features["x"].float_list.value
    if len(rows) != 1 or not values:
        raise InvalidInputError(
            "`input` must hold examples with one int64 `row` and floats `x`. Received: "
            f"features {sorted(features)}"
        )
    return rows[0], np.array(values, np.float32)


def parse_options(options: Sequence[str]) -> PipelineOptions:
    """Beam's options, --NAME=VALUE, the runner's among them.

    Raises:
      InvalidInputError: a bad value, or an option that Beam would leave out silently.
    """
    parsed, usage = PipelineOptions(list(options)), io.StringIO()
    try:
        with contextlib.redirect_stderr(usage):
            known = parsed.get_all_options(retain_unknown_options=False)
            given = parsed.get_all_options(retain_unknown_options=True)
        unknown = sorted(set(given) - set(known))
        if not unknown or known["runner"] in REMOTE_OPTIONS:
            return parsed
        found = f"--option={', '.join(unknown)}"
    except SystemExit:  # of argparse, which has printed all that there is
        found = usage.getvalue().splitlines()[-1].partition("error: ")[2]
    raise InvalidInputError(
        f"`--option` must be an option of Beam, NAME=VALUE. Received: {found}"
    )


def user_mistake(error: BaseException) -> str | None:
    """The line of an InvalidInputError, raised here or by a worker, or None."""
    is_ours = isinstance(error, InvalidInputError)
    found = [str(error)] if is_ours else re.findall(USER_MISTAKE, str(error))
    line = found[-1].replace("\\n", "\n").splitlines()[0] if found else None
    return line and re.sub(r" \[while running .*", "", line)


class _Chain(beam.PTransform):
    """Transforms one after the other."""

    def __init__(self, *steps):
        super().__init__()
        self._steps = steps

    def expand(self, values):
        for number, step in enumerate(self._steps):
            values = values | f"step {number}" >> step
        return values


class _ReadRanges(beam.PTransform):
    """Rows of files, by a function of (path, start, size), as `_read_rows`."""

    def __init__(self, paths, read_rows):
        super().__init__()
        self._read_rows = read_rows
        self._ranges, first = [], 0
        for path in paths:
            count = read_rows(path, 0, 0)[0]
            for start in range(0, count, ROWS_A_READ):
                size = min(ROWS_A_READ, count - start)
                self._ranges.append((path, start, size, first + start))
            first += count

    def expand(self, root):
        ranges = root | beam.Create(self._ranges) | beam.Reshuffle()
        return ranges | beam.FlatMap(functools.partial(_of_range, self._read_rows))


def _of_range(read_rows, part):
    """(row, x) of a part of a file."""
    path, start, size, first_row = part
    return list(enumerate(read_rows(path, start, size)[1], first_row))


def _read_csv(schema: Schema, path: str, start: int, size: int) -> tuple[int, Any]:
    """`_read_rows` of a CSV file, which is parsed whole."""
    table = _csv_table(path)
    return len(table), tables.encode(table.slice(start, size), schema)


@functools.lru_cache(maxsize=1)
def _csv_table(path):
    with FileSystems.open(path) as file:
        return tables.read_csv(file, path, "input")


def _read_rows(path, start, size):
    """(number of rows, `size` rows from `start`) of an .npy file on any file system."""
    rule = "`input` must hold readable .npy files"
    with readable(path, rule), FileSystems.open(path) as file:
        shape, is_fortran, dtype = read_npy_header(file)
        if is_fortran or not shape or dtype.hasobject:
            raise ValueError("an array of rows in C order is needed")
        row_bytes = dtype.itemsize * int(np.prod(shape[1:]))
        file.seek(file.tell() + start * row_bytes)
        data = file.read(size * row_bytes)
        return shape[0], np.frombuffer(data, dtype).reshape(size, *shape[1:])
