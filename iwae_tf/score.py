"""Scores the images of a file with a SavedModel, in this process or on a server.

python -m iwae_tf.score --saved_model=DIR --input=images.npy --output=scores.csv
python -m iwae_tf.score --endpoint=http://HOST:8501/v1/models/NAME ...

Run it again with the same flags to continue after the last finished batch.
"""

import functools
import os
import pathlib
import sys

import numpy as np
from absl import flags

from iwae_tf import cli
from iwae_tf.config.files import read_config
from iwae_tf.errors import InvalidInputError
from iwae_tf.io import terminal
from iwae_tf.io.layout import SCHEMA, beside_export, check_rows

_SAVED_MODEL = cli.export_flag("Export, NAME or NAME/1.")
_ENDPOINT = flags.DEFINE_string(
    "endpoint",
    None,
    "Served model instead: http(s):// or grpc://HOST:PORT/v1/models/NAME, or "
    "http(s)://HOST:PORT/v2/models/NAME (Triton).",
)
_INPUT = cli.path_flag(
    "input",
    "NAME.npy of images [N, *event], NAME.npz, a folder of images, NAME.csv or "
    "NAME.parquet.",
    must_exist=True,
    check=check_rows,
)
_SCHEMA = cli.path_flag(
    "schema", "JSON of a table's columns; default: beside the export."
)
_IMAGE_SIZE = flags.DEFINE_string(
    "image_size",
    None,
    "HEIGHT,WIDTH or auto, for a folder of images; default: as in training.",
)
_COLOR = flags.DEFINE_enum(
    "color",
    None,
    ("auto", "gray", "rgb"),
    "Colours of a folder of images; default: as in training.",
)
_LABELS = cli.path_flag(
    "labels",
    "File NAME.npy of integers [N]: the classes, for a conditional model. A table, an "
    ".npz file and a folder with a sub-folder for each class have their own.",
    must_exist=True,
)
_OUTPUT = cli.new_path_flag("output", "CSV file for the scores.", is_file=True)
_IMPUTED = cli.new_path_flag(
    "imputed", "File for the rows with missing values filled in.", is_file=True
)
_NUM_SAMPLES = cli.count_flag("num_samples", 5000, "Draws for each image, K.")
_SEED = cli.seed_flag()
_PROPOSAL = cli.proposal_flag()
_BATCH_SIZE = cli.count_flag("batch_size", 100, "Images in a request.")
_CONCURRENCY = cli.count_flag("concurrency", 1, "Requests at a time.")
_TIMEOUT = flags.DEFINE_float("timeout", 120.0, "Seconds for one attempt.")
_RETRIES = flags.DEFINE_integer("retries", 5, "Attempts after the first one.")
_ARGUMENTS = (  # of `serving.score`, by the same names
    *(_SAVED_MODEL, _ENDPOINT, _OUTPUT, _NUM_SAMPLES, _SEED, _PROPOSAL),
    *(_BATCH_SIZE, _CONCURRENCY, _TIMEOUT, _RETRIES),
)
FEW_DRAWS = 10  # an effective sample size at which neither score nor error is good
cli.require("input", "output")


@flags.multi_flags_validator(["input", "output", "imputed"])
def _are_different(values):
    given = [os.path.realpath(path) for path in values.values() if path]
    if len({*given}) < len(given):
        raise InvalidInputError(
            "`--input`, `--output` and `--imputed` must be different files. Received: "
            + ", ".join(f"--{name}={path}" for name, path in values.items())
        )
    return True


@cli.script
def run() -> int:
    """Scores what the flags name, under a progress bar, and prints the mean."""
    from iwae_tf import serving
    from iwae_tf.evaluation import summarize
    from iwae_tf.runs import results
    from iwae_tf.runs.workdir import change_of_data, data_in
    from iwae_tf.serving import rows
    from iwae_tf.serving.imputed import imputer

    schema, export = _SCHEMA.value, _SAVED_MODEL.value
    output, imputed = _OUTPUT.value, _IMPUTED.value
    for name, path in {"output": output, "imputed": imputed}.items():
        if path and os.path.exists(path):
            raise InvalidInputError(
                f"`{name}` must be a new file. Received: {path}, which exists"
            )
    config = path = trained_on = None
    if export:
        schema = schema or beside_export(export, SCHEMA)
        path = beside_export(export, "config.json")
        config = path and read_config(path)
        trained_on = path and data_in(path.parent)
    x, stored, columns, labels, notes = rows.read_rows(
        _INPUT.value,
        schema=schema,
        image_size=_IMAGE_SIZE.value,
        color=_COLOR.value,
        config=config,
        labels=_LABELS.value and rows.read_labels(_LABELS.value),
        classes=(trained_on or {}).get("classes", ()),
    )
    for note in notes:
        terminal.tell(note)
    if "split" in columns and path and change_of_data(path.parent, config):
        del columns["split"]
        terminal.tell(
            f"note: {_INPUT.value} has changed since the model was trained on it, so "
            "there is no column split"
        )
    arguments = cli.values_of(_ARGUMENTS) | {"labels": labels, "name": "input"}
    score = functools.partial(serving.score, x, columns=columns, **arguments)
    if imputed:
        fill_in = imputer(
            imputed, x, export, schema, _INPUT.value,
            observed=stored, labels=labels, num_samples=_NUM_SAMPLES.value,
            seed=_SEED.value, proposal=_PROPOSAL.value, name="input",
        )  # fmt: skip
        score = functools.partial(_score_and_fill_in, score, len(x), fill_in)
    result, is_complete = results.score(score, len(x), _NUM_SAMPLES.value)
    if result is None or not (is_complete and os.path.exists(output)):
        print(
            f"run again with the same flags to continue: {output}.partial",
            file=sys.stderr,
        )
        raise KeyboardInterrupt
    summary = summarize(result)
    found = summary._asdict() | {"num_samples": _NUM_SAMPLES.value}
    examples = "rows" if schema else "images"
    mean = results.mean_in_nats(-summary.nll, found, what=examples)
    given = "" if labels is None else "|y"
    fields = {f"mean log p(x{given})": mean, "scores": output}
    if imputed:
        fields["imputed"] = imputed
    terminal.print_fields(fields.items())
    few = int(np.sum(result.effective_sample_size < FEW_DRAWS))
    if few and _NUM_SAMPLES.value >= FEW_DRAWS:
        terminal.tell(
            f"note: {few:,} of {len(x):,} rows have an effective sample size below "
            f"{FEW_DRAWS} draws: their scores are rough, and too low on average"
        )
    count = columns.get("split", []).count("train")
    if count:
        terminal.tell(
            f"note: {count:,} rows are in the training split, see the column split"
        )
    return 0


def _score_and_fill_in(score, count, fill_in, on_batch):
    """Scores so many rows, and fills in when none is left.

    The file of scores is whole after that: of a job that is cut off neither file is
    there, and it goes on by the same flags.
    """

    def on_scored(result):
        nonlocal count
        on_batch(result)
        count -= len(result.estimate)
        if not count:
            fill_in()

    try:
        score(on_batch=on_scored)
    except BaseException:
        pathlib.Path(_IMPUTED.value).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    run()
