"""The shapes that networks must take and return for the model to be built."""

import re
from collections.abc import Sequence

import keras

from iwae_tf.errors import InvalidInputError


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
