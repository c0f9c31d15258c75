"""Log-likelihoods of sets too large for one machine, as an Apache Beam pipeline.

Reading and writing are Beam's, scoring is `shards.RowScorer`. Needs the extra `beam`.
"""

import contextlib
import functools
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference import base
from apache_beam.options.pipeline_options import PipelineOptions

from iwae_tf.checks import readable
from iwae_tf.errors import InvalidInputError
from iwae_tf.serving import shards
from iwae_tf.serving.score_files import COLUMNS, fields

MAX_BATCH_SIZE = 64  # rows that one call of the handler gets
REMOTE_OPTIONS = ("PortableRunner", "FlinkRunner", "SparkRunner")  # have their own


class SavedModelHandler(base.ModelHandler):
    """Scores (row, image) with a signature of a SavedModel.

    Beam's own handler of TensorFlow models loads through Keras, which takes no
    SavedModel. One copy of the model serves all threads of a process.

    Args:
      saved_model: folder of an export that every worker can read.
      **settings: of `shards.RowScorer`.
    """

    def __init__(self, saved_model: str | os.PathLike[str], **settings: Any) -> None:
        super().__init__()
        self._scorer = shards.RowScorer(saved_model, **settings)

    def load_model(self) -> shards.RowScorer:
        self._scorer.load()
        return self._scorer

    def run_inference(
        self,
        batch: Iterable[tuple[int, np.ndarray]],
        model: shards.RowScorer,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterator[tuple[float, ...]]:
        """Yields the values of `score_files.COLUMNS`, a tuple a row."""
        del inference_args
        return model(batch)

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
      schema: path of the schema.json beside the export of a table's model.

    Raises:
      InvalidInputError: an unknown suffix, or no such shards.
    """
    scores = (
        root | "read" >> read(source, schema) | "score" >> base.RunInference(handler)
    )
    return scores | "write" >> write(output)


@beam.ptransform_fn
def read(root: Any, pattern: str, schema: str | os.PathLike[str] | None = None) -> Any:
    """A transform that reads (row, image) from shards.

    NAME*.npy: arrays [N, *event]; rows are numbered through all shards in the order of
    their names, as are those of NAME*.csv: tables with a line of column names, which
    `schema` encodes. NAME*.tfrecord: `tf.train.Example`s with an int64 `row` and floats
    `x`. NAME*.parquet: columns `row` and `x`, a list of floats, flat.

    Args:
      root: beam.Pipeline, which Beam puts before the arguments of a call.
      pattern: path with * for the shards, on any file system that Beam knows.
      schema: path of the JSON file of a table's columns.
    """
    pattern = shards.absolute(pattern)
    (match,) = FileSystems.match([pattern])
    paths = shards.some_files((file.path for file in match.metadata_list), pattern)
    suffixes = (".npy", ".csv", ".tfrecord", ".parquet")
    suffix = shards.suffix_of(pattern, "input", suffixes)
    if suffix in shards.NUMBERED:
        reader = shards.reader(suffix, schema, FileSystems.open)
        parts = root | beam.Create(shards.parts_of(paths, reader)) | beam.Reshuffle()
        return parts | beam.FlatMap(functools.partial(shards.rows_of, reader))
    if suffix == ".parquet":
        shards.check_columns(paths, FileSystems.open)
        records = root | beam.io.ReadFromParquet(pattern, columns=["row", "x"])
        rows = records | beam.Map(row_of_record)
    else:
        shards.some(sum(file.size_in_bytes for file in match.metadata_list), paths)
        rows = root | beam.io.ReadFromTFRecord(pattern) | beam.Map(parse_example)
    return rows | beam.GroupByKey() | beam.Map(only_image)


@beam.ptransform_fn
def write(scores: Any, output: str) -> Any:
    """A transform that writes (row, scores) into CSV or Parquet shards.

    Args:
      scores: beam.PCollection, which Beam puts before the argument of a call.
      output: path with the suffix .csv or .parquet, before which the number of the
        shard comes.

    Raises:
      InvalidInputError: another suffix, or such shards are there already.
    """
    suffix = shards.suffix_of(output, "output", shards.OUTPUTS)
    prefix = shards.absolute(output).removesuffix(suffix)
    # Shards of two jobs would be read as one.
    (match,) = FileSystems.match([f"{prefix}-*-of-*{suffix}"])
    if match.metadata_list:
        raise InvalidInputError(
            "`output` must have no shards yet. Received: "
            f"{match.metadata_list[0].path}, which exists"
        )
    if suffix == ".csv":
        lines = scores | beam.Map(lambda score: ",".join(fields(*score)))
        return lines | beam.io.WriteToText(prefix, suffix, header=",".join(COLUMNS))
    records = scores | beam.Map(lambda score: dict(zip(COLUMNS, score)))
    return records | beam.io.WriteToParquet(
        prefix, shards.SCHEMA, file_name_suffix=suffix
    )


def row_of_record(record: dict[str, Any]) -> tuple[Any, np.ndarray]:
    """(row, image) of a row of Parquet; nulls, as which pandas writes NaN, are NaN."""
    return record["row"], np.array(record["x"], np.float64)


def parse_example(record: bytes) -> tuple[int, np.ndarray]:
    """(row, image) of a serialized `tf.train.Example`."""
    with readable("one", "`input` must hold examples in .tfrecord files"):
        features = tf.train.Example.FromString(record).features.feature
    rows, values = features["row"].int64_list.value, features["x"].float_list.value
    if len(rows) != 1 or not values:
        raise InvalidInputError(
            "`input` must hold examples with one int64 `row` and floats `x`. Received: "
            f"features {sorted(features)}"
        )
    return rows[0], np.array(values, np.float32)


def only_image(found: tuple[int, Iterable[Any]]) -> tuple[int, np.ndarray]:
    """(row, image) of all the images that have this row, of which there must be one."""
    row, images = found[0], [*found[1]]
    if len(images) > 1 or row is None or not 0 <= row <= shards.LAST_ROW:
        raise InvalidInputError(shards.OWN_ROW.format(row, len(images)))
    return row, images[0]


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
