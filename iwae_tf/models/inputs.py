"""What x and z have to be, told in one line where they are not."""

import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.errors import InvalidInputError


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
