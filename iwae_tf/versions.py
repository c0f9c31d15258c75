"""The libraries that made a number or a model."""

import importlib.metadata
import platform

VERSIONED = ("tensorflow", "keras", "tensorflow-probability", "numpy")


def library_versions():
    """Dict of library to its version, Python first."""
    found = {name: importlib.metadata.version(name) for name in VERSIONED}
    return {"python": platform.python_version(), **found}
