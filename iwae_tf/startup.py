"""Imports TensorFlow without the report that its C++ side makes of every start.

The report goes to file descriptor 2 before any log level is in force. What is not
part of it is passed on. Set TF_CPP_MIN_LOG_LEVEL=0 to see everything.
"""

import contextlib
import os
import re
import sys
import tempfile

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
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


if os.environ.setdefault(LOG_LEVEL, "3") != "0":
    with _without_report():
        import tensorflow  # noqa: F401
        import tensorflow_probability  # noqa: F401
