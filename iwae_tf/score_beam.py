r"""Scores shards of images with a SavedModel in an Apache Beam pipeline.

python -m iwae_tf.score_beam --saved_model=DIR --input='images-*.npy' --output=s.csv \
    --runner=DirectRunner --option=direct_num_workers=2

Shards in: .npy, .csv, .tfrecord or .parquet. Shards out: .csv or .parquet.
"""

import contextlib
import glob
import io
import logging
import os
import pathlib
import shutil
import sys
import tempfile

from absl import flags

from iwae_tf import cli
from iwae_tf.errors import InvalidInputError

_SAVED_MODEL = cli.path_flag("saved_model", "Export, NAME or NAME/1.", must_exist=True)
_INPUT = cli.path_flag("input", "Pattern of the shards, NAME*.npy.")
_OUTPUT = cli.new_path_flag("output", "NAME.csv or NAME.parquet.", is_file=True)
_NUM_SAMPLES = cli.count_flag("num_samples", 5000, "Draws for each image, K.")
_SEED = cli.pair_flag("seed", "0,0", "Pair of integers.")
_PROPOSAL = flags.DEFINE_enum(
    "proposal",
    "encoder",
    ("encoder", "refined"),
    "Where draws come from: the encoder, or proposals fitted to each image.",
)
_RUNNER = flags.DEFINE_string("runner", "DirectRunner", "Beam's runner.")
_OPTION = flags.DEFINE_multi_string("option", [], "Option of Beam, NAME=VALUE.")
cli.require("input", "output", "saved_model")


@cli.script
def run() -> int:
    """Builds the pipeline of the flags and runs it to its end."""
    apache_beam, beam = _import_beam()
    from iwae_tf.runs.workdir import SCHEMA
    from iwae_tf.saved_model import find_version

    options = beam.parse_options(
        [f"--runner={_RUNNER.value}", *(f"--{option}" for option in _OPTION.value)]
    )
    handler = beam.SavedModelHandler(
        _SAVED_MODEL.value,
        num_samples=_NUM_SAMPLES.value,
        seed=_SEED.value,
        proposal=_PROPOSAL.value,
    )
    handler.load_model()  # a mistake is told before any worker starts
    try:
        root = apache_beam.Pipeline(options=options)
    except ValueError as error:  # which names the runners that there are
        raise InvalidInputError(f"`--runner` must be one of Beam's. {error}") from error
    printed = io.StringIO()  # a worker prints what it also raises
    try:
        with (
            contextlib.redirect_stderr(printed),
            _leaving_nothing(_OUTPUT.value),
            root,
        ):
            schema = find_version(_SAVED_MODEL.value).parent / SCHEMA
            given = schema if schema.is_file() else None
            beam.pipeline(_INPUT.value, _OUTPUT.value, handler, root, given)
    except Exception as error:
        mistake = beam.user_mistake(error)
        if mistake is None:
            print(printed.getvalue(), file=sys.stderr)
            raise
        raise InvalidInputError(mistake) from error
    print(f"scores  {_OUTPUT.value}")
    return 0


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
        logging.getLogger().addFilter(_is_of_interest)
    try:
        import apache_beam

        from iwae_tf.serving import pipelines as beam
    except ImportError as error:
        raise InvalidInputError(
            "this script needs apache-beam and pyarrow: pip install 'iwae_tf[beam]'. "
            f"Received: {error}"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    return apache_beam, beam


def _is_of_interest(record):
    """Whether a message says more than that Beam counts no memory."""
    return "memory usage cannot be fetched" not in record.getMessage()


if __name__ == "__main__":
    run()
