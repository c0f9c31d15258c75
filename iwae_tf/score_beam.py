r"""Scores shards of images with a SavedModel, on Apache Beam or on Spark.

python -m iwae_tf.score_beam --saved_model=DIR --input='images-*.npy' --output=s.csv \
    --runner=DirectRunner --option=direct_num_workers=2
python -m iwae_tf.score_beam --saved_model=DIR --input='images-*.parquet' \
    --output=s.parquet --engine=spark --master=spark://HOST:7077

Shards in: .npy, .csv, .parquet or, on Beam, .tfrecord; out: .csv or .parquet.
"""

import contextlib
import glob
import logging
import os
import pathlib
import shutil
import sys
import tempfile

from absl import flags

from iwae_tf import cli
from iwae_tf.checks import needing
from iwae_tf.errors import InvalidInputError
from iwae_tf.io.layout import SCHEMA, beside_export
from iwae_tf.io.processes import stderr_to

_SAVED_MODEL = cli.export_flag("Export, NAME or NAME/1.")
_INPUT = cli.path_flag("input", "Pattern of the shards, NAME*.npy.")
_OUTPUT = cli.new_path_flag("output", "NAME.csv or NAME.parquet.", is_file=True)
_NUM_SAMPLES = cli.count_flag("num_samples", 5000, "Draws for each image, K.")
_SEED = cli.seed_flag()
_PROPOSAL = cli.proposal_flag()
_ENGINE = flags.DEFINE_enum("engine", "beam", ("beam", "spark"), "What runs the job.")
_RUNNER = flags.DEFINE_string("runner", None, "Runner of Beam; default: DirectRunner.")
_MASTER = flags.DEFINE_string("master", None, "URL of Spark; default: local[*].")
_OPTION = flags.DEFINE_multi_string("option", [], "Option of the engine, NAME=VALUE.")
cli.require("input", "output", "saved_model")


@flags.multi_flags_validator(["engine", "runner", "master"])
def _check_engine(values):
    other = {"beam": "master", "spark": "runner"}[values["engine"]]
    if values[other] is not None:
        raise InvalidInputError(
            f"`--{other}` must be left out with --engine={values['engine']}. "
            f"Received: --{other}={values[other]}"
        )
    return True


@cli.script
def run() -> int:
    """Scores the shards of the flags on the engine that they name."""
    job = {"beam": _on_beam, "spark": _on_spark}[_ENGINE.value](
        beside_export(_SAVED_MODEL.value, SCHEMA),  # None unless it is of a table
        saved_model=_SAVED_MODEL.value,
        num_samples=_NUM_SAMPLES.value,
        seed=_SEED.value,
        proposal=_PROPOSAL.value,
    )
    from iwae_tf.models.values import OFF_LEVELS
    from iwae_tf.serving.shards import BINARIZED, user_mistake

    with tempfile.TemporaryFile("w+") as printed:  # a worker prints what it also raises
        try:
            with contextlib.ExitStack() as stack:
                if not flags.FLAGS["verbosity"].present:
                    stack.enter_context(stderr_to(printed))
                    stack.enter_context(contextlib.redirect_stderr(printed))
                job()
        except Exception as error:
            mistake = user_mistake(error)
            if mistake is None:
                printed.seek(0)
                print(printed.read(), file=sys.stderr)
                raise
            raise InvalidInputError(mistake) from error
        printed.seek(0)
        warned = printed.read()
    print(f"scores  {_OUTPUT.value}")
    for line in (BINARIZED, *OFF_LEVELS.values()):
        if line in warned:  # by a worker on this machine
            print(f"note: {line}")
    return 0


def _on_beam(schema, **model):
    """The job as a Beam pipeline; a mistake is told before any worker starts."""
    apache_beam, beam = _import_beam()
    runner = _RUNNER.value or "DirectRunner"
    options = beam.parse_options(
        [f"--runner={runner}", *(f"--{option}" for option in _OPTION.value)]
    )
    handler = beam.SavedModelHandler(**model)
    handler.load_model()
    try:
        root = apache_beam.Pipeline(options=options)
    except ValueError as error:  # which names the runners that there are
        raise InvalidInputError(f"`--runner` must be one of Beam's. {error}") from error

    def job():
        with _leaving_nothing(_OUTPUT.value), root:
            beam.pipeline(_INPUT.value, _OUTPUT.value, handler, root, schema)

    return job


def _on_spark(schema, **model):
    """The job on Spark; a mistake is told before it starts, where that can be."""
    with needing("pyspark", "spark"):
        import pyspark  # noqa: F401
    from iwae_tf.serving.shards import RowScorer
    from iwae_tf.serving.spark import Job

    scorer = RowScorer(**model)
    job = Job(
        _INPUT.value,
        _OUTPUT.value,
        scorer,
        master=_MASTER.value or "local[*]",
        options=_OPTION.value,
        schema=schema,
    )
    scorer.load()
    return job.run


@contextlib.contextmanager
def _leaving_nothing(output):
    """Removes what Beam leaves on this machine, also beside the output of a failure."""
    path = pathlib.Path(output).absolute()
    pattern = f"beam-temp-{glob.escape(path.stem)}-*"
    before, environment = set(path.parent.glob(pattern)), os.environ.get("TMPDIR", "")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        try:
            yield
        finally:
            os.environ["TMPDIR"], tempfile.tempdir = environment, None
            for left in set(path.parent.glob(pattern)) - before:
                shutil.rmtree(left, ignore_errors=True)


def _import_beam():
    """Beam and what is built on it, without the warnings of their import."""
    if not flags.FLAGS["verbosity"].present:
        # What ends a pipeline is an exception: it need not be logged as well.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
        logging.disable(logging.WARNING)
        counts_none = "memory usage cannot be fetched"  # which is of no interest
        logging.getLogger().addFilter(lambda r: counts_none not in r.getMessage())
    try:
        with needing("apache-beam and pyarrow", "beam"):
            import apache_beam

            from iwae_tf.serving import pipelines as beam
    finally:
        logging.disable(logging.NOTSET)
    return apache_beam, beam


if __name__ == "__main__":
    run()
