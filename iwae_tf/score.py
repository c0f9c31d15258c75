"""Scores the images of a file with a SavedModel, in this process or on a server.

python -m iwae_tf.score --saved_model=DIR --input=images.npy --output=scores.csv
python -m iwae_tf.score --endpoint=http://HOST:8501/v1/models/NAME ...

Run it again with the same flags to continue after the last finished batch.
"""

import functools
import os
import sys

from absl import flags

from iwae_tf import cli

_SAVED_MODEL = cli.path_flag("saved_model", "Export, NAME or NAME/1.", must_exist=True)
_ENDPOINT = flags.DEFINE_string(
    "endpoint",
    None,
    "Served model instead: http(s)://... or grpc://.../v1/models/NAME.",
)
_INPUT = cli.path_flag(
    "input",
    "NAME.npy of images [N, *event], a folder of PNG or JPEG files, or NAME.csv.",
    must_exist=True,
)
_SCHEMA = cli.path_flag("schema", "Of a table; default: the one beside the export.")
_LABELS = cli.path_flag(
    "labels",
    "File NAME.npy of integers [N]: the classes, for a conditional model.",
    must_exist=True,
)
_OUTPUT = cli.path_flag("output", "CSV file for the scores.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 5000, "Draws for each image, K.")
_SEED = cli.pair_flag("seed", "0,0", "Pair of integers.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 100, "Images in a request.")
_CONCURRENCY = flags.DEFINE_integer("concurrency", 1, "Requests at a time.")
_TIMEOUT = flags.DEFINE_float("timeout", 120.0, "Seconds for one attempt.")
_RETRIES = flags.DEFINE_integer("retries", 5, "Attempts after the first one.")
_ARGUMENTS = (  # of `serving.score`, by the same names
    *(_SAVED_MODEL, _ENDPOINT, _OUTPUT, _NUM_SAMPLES, _SEED),
    *(_BATCH_SIZE, _CONCURRENCY, _TIMEOUT, _RETRIES),
)
cli.require("input", "output")


@cli.script
def run() -> int:
    """Scores what the flags name, under a progress bar, and prints the mean."""
    from iwae_tf import serving
    from iwae_tf.evaluation import summarize
    from iwae_tf.io import terminal
    from iwae_tf.runs import results
    from iwae_tf.serving import score_files

    images = score_files.read_images(_INPUT.value, _schema_path())
    path = _LABELS.value
    labels = None if path is None else score_files.read_labels(path)
    output = _OUTPUT.value
    arguments = {flag.name: flag.value for flag in _ARGUMENTS} | {"labels": labels}
    score = functools.partial(serving.score, images, **arguments)
    result, is_complete = results.score(
        lambda on_batch: score(on_batch=on_batch), len(images), _NUM_SAMPLES.value
    )
    if result is None or not (is_complete and os.path.exists(output)):
        print(
            f"run again with the same flags to continue: {output}.partial",
            file=sys.stderr,
        )
        raise KeyboardInterrupt
    summary = summarize(result)
    mean = (
        f"{-summary.nll:.2f} nats (+- {summary.jackknife_error:.3f} of "
        f"{_NUM_SAMPLES.value:,} samples, +- {summary.data_standard_error:.2f} of "
        f"{summary.num_examples:,} images)"
    )
    terminal.print_fields([("mean log p(x)", mean), ("scores", output)])
    return 0


def _schema_path():
    """The schema of the flags, or the one beside the export."""
    from iwae_tf.runs.workdir import SCHEMA
    from iwae_tf.saved_model import find_version

    if _SCHEMA.value or not _SAVED_MODEL.value:
        return _SCHEMA.value
    path = find_version(_SAVED_MODEL.value).parent / SCHEMA
    return path if path.is_file() else None


if __name__ == "__main__":
    run()
