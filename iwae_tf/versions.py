"""The version of the package, and the libraries that made a number or a model."""

import configparser
import importlib
import importlib.metadata
import pathlib
import platform

VERSIONED = ("tensorflow", "keras", "tensorflow-probability", "numpy")  # by pip's name
NAME = "iwae_tf"
SETUP = pathlib.Path(__file__).parents[1] / "setup.cfg"  # of a checkout


def package_version() -> str:
    """The version in `setup.cfg`: of this checkout, or as it was installed.

    A checkout reads its own file: another version may be installed beside it, and the
    metadata of an editable install are as old as the install.
    """
    if SETUP.is_file():
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(SETUP, encoding="utf-8")
        if parser.get("metadata", "name", fallback=None) == NAME:
            return parser.get("metadata", "version")
    return importlib.metadata.version(NAME)


def library_versions() -> dict[str, str]:
    """Dict of library to its version, Python and this package first.

    The modules say it themselves: TensorFlow may be installed as `tensorflow-cpu`.
    """
    modules = [importlib.import_module(name.replace("-", "_")) for name in VERSIONED]
    found = {name: module.__version__ for name, module in zip(VERSIONED, modules)}
    return {"python": platform.python_version(), NAME: package_version(), **found}
