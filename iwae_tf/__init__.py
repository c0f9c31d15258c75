"""Importance-weighted autoencoders on TensorFlow, Keras 3 and TFP.

To understand it read, in this order:

  bounds.py                  VAE, IWAE, MIWAE, CIWAE, PIWAE: what each maximises
  models/latent_model.py     q(z|x), p(x, z) and the log-weights of their draws
  models/bound_model.py      the Keras model: one training step, in view
  models/gradients.py        one tape for the encoder, one for the decoder
  probability/noise.py       random numbers that are the same in every mode
  evaluation/streaming.py    log p(x) from thousands of draws

Each package says in its docstring what lives there and what it may import.
"""

import importlib
import pathlib
import sys
from typing import Any

from iwae_tf.moved import Finder
from iwae_tf.versions import package_version

sys.meta_path.append(Finder())

__version__ = package_version()


def __getattr__(name: str) -> Any:
    """A package such as `iwae_tf.networks`, or a public name, at its first use."""
    if name.startswith("_"):
        raise AttributeError(name)
    path = f"{__name__}.{name}"
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
    public = importlib.import_module("iwae_tf.public")
    if name not in public.__all__:
        raise AttributeError(f"module {__name__!r} has no {name!r}")
    return getattr(public, name)


def _is_script() -> bool:
    """Whether this import is on the way to `python -m iwae_tf.X` or `iwae-X`."""
    return sys.argv[0] == "-m" or pathlib.Path(sys.argv[0]).name.startswith("iwae-")


# A script answers `--help` and wrong flags before it waits for TensorFlow. All others
# get everything now: Keras can load a model once its classes are registered.
if not _is_script():
    from iwae_tf.public import *  # noqa: F403
    from iwae_tf.public import __all__  # noqa: F401
