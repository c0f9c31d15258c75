"""What `--config=runs/a/config.json` means: the config in a JSON file."""

from iwae_tf import startup  # noqa: F401, before anything imports TensorFlow

# isort: split

from iwae_tf.runs.workdir import read_config


def get_config(path):
    return read_config(path)
