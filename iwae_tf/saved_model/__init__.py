"""Models as SavedModels that load and score with TensorFlow alone.

May import `evaluation`, `models`, `probability`, `io`, `errors` and `checks`.
"""

from iwae_tf.saved_model.exporting import (
    export_saved_model,
    find_version,
    load_saved_model,
    refusal,
    restore_weights,
)

__all__ = [
    "export_saved_model",
    "find_version",
    "load_saved_model",
    "refusal",
    "restore_weights",
]
