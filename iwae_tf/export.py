"""Exports the model of a finished run as the next version of a SavedModel.

python -m iwae_tf.export --workdir=runs/a --output=saved_models/NAME
"""

from iwae_tf import cli
from iwae_tf.io.layout import check_for_versions

_WORKDIR = cli.run_flag()
_OUTPUT = cli.new_path_flag("output", "Folder for the versions of the SavedModel.")
cli.require("workdir", "output")


@cli.script
def run() -> int:
    """Exports the workdir of the flags; prints the path of the new version."""
    check_for_versions(_OUTPUT.value, "--output")  # before TensorFlow starts
    from iwae_tf.runs.workdir import Workdir, data_in, export

    workdir = Workdir(_WORKDIR.value)
    model, config = workdir.load_model(), workdir.read_config()
    results, data = workdir.read_results(), data_in(workdir.path)
    print(export(model, config, _OUTPUT.value, results, data))
    return 0


if __name__ == "__main__":
    run()
