"""Log-weights of given images, drawn in bounded memory, and log p(x) beside them."""

from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.checks import check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import CHUNK_SIZE, LogLikelihood, log_likelihood
from iwae_tf.evaluation.compiling import compiled, over_batches
from iwae_tf.probability import noise

VALUES_AT_ONCE = 2_000_000  # log-weights that are held: what bounds the memory

REFERENCE_DRAWS = 5000


def check_x(model: keras.Model, x: ArrayLike | tf.Tensor) -> tf.Tensor:
    """`x` as `model.check_x` gives it; refuses a conditional model: no labels here."""
    if model.is_conditional:
        raise InvalidInputError(
            "`model` must not be conditional: this has no labels. Received: a model "
            f"with num_classes={model.num_classes}"
        )
    return model.check_x(x)


def draw_log_weights(
    model: keras.Model,
    x: np.ndarray | tf.Tensor,
    num_samples: int,
    seed: Sequence[int] = (0, 0),
    *,
    first_row: int = 0,
) -> np.ndarray:
    """Log-weights of K draws of q(z|x) a row, with the noise of `log_likelihood`.

    Args:
      model: a built model of this package.
      x: float [B, *event], scored as given.
      num_samples: K.
      seed: pair of integers.
      first_row: index of the first row in the data set that `x` is a part of.

    Returns:
      log_weights: float32 NumPy array [K, B].

    Raises:
      InvalidInputError: a bad argument.
    """
    num_samples = check_count(num_samples, "num_samples")
    x = check_x(model, x)
    num_chunks = -(-num_samples // CHUNK_SIZE)
    count = -(-num_samples // num_chunks)
    program = compiled(model, _chunk, count=count)
    key, all_draws = noise.make_key(seed), tf.constant(num_samples)

    def draw(row, x, parameters):
        return [
            program(x, parameters, key, first_row + row, tf.constant(first), all_draws)
            for first in range(0, num_samples, count)
        ]

    chunks = over_batches(
        draw, (x, model.latent.encode(x)), max(1, CHUNK_SIZE // num_samples)
    )
    return np.concatenate(chunks, axis=1)[:, :num_samples].T


def log_weight_batches(
    model: keras.Model,
    x: np.ndarray | tf.Tensor,
    num_samples: int,
    seed: Sequence[int] = (0, 0),
    on_progress: Callable[[int], object] | None = None,
) -> Iterator[np.ndarray]:
    """Yields `draw_log_weights` of batches of images, [K, b] each.

    A batch is as large as `VALUES_AT_ONCE` log-weights, and one image at least. When it
    is done with, `on_progress` is told its number of images.
    """
    num_samples = check_count(num_samples, "num_samples")
    size = max(1, VALUES_AT_ONCE // num_samples)
    for first in range(0, len(x), size):
        batch = x[first : first + size]
        yield draw_log_weights(model, batch, num_samples, seed, first_row=first)
        if on_progress:
            on_progress(len(batch))


def _chunk(latent, x, parameters, key, row, first, all_draws, count):
    """Log-weights of draws first, ..., first + count - 1 of each row: [B, count]."""
    draws = latent.draw_noise(
        key, row, x.shape[0], 1, count, first_draw=first, all_draws=all_draws
    )
    found = latent.log_weights(x, draws, parameters=parameters)
    return tf.transpose(found.log_weights[0])


def reference_log_likelihood(
    model: keras.Model, x: np.ndarray | tf.Tensor, seed: Sequence[int]
) -> LogLikelihood:
    """log p(x) by 5,000 draws of refined proposals, to compare estimates with."""
    return log_likelihood(model, x, REFERENCE_DRAWS, seed, proposal="refined")
