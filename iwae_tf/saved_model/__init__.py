"""Models as SavedModels that load and score with TensorFlow alone.

  export      the next version of a folder, whole or not there
  signatures  what an export can be asked
  loading     its signatures and its weights
  warmup      requests that TensorFlow Serving replays

May import `evaluation`, `models`, `probability`, `io`, `errors` and `checks`.
"""

from iwae_tf.io.layout import find_version
from iwae_tf.models.inputs import refusal
from iwae_tf.saved_model.export import export_saved_model
from iwae_tf.saved_model.loading import (
    call_signature,
    inputs_of,
    load_saved_model,
    restore_weights,
    signature_of,
)
