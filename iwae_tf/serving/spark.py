"""Log-likelihoods of sets too large for one machine, on Apache Spark.

Reading and writing are Spark's, scoring is `shards.RowScorer`, in Arrow's batches.
pandas would write NaN as null. Needs the extra `spark` and Java.
"""

import functools
import glob
import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow

from iwae_tf.errors import InvalidInputError
from iwae_tf.serving import shards

MASTER = r"local(\[.+\])?|local-cluster\[\d+,\d+,\d+\]|yarn|(spark|k8s)://.+"
TASKS_A_CORE = 32  # at most: what a lost executor has not written is done again
COLUMNS = "row long, " + ", ".join(f"{name} float" for name in shards.SCHEMA.names[1:])
QUIET = {
    "spark.app.name": "iwae_tf",
    "spark.sql.execution.arrow.maxRecordsPerBatch": str(shards.ROWS_A_READ),
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}


class Job:
    """Shards in, scores out, on Spark. What can be told before it starts is told here.

    NAME*.npy and NAME*.csv: as of `pipelines.read`, in a folder that all workers share.
    NAME*.parquet: columns `row`, of different integers, and `x`, a list of floats, on
    any file system that Spark knows.

    Args:
      source: pattern of the input shards.
      output: folder NAME.csv or NAME.parquet, which Spark makes and writes shards into.
      master: URL of Spark's master.
      options: list of "spark.NAME=VALUE".
      schema: path of the schema.json beside the export of a table's model.

    Raises:
      InvalidInputError: a bad argument, or Java is missing.
    """

    def __init__(
        self,
        source: str,
        output: str,
        scorer: shards.RowScorer,
        *,
        master: str,
        options: Sequence[str] = (),
        schema: str | os.PathLike[str] | None = None,
    ) -> None:
        self._options = _options(master, options)
        self._scorer = scorer
        inputs = (*shards.NUMBERED, ".parquet")
        self._source, self._output = shards.absolute(source), shards.absolute(output)
        self._suffix = shards.suffix_of(self._source, "input", inputs)
        self._as_csv = shards.suffix_of(output, "output", shards.OUTPUTS) == ".csv"
        if os.path.exists(self._output):
            raise InvalidInputError(
                f"`output` must be a new folder. Received: {output}, which exists"
            )
        if "://" not in source:
            paths = shards.some_files(glob.glob(self._source), source)
            if self._suffix == ".parquet":
                shards.check_columns(paths, _open)
            else:
                self._read = shards.reader(self._suffix, schema, _open)
                self._parts = shards.parts_of(paths, self._read)
        elif self._suffix in shards.NUMBERED:
            raise InvalidInputError(
                "`input` must be .parquet, or in a folder that all workers share. "
                f"Received: {source}"
            )
        home = os.environ.get("JAVA_HOME")
        if not shutil.which(os.path.join(home, "bin", "java") if home else "java"):
            raise InvalidInputError(
                "`engine` must be beam where Java is missing: Spark needs Java 17 or "
                "later, in PATH or JAVA_HOME. Received: engine=spark"
            )

    def run(self) -> None:
        """Scores the rows.

        Raises:
          InvalidInputError: Spark does not start; rows without an id of their own, or
            an image that is refused; in a worker, whose exception has its line.
        """
        from pyspark.errors import AnalysisException
        from pyspark.sql import SparkSession

        master = self._options["spark.master"]
        if master.startswith("local"):
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        try:
            spark = SparkSession.builder.config(map=self._options).getOrCreate()
        except Exception as error:
            raise InvalidInputError(
                "`master` and `option` must be of a Spark that starts. Received: "
                f"master={master}, {_reason(error)}"
            ) from error
        try:
            is_table = self._suffix == ".parquet"
            rows, read = self._table(spark) if is_table else self._numbers(spark)
            function = functools.partial(_scores, self._scorer, read)
            scores = rows.mapInArrow(function, COLUMNS)
            writer = scores.write.option("header", True)
            write = writer.csv if self._as_csv else writer.parquet
            write(_as_url(self._output))
        except AnalysisException as error:  # of paths that it alone can look at
            raise InvalidInputError(
                "`input` must have the columns `row` and `x`, and `output` be new. "
                f"Received: {_reason(error)}"
            ) from error
        except BaseException:
            shutil.rmtree(self._output, ignore_errors=True)  # which was not there
            raise
        finally:
            spark.stop()

    def _numbers(self, spark: Any) -> tuple[Any, Any]:
        """The numbers of the files' parts, and what reads them."""
        count = len(self._parts)
        numbers = spark.range(0, count, 1, _num_tasks(spark, count))
        return numbers, functools.partial(_rows_of_parts, self._read, self._parts)

    def _table(self, spark: Any) -> tuple[Any, Any]:
        """The rows of Parquet files, their ids checked, and what reads them."""
        rows = spark.read.parquet(_as_url(self._source)).select("row", "x")
        wrong = f"count > 1 or row is null or row < 0 or row > {shards.LAST_ROW}"
        found = rows.groupBy("row").count().where(wrong).first()
        if found is not None:
            raise InvalidInputError(shards.OWN_ROW.format(*found))
        num_rows = rows.count()
        shards.some(num_rows, [self._source])
        num_parts = -(-num_rows // shards.ROWS_A_READ)
        return rows.repartition(_num_tasks(spark, num_parts), "row"), _rows_of_table


def _scores(scorer, read, batches):
    """Batches of scores, of the rows that `read` finds in each batch of Spark's."""
    for batch in batches:
        columns = [*zip(*scorer(read(batch)))] or [()] * len(shards.SCHEMA)
        arrays = [*map(pyarrow.array, columns, shards.SCHEMA.types)]
        yield pyarrow.RecordBatch.from_arrays(arrays, schema=shards.SCHEMA)


def _rows_of_parts(read, parts, batch):
    """(id, x) of the rows of each part whose number is in a batch."""
    for number in batch.column(0).to_pylist():
        yield from shards.rows_of(read, parts[number])


def _rows_of_table(batch):
    """(id, x) of the rows of a batch of Parquet's."""
    for row, x in zip(*batch.columns):
        yield int(row.as_py()), np.asarray(x.values)  # of uint64 Spark makes decimals


def _num_tasks(spark, num_parts):
    return max(1, min(num_parts, TASKS_A_CORE * spark.sparkContext.defaultParallelism))


def _open(path):
    return open(path, "rb")


def _as_url(path):
    return path if "://" in path else f"file://{path}"


def _reason(error):
    """What Java says is wrong, without its stack."""
    lines = [line for line in str(error).splitlines() if "Exception: " in line]
    return (lines or str(error).splitlines() or [type(error).__name__])[0].strip()


def _options(master, options):
    """Spark's options by name."""
    if not re.fullmatch(MASTER, master):
        raise InvalidInputError(
            "`master` must be local[N], local-cluster[N,CORES,MB], spark://HOST:PORT, "
            f"yarn or k8s://URL. Received: master={master}"
        )
    found = dict(QUIET, **{"spark.master": master})
    for option in options:
        name, equals, found[name] = option.partition("=")
        is_known = equals and re.fullmatch(r"spark(\.[\w-]+)+", name)
        if not is_known or name == "spark.master":
            raise InvalidInputError(
                "`option` must be an option of Spark, spark.NAME=VALUE; its master is "
                f"given as --master=URL. Received: option={option}"
            )
    return found
