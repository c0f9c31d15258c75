"""Estimates the NLL of a split, from a workdir or from a SavedModel.

python -m iwae_tf.evaluate --workdir=runs/a --split=test --num_samples=5000
python -m iwae_tf.evaluate --saved_model=saved_models/mnist5k_iwae --limit=100
"""

import os

from absl import flags

from iwae_tf.cli import scripts as cli

_WORKDIR = cli.path_flag("workdir", "Folder of a finished run.")
_SAVED_MODEL = cli.path_flag("saved_model", "Exported model, NAME or NAME/1.")
_SPLIT = flags.DEFINE_string("split", "test", "train, validation or test.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", None, "Draws an image, K.")
_LIMIT = flags.DEFINE_integer("limit", None, "Score the first images only.")
_OUTPUT = cli.path_flag("output", "JSON file for the results.")
_DATASET = flags.DEFINE_string("dataset", None, "Instead of the config's data set.")
_DATA_DIR = cli.path_flag("data_dir", "Instead of the config's data_dir.")
_DEVICES = cli.DeviceFlags()
_BINARIZATION = flags.DEFINE_string("binarization", None, "Instead of the config's.")


def main(argv: list[str]) -> int:
    """Scores the split that the flags name and prints a table."""
    del argv
    from iwae_tf.errors import InvalidInputError
    from iwae_tf.io import terminal
    from iwae_tf.io.files import check_writable, write_json
    from iwae_tf.runs import results

    if (_WORKDIR.value is None) == (_SAVED_MODEL.value is None):
        raise InvalidInputError(
            "one of `--workdir` and `--saved_model` must be given. Received: "
            f"--workdir={_WORKDIR.value}, --saved_model={_SAVED_MODEL.value}"
        )
    for name, value in (("num_samples", _NUM_SAMPLES.value), ("limit", _LIMIT.value)):
        cli.check_positive(name, value)
    distribution = _DEVICES.distribution()
    if _OUTPUT.value and distribution.is_chief:
        if os.path.isdir(_OUTPUT.value):
            raise InvalidInputError(
                "`--output` must be a file, not a folder. "
                f"Received: --output={_OUTPUT.value}"
            )
        check_writable(_OUTPUT.value)
    if _WORKDIR.value:
        found, is_complete = _from_workdir(_WORKDIR.value, distribution)
    else:
        if distribution.num_replicas > 1:
            raise InvalidInputError(
                "`--distribute` must be none for a SavedModel, which runs on one "
                f"device. Received: --saved_model={_SAVED_MODEL.value}"
            )
        path = cli.require("saved_model", _SAVED_MODEL.value)
        found, is_complete = _from_saved_model(path)
    if found is not None and distribution.is_chief:
        fields = results.summary_fields(found)
        if _OUTPUT.value:
            write_json(_OUTPUT.value, found | {"complete": is_complete})
            fields["results"] = _OUTPUT.value
        terminal.print_fields(fields.items())
    if not is_complete:
        raise KeyboardInterrupt
    return 0


def _from_workdir(path, distribution):
    from iwae_tf.runs import results
    from iwae_tf.runs.workdir import Workdir

    workdir = Workdir(path)
    config = _overridden(workdir.read_config())
    model = workdir.load_model()
    return results.evaluate_model(
        model,
        config,
        split=_SPLIT.value,
        num_samples=_NUM_SAMPLES.value or config.eval_num_samples,
        limit=_LIMIT.value,
        score=distribution.scorer(model),
    )


def _from_saved_model(path):
    from iwae_tf.runs import results
    from iwae_tf.runs.workdir import read_config
    from iwae_tf.saved_model import load_saved_model

    version, signatures = load_saved_model(path)
    config = _overridden(read_config(version.parent / "config.json"))
    return results.evaluate_signature(
        # Exports of before there was `error_bars` have no jackknife error.
        signatures.get("error_bars", signatures["log_likelihood"]),
        config,
        split=_SPLIT.value,
        num_samples=_NUM_SAMPLES.value or config.eval_num_samples,
        limit=_LIMIT.value,
    )


def _overridden(config):
    """The config with the data flags put in."""
    from iwae_tf.config import override

    return override(
        config,
        dataset=_DATASET.value,
        data_dir=_DATA_DIR.value,
        binarization=_BINARIZATION.value,
    )


def run() -> None:
    """The console command."""
    cli.run(main)


if __name__ == "__main__":
    run()
