"""log p(x) from thousands of draws, as a plain graph of stock TensorFlow ops.

Draws are streamed a chunk at a time: memory does not grow with their number. A
SavedModel carries this very estimator (see `saved_model`). In Python XLA compiles its
inner part, a block of images, whose shape does not depend on how many there are.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf.models.latent_model import LatentModel, UnitMask
from iwae_tf.probability.log_weights import (
    JACKKNIFE_POWERS,
    jackknife_error,
    standard_error,
)

CHUNK_SIZE = 2500  # rows of the decoder at once: what bounds the memory


class LogLikelihood(NamedTuple):
    """Importance-sampling estimates of log p(x), each [B], in nats.

    `standard_error` is the error of importance sampling alone, by the delta method:
    sqrt((K sum w~^2 - 1) / (K - 1)), NaN for one draw. Where few draws carry the
    weight (a small `effective_sample_size`) it is too small. `jackknife_error` is the
    error by leaving one draw out at a time, the same where the weights are even; where
    they are not it has the size of the spread between seeds. `estimate` is biased low,
    which no error bar here includes.
    """

    estimate: np.ndarray
    standard_error: np.ndarray
    effective_sample_size: np.ndarray
    jackknife_error: np.ndarray | Any = np.nan  # where it is not known


def estimate_in_graph(
    latent: LatentModel,
    x: tf.Tensor,
    num_samples: tf.Tensor,
    key: tf.Tensor,
    first_row: tf.Tensor,
    y: tf.Tensor | None = None,
    masks: Sequence[UnitMask] | None = None,
    chunk_size: int = CHUNK_SIZE,
    jit_compile: bool = False,
) -> LogLikelihood:
    """`log_likelihood` as graph ops: x [B, *event] to four float32 [B].

    Works through blocks of as many whole rows as have all their draws in one chunk,
    and otherwise through one row at a time and chunks of its draws. In both cases a
    chunk is one run of consecutive records of the noise. The last block is filled up
    with copies of the last row.
    """
    parameters = latent.encode(x, y)
    num_rows = tf.shape(x)[0]
    block = tf.maximum(1, chunk_size // num_samples)
    num_blocks = (num_rows + block - 1) // block
    outputs = [
        tf.TensorArray(tf.float32, num_blocks, element_shape=[None], infer_shape=False)
        for _ in LogLikelihood._fields
    ]

    def one_block(x, y, parameters, num_samples, key, row):
        def draw(first, count):
            noise = latent.draw_noise(
                key, row, tf.shape(x)[0], 1, count, first_draw=first,
                all_draws=num_samples,
            )  # fmt: skip
            parts = latent.log_weights(x, noise, y, parameters=parameters, masks=masks)
            return parts.log_weights[0]

        return stream_draws(draw, tf.shape(x)[0], num_samples, chunk_size)

    score_block: Callable[..., LogLikelihood] = one_block
    if jit_compile:
        score_block = tf.function(one_block, autograph=False, jit_compile=True)

    def store_block(index, outputs):
        first = index * block
        rows = tf.minimum(first + tf.range(block), num_rows - 1)
        row = first_row + tf.cast(first, tf.int64)
        of_block = [
            None if values is None else tf.gather(values, rows)
            for values in (x, y, parameters)
        ]
        result = score_block(*of_block, num_samples, key, row)
        written = [o.write(index, part) for o, part in zip(outputs, result)]
        return index + 1, written

    _, outputs = tf.while_loop(
        lambda index, _: index < num_blocks,
        store_block,
        [0, outputs],
        parallel_iterations=1,
    )
    return LogLikelihood(*(output.concat()[:num_rows] for output in outputs))


def stream_draws(
    draw: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    num_rows: tf.Tensor,
    num_samples: tf.Tensor,
    chunk_size: int | tf.Tensor,
) -> LogLikelihood:
    """log mean exp over K draws that are made a chunk at a time.

    Args:
      draw: function of (first, count) to log-weights float32 [count, B] of the draws
        first, ..., first + count - 1. All chunks are of one size; draws of the last
        one beyond K do not count.
      num_rows: B.
      num_samples: K, integer scalar.
      chunk_size: most draws at once.

    Returns:
      LogLikelihood of float32 tensors [B]. The running sums are float64.
    """
    num_chunks = (num_samples + chunk_size - 1) // chunk_size
    count = (num_samples + num_chunks - 1) // num_chunks

    def one_chunk(first, peak, sums):
        log_weights = tf.cast(draw(first, count), tf.float64)
        is_draw = (first + tf.range(count) < num_samples)[:, tf.newaxis]
        log_weights = tf.where(is_draw, log_weights, tf.constant(-np.inf, tf.float64))
        higher = tf.maximum(peak, tf.reduce_max(log_weights, axis=0))
        shift = tf.where(tf.math.is_inf(higher), tf.zeros_like(higher), higher)
        weights = tf.exp(log_weights - shift)
        rescale = tf.exp(peak - shift)
        added, power, scale = [], tf.ones_like(weights), tf.ones_like(rescale)
        for earlier in sums:
            power, scale = power * weights, scale * rescale
            added.append(earlier * scale + tf.reduce_sum(power, axis=0))
        return first + count, higher, added

    zeros = tf.zeros([num_rows], tf.float64)
    _, peak, sums = tf.while_loop(
        lambda first, *_: first < num_samples,
        one_chunk,
        [0, zeros - np.inf, [zeros] * JACKKNIFE_POWERS],
    )
    total, squares = sums[:2]
    normalized_squares = squares / total**2
    result = LogLikelihood(
        estimate=peak + tf.math.log(total / tf.cast(num_samples, tf.float64)),
        standard_error=standard_error(normalized_squares, num_samples),
        effective_sample_size=1.0 / normalized_squares,
        jackknife_error=jackknife_error(sums, num_samples),
    )
    return LogLikelihood(*(tf.cast(part, tf.float32) for part in result))
