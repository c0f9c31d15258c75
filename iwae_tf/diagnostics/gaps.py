"""What the encoder loses, and what any Gaussian would.

log p(x) - L[q] = (log p(x) - L[best diagonal]) + (L[best diagonal] - L[q])

The first is the approximation gap, the second the amortisation gap: what a diagonal
Gaussian costs at its best, and what it costs that one network gives all of them.

References:
  Cremer, Li and Duvenaud, 2018. https://arxiv.org/abs/1801.03558
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from iwae_tf.checks import check_count
from iwae_tf.diagnostics.draws import check_x
from iwae_tf.evaluation import LogLikelihood, log_likelihood, refinement
from iwae_tf.evaluation.compiling import compiled, over_batches
from iwae_tf.probability import noise
from iwae_tf.probability.distributions import standard_normal

NUM_STEPS = 60  # of the fits
NUM_DRAWS = 1000  # of each ELBO
ROWS = 2500  # of the decoder at once


class InferenceGaps(NamedTuple):
    """Of each image, NumPy arrays [B], in nats."""

    encoder: np.ndarray  # L[q]
    diagonal: np.ndarray  # L of the best diagonal Gaussian
    full: np.ndarray  # L of the best Gaussian of full covariance
    refined: LogLikelihood  # log p(x), by refined proposals


def inference_gaps(
    model: keras.Model,
    x: np.ndarray | tf.Tensor,
    num_samples: int = 5000,
    seed: Sequence[int] = (0, 0),
    *,
    on_progress: Callable[[int], object] | None = None,
) -> InferenceGaps:
    """ELBOs of the encoder, of the best diagonal and full Gaussians, and log p(x).

    Gaussians are fitted in the encoder's noise: with several layers they keep what
    q(z2|z1) says of how the layers depend on one another.

    Args:
      model: a built model of this package.
      x: float [B, *event].
      num_samples: K, draws of log p(x).
      seed: pair of integers.
      on_progress: optional function of the number of images just finished.

    Returns:
      InferenceGaps.

    Raises:
      InvalidInputError: a bad argument, or a likelihood without a gradient in z.
    """
    num_samples = check_count(num_samples, "num_samples")
    x, key = check_x(model, x), noise.make_key(seed)
    parameters = model.latent.encode(x)
    width = sum(model.latent_dims)
    directions = refinement.stage_directions(0, tf.constant(NUM_STEPS), width)
    elbos = [compiled(model, _elbo, kind=k) for k in ("none", "diagonal", "full")]
    encoder, diagonal, full = over_batches(
        lambda row, *rows: [elbo(*rows, directions, key, row) for elbo in elbos],
        (x, parameters),
        refinement.rows_at_once(model.latent, ROWS),
        on_progress,
    )
    refined = log_likelihood(model, x, num_samples, seed, proposal="refined")
    return InferenceGaps(encoder, diagonal, full, refined)


def _elbo(latent, x, parameters, directions, key, row, kind):
    """The ELBO of a Gaussian of this kind for each row of x: [B]."""
    width, rows = directions.shape[-1], tf.shape(x)[0]
    loc, factor, log_det = 0.0, tf.eye(width, batch_shape=[rows]), 0.0
    if kind != "none":
        found = refinement.fit(
            latent, x, None, parameters, None, [directions], kind == "diagonal"
        )
        loc, factor, log_det = found.loc, found.factor, found.log_det
    count = tf.maximum(1, ROWS // rows)
    num_chunks = -(-NUM_DRAWS // count)

    def add(index, total):
        e = latent.draw_noise(noise.fold_in(key, index), row, rows, 1, count)
        u = loc + tf.einsum("mkbd,bed->mkbe", e, factor)
        log_weights = refinement.log_target(latent, x, u, None, parameters)
        log_weights -= standard_normal(width).log_prob(e)
        return index + 1, total + tf.reduce_mean(log_weights[0], axis=0)

    _, total = tf.while_loop(
        lambda index, _: index < num_chunks, add, (0, tf.zeros([rows]))
    )
    return total / tf.cast(num_chunks, tf.float32) + log_det
