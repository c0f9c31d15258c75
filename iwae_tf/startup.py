"""Imports TensorFlow, quietly, with XLA set to the full width of the processor.

TensorFlow reports every start from its C++ side, on file descriptor 2 and before any
log level is in force. What is not part of it is passed on. Set
TF_CPP_MIN_LOG_LEVEL=0 to see everything.

XLA asks LLVM for vectors of 256 bits, also where the processor has wider ones. Set
XLA_FLAGS=--xla_cpu_prefer_vector_width=256 to leave it at that.
"""

import contextlib
import os
import re
import sys
import tempfile

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
XLA_FLAGS, VECTOR_WIDTH = "XLA_FLAGS", "--xla_cpu_prefer_vector_width"
REPORT = re.compile(
    rb"I\d{4} |WARNING: All log messages before absl::InitializeLog|"
    rb"To enable the following instructions"
)


@contextlib.contextmanager
def _without_report():
    """Holds back stderr of this process, then passes on all but the report."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            held.seek(0)
            rest = b"".join(line for line in held if not REPORT.match(line))
            if rest:
                os.write(2, rest)


def _prefer_wide_vectors(environment):
    """Adds XLA's flag, which is read when it first compiles, to those of the user."""
    given = environment.get(XLA_FLAGS, "")
    if VECTOR_WIDTH not in given:
        environment[XLA_FLAGS] = f"{given} {VECTOR_WIDTH}=512".strip()


_prefer_wide_vectors(os.environ)

if os.environ.setdefault(LOG_LEVEL, "3") != "0":
    with _without_report():
        import tensorflow  # noqa: F401
        import tensorflow_probability  # noqa: F401
