"""Ways through the latent space: between two images, and over a plane of units."""

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from scipy import special

from iwae_tf.checks import check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.probability.distributions import mean_of


def interpolate(
    model: Autoencoder,
    first: ArrayLike | tf.Tensor,
    second: ArrayLike | tf.Tensor,
    num_steps: int = 10,
    *,
    labels: ArrayLike | tf.Tensor | None = None,
) -> np.ndarray:
    """Means of p(x|z1) on the line between the posterior means of pairs of images.

    z1 = (1 - t) E[z1|first] + t E[z1|second],  t = 0, ..., 1 in equal steps

    Args:
      model: a built model of this package.
      first: float [B, *event], where the lines start.
      second: float [B, *event], where they end.
      num_steps: images on a line, both ends included; 2 or more.
      labels: of a conditional model, integers [B], or one for all; of both ends.

    Returns:
      images: float32 [B, num_steps, *event].

    Raises:
      InvalidInputError: pairs of unequal number, or another bad argument.
    """
    num_steps = check_count(num_steps, "num_steps", 2)
    ends = [model.encode(x, labels=labels).mean() for x in (first, second)]
    if ends[0].shape != ends[1].shape:
        raise InvalidInputError(
            "`second` must have as many images as `first`. "
            f"Received: {len(ends[1])} and {len(ends[0])}"
        )
    t = tf.linspace(0.0, 1.0, num_steps)[:, tf.newaxis, tf.newaxis]
    z = (1.0 - t) * ends[0] + t * ends[1]  # [steps, B, D]
    if model.is_conditional:
        labels = tf.tile(model.check_labels(labels, len(ends[0])), [num_steps])
    means = mean_of(model.decode(tf.reshape(z, [-1, z.shape[-1]]), labels=labels))
    means = means.numpy().reshape(num_steps, len(ends[0]), *model.event_shape)
    return means.swapaxes(0, 1)


def manifold(
    model: Autoencoder, num_rows: int = 20, *, labels: int | None = None
) -> np.ndarray:
    """Means of p(x|z1) over the plane, for a model whose one layer has two units.

    The grid has equal steps of probability under N(0, I): z = Phi^-1((i + 1/2) / n),
    the first unit to the right and the second one upwards.

    Args:
      model: a built model of this package.
      num_rows: n, of rows and of columns.
      labels: of a conditional model, the class.

    Returns:
      images: float32 [n * n, *event], row by row from the top.

    Raises:
      InvalidInputError: a model with another latent space.

    References:
      Kingma and Welling, 2014, figure 4. https://arxiv.org/abs/1312.6114
    """
    num_rows = check_count(num_rows, "num_rows")
    if list(model.latent_dims) != [2]:
        raise InvalidInputError(
            "`model` must have one stochastic layer of two units. "
            f"Received: latent_dims={list(model.latent_dims)}"
        )
    line = special.ndtri((np.arange(num_rows) + 0.5) / num_rows)
    plane = np.stack(np.meshgrid(line, line[::-1]), axis=-1).reshape(-1, 2)
    z = tf.constant(plane, tf.float32)
    if model.is_conditional:
        labels = model.check_labels(labels, len(plane))
        z = model.latent.unstandardized(z, labels)
    return mean_of(model.decode(z, labels=labels)).numpy()
