"""What arguments have to be, told in one line where they are not."""

import operator
import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.errors import InvalidInputError


def check_count(value: Any, name: str) -> int:
    """`value`, a positive integer of any type, as an int.

    Raises:
      InvalidInputError: it is anything else.
    """
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise InvalidInputError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )
    return count


def check_choice(value: object, name: str, choices: Iterable[object]) -> None:
    """Raises InvalidInputError unless `value` is one of `choices`."""
    if value not in choices:
        raise InvalidInputError(
            f"`{name}` must be one of {', '.join(map(str, choices))}. "
            f"Received: {name}={value!r}"
        )


def check_networks(
    networks: keras.Layer | Sequence[keras.Layer], name: str
) -> list[keras.Layer]:
    """One Keras layer or a sequence of them, as a list."""
    if isinstance(networks, keras.Layer):
        return [networks]
    is_sequence = isinstance(networks, (list, tuple)) and len(networks) > 0
    if not is_sequence or not all(isinstance(n, keras.Layer) for n in networks):
        raise InvalidInputError(
            f"`{name}` must be a Keras layer or a sequence of them, one a stochastic "
            f"layer. Received: {name}={networks!r}"
        )
    return list(networks)


def output_row_shape(
    network: keras.Layer,
    row_shape: Sequence[int],
    name: str,
    num_classes: int | None = None,
) -> tuple[int, ...]:
    """Builds `network` for rows of a shape; returns the shape of a row of its output.

    Args:
      network: Keras layer.
      row_shape: tuple of ints.
      name: what a message calls the network.
      num_classes: optional int; the network is then called on [rows, one-hot labels].

    Raises:
      InvalidInputError: the network does not take such rows.
    """
    inputs, rule = keras.KerasTensor((1, *row_shape)), "must take rows"
    refusals: tuple[type[Exception], ...] = (ValueError,)
    if num_classes is not None:
        inputs = [inputs, keras.KerasTensor((1, num_classes))]
        rule = (
            f"must take a list [inputs, one-hot labels of {num_classes} classes], as "
            "networks.WithLabels(network) does, with inputs"
        )
        refusals = (ValueError, TypeError)  # of a layer that took the list for a tensor
    try:
        output = network(inputs)
    except refusals as error:
        # Keras wraps the reason into a title, blank lines and bold type.
        lines = re.sub(r"\x1b\[\d+m", "", str(error)).splitlines()
        reason = [line for line in lines if line and "encountered when" not in line]
        raise InvalidInputError(
            f"{name} {rule} of shape {tuple(row_shape)}. Received: {reason[0]}"
        ) from error
    return tuple(output.shape[1:])


def latent_dim_of(row_shape: Sequence[int], name: str) -> int:
    """Size of the latent whose loc and log_scale a network returns as one row."""
    if len(row_shape) != 1 or row_shape[0] % 2:
        raise InvalidInputError(
            f"{name} must return loc and log_scale concatenated on the last axis, "
            f"an even size [rows, 2 * latent_dim]. Received: rows of shape {row_shape}"
        )
    return row_shape[0] // 2


def check_float(x: ArrayLike | tf.Tensor, name: str = "x") -> tf.Tensor:
    """`x` as a tensor, which must be float."""
    try:
        x = tf.convert_to_tensor(x)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"`{name}` must be a float array [batch, *event]. "
            f"Received: a {type(x).__name__}"
        ) from error
    if not x.dtype.is_floating:
        raise InvalidInputError(
            f"`{name}` must be float in [0, 1]. Received: dtype={x.dtype.name}"
        )
    return x


def check_latents(z: ArrayLike | tf.Tensor, latent_dim: int) -> tf.Tensor:
    """`z`, numbers [rows, latent_dim], as a float32 tensor."""
    rule = f"`z` must be numbers [rows, {latent_dim}]."
    try:
        z = tf.cast(tf.convert_to_tensor(z), tf.float32)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise InvalidInputError(f"{rule} Received: a {type(z).__name__}") from error
    if not z.shape.is_compatible_with([None, latent_dim]):
        raise InvalidInputError(f"{rule} Received: shape={tuple(z.shape)}")
    return z


def check_values(x: tf.Tensor, *, in_unit_interval: bool, name: str = "x") -> None:
    """Raises InvalidInputError for an eager `x` that is empty or cannot be scored."""
    if tf.size(x) == 0:
        raise InvalidInputError(
            f"`{name}` must not be empty. Received: shape={x.shape}"
        )
    if not bool(tf.reduce_all(tf.math.is_finite(x))):
        raise InvalidInputError(
            f"`{name}` must be finite. Received: NaN or infinity in {name}"
        )
    low, high = float(tf.reduce_min(x)), float(tf.reduce_max(x))
    if in_unit_interval and (low < 0.0 or high > 1.0):
        raise InvalidInputError(
            f"`{name}` must be in [0, 1]. Received: values in [{low:g}, {high:g}]"
        )
