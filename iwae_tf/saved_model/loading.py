"""Reads exports: their signatures and their weights."""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.errors import InvalidInputError
from iwae_tf.io.layout import find_version
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.models.inputs import refusal

# What TensorFlow raises on a damaged export.
DAMAGE = (OSError, ValueError, LookupError, RuntimeError, tf.errors.OpError)


def restore_weights(model: Autoencoder, version: pathlib.Path) -> None:
    """Sets the weights of a built model to those of one version of an export.

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


def inputs_of(
    names: Iterable[str],
    x: ArrayLike,
    num_samples: int,
    seed: Sequence[int],
    labels: ArrayLike | None = None,
) -> dict[str, np.ndarray]:
    """What a signature that scores or imputes is asked, by the names of its inputs.

    Args:
      names: of the inputs.
      x: float [N, *event].
      labels: integers [N].
    """
    inputs = {
        "x": np.asarray(x, np.float32),
        "num_samples": np.asarray(num_samples, np.int32),
        "seed": np.asarray(seed, np.int32),
    }
    if labels is not None:
        inputs["y"] = np.asarray(labels, np.int32)
    if "num_steps" in names:  # of a refined proposal: the default number
        inputs["num_steps"] = np.zeros([], np.int32)
    return inputs


def call_signature(
    signature: Any, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The outputs of a signature, by name.

    Raises:
      InvalidInputError: the model refuses an input.
    """
    try:
        outputs = signature(**{name: tf.constant(v) for name, v in inputs.items()})
    except tf.errors.InvalidArgumentError as error:
        raise InvalidInputError(refusal(error.message)) from error
    return {name: found.numpy() for name, found in outputs.items()}


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
