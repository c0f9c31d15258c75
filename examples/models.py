"""Models out of exports."""

import iwae_tf
from iwae_tf.saved_model import load_saved_model
from iwae_tf.workdir import read_config


def rebuild(saved_model):
    """The Keras model whose weights a SavedModel of `iwae_tf.export` holds.

    Args:
      saved_model: folder of the export, NAME or NAME/1, its config.json beside.

    Returns:
      (model, its ConfigDict).
    """
    version, signatures = load_saved_model(saved_model)
    config = read_config(version.parent / "config.json")
    model = iwae_tf.build_model(config)
    for variable, value in zip(
        model.weights, signatures["loaded"].weights, strict=True
    ):
        variable.assign(value)
    return model, config
