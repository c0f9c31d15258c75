"""Reads exports: their signatures and their weights."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from iwae_tf.errors import InvalidInputError
from iwae_tf.io.layout import find_version
from iwae_tf.models.autoencoder import Autoencoder

# What TensorFlow raises on a damaged export.
DAMAGE = (OSError, ValueError, LookupError, RuntimeError, tf.errors.OpError)


def restore_weights(model: Autoencoder, version: pathlib.Path) -> None:
    """Sets the weights of a built model to those of an export of such a model.

    Args:
      model: a built model of the export's architecture.
      version: folder of one version.

    Raises:
      InvalidInputError: the export is damaged, or of another architecture.
    """
    try:
        reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
        model.set_weights(
            [
                reader.get_tensor(f"weights/{index}/.ATTRIBUTES/VARIABLE_VALUE")
                for index in range(len(model.weights))
            ]
        )
    except DAMAGE as error:
        raise InvalidInputError(
            "`saved_model` must be an intact export of its config's model. "
            f"Received: {version}, {type(error).__name__}: {error}"
        ) from error


def signature_of(signatures: Mapping[str, Any], name: str) -> Any:
    """One of the functions that `load_saved_model` returns, by its name.

    Raises:
      InvalidInputError: an export without it, of an earlier version of this package.
    """
    if name not in signatures:
        known = sorted(set(signatures) - {"loaded"})
        raise InvalidInputError(
            f"`saved_model` must be an export with the signature {name}: export the "
            f"model again. Received: one with {', '.join(known)}"
        )
    return signatures[name]


def load_saved_model(
    path: str | os.PathLike[str],
) -> tuple[pathlib.Path, dict[str, Any]]:
    """Loads an export of this package.

    Args:
      path: the folder of the versions, whose newest is taken, or of one version.

    Returns:
      (pathlib.Path of the version, dict of signature functions). The functions work
      as long as the dict is kept.

    Raises:
      InvalidInputError: there is none, it is damaged, or not one of ours.
    """
    folder = find_version(path)
    try:
        loaded = tf.saved_model.load(str(folder))
        signatures = dict(loaded.signatures, loaded=loaded)
        signatures["log_likelihood"]
    except DAMAGE as error:
        raise InvalidInputError(
            f"`saved_model` must be an intact export. Received: {folder}, "
            f"{type(error).__name__}: {error}"
        ) from error
    return folder, signatures
