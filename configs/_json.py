"""What `--config=runs/a/config.json` means: the config in a JSON file."""

from iwae_tf.config.files import read_json, unchecked


def get_config(path):
    return unchecked(read_json(path), path)
