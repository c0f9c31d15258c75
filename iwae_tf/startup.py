"""Imports TensorFlow, quietly, with XLA set to the full width of the processor.

TensorFlow reports every start from its C++ side, on file descriptor 2 and before any
log level is in force. What is not part of it is passed on. Set
TF_CPP_MIN_LOG_LEVEL=0 to see everything.

Keras must run on TensorFlow: another backend is refused before it is looked for.

XLA asks LLVM for vectors of 256 bits, also where the processor has wider ones. Set
XLA_FLAGS=--xla_cpu_prefer_vector_width=256 to leave it at that.
"""

import contextlib
import os
import re
import tempfile

from iwae_tf.errors import InvalidInputError
from iwae_tf.io.processes import stderr_to

BACKEND = "KERAS_BACKEND"
LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
XLA_FLAGS, VECTOR_WIDTH = "XLA_FLAGS", "--xla_cpu_prefer_vector_width"
REPORT = re.compile(
    rb"I\d{4} |WARNING: All log messages before absl::InitializeLog|"
    rb"To enable the following instructions"
)


@contextlib.contextmanager
def _without_report():
    """Holds back stderr of this process, then passes on all but the report."""
    with tempfile.TemporaryFile() as held:
        try:
            with stderr_to(held):
                yield
        finally:
            held.seek(0)
            rest = b"".join(line for line in held if not REPORT.match(line))
            if rest:
                os.write(2, rest)


def _prefer_wide_vectors(environment):
    """Adds XLA's flag, which is read when it first compiles, to those of the user."""
    given = environment.get(XLA_FLAGS, "")
    if VECTOR_WIDTH not in given:
        environment[XLA_FLAGS] = f"{given} {VECTOR_WIDTH}=512".strip()


def _check_backend(name, where):
    if name != "tensorflow":
        raise InvalidInputError(
            f"`{where}` must be tensorflow for iwae_tf, or left out, before keras is "
            f"imported. Received: {where}={name}"
        )


_check_backend(os.environ.get(BACKEND) or "tensorflow", BACKEND)
_prefer_wide_vectors(os.environ)

is_quiet = os.environ.setdefault(LOG_LEVEL, "3") != "0"
with _without_report() if is_quiet else contextlib.nullcontext():
    import tensorflow  # noqa: F401, before Keras
    import tensorflow_probability  # noqa: F401

    # isort: split

    import keras

_check_backend(keras.config.backend(), "backend of keras.json")
