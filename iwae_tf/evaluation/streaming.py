"""log p(x) from thousands of draws, as a plain graph of stock TensorFlow ops.

Draws are streamed a chunk at a time: memory does not grow with their number. A
SavedModel carries this very estimator (see `saved_model`). In Python XLA compiles its
inner part, a block of images, whose shape does not depend on how many there are.
"""

import functools
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import refinement
from iwae_tf.evaluation.compiling import gathered
from iwae_tf.models.latent_model import LatentModel, UnitMask
from iwae_tf.probability import noise
from iwae_tf.probability.log_weights import (
    JACKKNIFE_POWERS,
    jackknife_error,
    standard_error,
)
from iwae_tf.probability.pareto import bias_allowance, pareto_k, tail_size

CHUNK_SIZE = 2500  # rows of the decoder at once: what bounds the memory


class LogLikelihood(NamedTuple):
    """Importance-sampling estimates of log p(x), each [B], in nats.

    `standard_error` is the error of importance sampling alone, by the delta method:
    sqrt((K sum w~^2 - 1) / (K - 1)), NaN for one draw. It is too small if few draws
    carry the weight (a small `effective_sample_size`). `jackknife_error` comes from
    leaving out one draw at a time. If the weights are even, it equals `standard_error`;
    if not, it has the size of the spread between seeds. `pareto_k` is the shape of the
    tail of the weights (Vehtari et al. 2024): the estimate can be relied on up to 0.7.
    It is NaN for fewer than 25 draws.

    `estimate` is biased low, because the largest weights are rare. `bias_allowance` is
    how much they may add, log(1 + w / (1 - k)). Here w is the share of the largest
    weight and k an upper limit of the tail's shape (see `pareto.bias_allowance`).

    None of these numbers can know of modes that no draw visited.
    """

    estimate: np.ndarray
    standard_error: np.ndarray
    effective_sample_size: np.ndarray
    jackknife_error: np.ndarray | Any = np.nan  # where it is not known
    pareto_k: np.ndarray | Any = np.nan
    bias_allowance: np.ndarray | Any = np.nan
    is_refined: np.ndarray | Any = 0.0  # 1 where the draws are of a fitted proposal

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Where log p(x) lies with probability `level`: (low, high), each [B].

        `estimate` - z * `jackknife_error` to `estimate` + `bias_allowance` +
        z * `jackknife_error`, z = 1.96 for 95 %. How often it holds is measured in
        docs/believe.md.

        Raises:
          InvalidInputError: a level that is not between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise InvalidInputError(
                f"`level` must be between 0 and 1. Received: level={level}"
            )
        deviations = statistics.NormalDist().inv_cdf(0.5 + 0.5 * level)
        reach = deviations * np.asarray(self.jackknife_error)
        return self.estimate - reach, self.estimate + self.bias_allowance + reach


def estimate_in_graph(
    latent: LatentModel,
    x: tf.Tensor,
    num_samples: tf.Tensor,
    key: tf.Tensor,
    first_row: tf.Tensor,
    y: tf.Tensor | None = None,
    masks: Sequence[UnitMask] | None = None,
    num_steps: int | tf.Tensor = refinement.NUM_STEPS,
    *,
    chunk_size: int = CHUNK_SIZE,
    jit_compile: bool = False,
    proposal: str = "encoder",
) -> LogLikelihood:
    """`log_likelihood` as graph ops: x [B, *event] to float32 [B].

    Draws are of the encoder's proposal, or of proposals that are fitted first, a block
    of images at a time (see `refinement`).

    Works through blocks of as many whole rows as have all their draws in one chunk,
    and otherwise through one row at a time and chunks of its draws. In both cases a
    chunk is one run of consecutive records of the noise. The last block is filled up
    with copies of the last row.
    """
    parameters = latent.encode(x, y)
    compiled = functools.partial(tf.function, autograph=False, jit_compile=True)
    wrap = compiled if jit_compile else lambda function: function

    @wrap
    def fit(x, y, parameters, *directions):
        return refinement.fit(latent, x, y, parameters, masks, directions)

    @wrap
    def score(x, y, parameters, proposal, num_samples, key, row):
        num_rows = tf.shape(x)[0]

        def draw(first, count):
            draws = latent.draw_noise(
                key, row, num_rows, 1, count, first_draw=first, all_draws=num_samples
            )
            if proposal is None:
                parts = latent.log_weights(
                    x, draws, y, parameters=parameters, masks=masks
                )
                return parts.log_weights[0]
            u = proposal.draw(draws, first)
            target = refinement.log_target(latent, x, u, y, parameters, masks)
            return (target - proposal.log_prob(u, num_samples))[0]

        return stream_draws(draw, num_rows, num_samples, chunk_size)

    def score_rows(first_row, x, y, parameters, proposal):
        return _in_blocks(
            lambda row, *values: score(*values, num_samples, key, first_row + row),
            (x, y, parameters, proposal),
            tf.maximum(1, chunk_size // num_samples),
        )

    if proposal == "encoder":
        return score_rows(first_row, x, y, parameters, None)
    key = noise.fold_in(key, refinement.DRAWS_STREAM)
    directions = refinement.directions(num_steps, sum(latent.latent_dims))

    def refine_and_score(row, x, y, parameters):
        found = fit(x, y, parameters, *directions)
        return score_rows(first_row + row, x, y, parameters, found)._replace(
            is_refined=tf.cast(found.is_fitted, tf.float32)
        )

    num_rows = tf.shape(x)[0]
    num_blocks = -(-num_rows // refinement.rows_at_once(latent, chunk_size))
    block = -(-num_rows // tf.maximum(num_blocks, 1))
    return _in_blocks(refine_and_score, (x, y, parameters), tf.maximum(block, 1))


def _in_blocks(function, values, block):
    """`function` of the first row's number and rows of `values`, block by block.

    Args:
      function: of an int64 scalar and nests like `values` to a LogLikelihood.
      values: nest of tensors [N, ...], the first one no None.
      block: rows at once; the last block is filled up with copies of the last row.
    """
    num_rows = tf.shape(values[0])[0]
    num_blocks = (num_rows + block - 1) // block
    outputs = [
        tf.TensorArray(tf.float32, num_blocks, element_shape=[None], infer_shape=False)
        for _ in LogLikelihood._fields
    ]

    def store_block(index, outputs):
        first = index * block
        rows = tf.minimum(first + tf.range(block), num_rows - 1)
        result = function(tf.cast(first, tf.int64), *gathered(values, rows))
        return index + 1, [o.write(index, r) for o, r in zip(outputs, result)]

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

    tail = tf.maximum(tail_size(num_samples), 1) + 1

    def one_chunk(first, peak, sums, largest):
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
        by_row = tf.cast(tf.transpose(log_weights), tf.float32)
        largest = tf.math.top_k(tf.concat([largest, by_row], axis=1), tail).values
        return first + count, higher, added, largest

    zeros = tf.zeros([num_rows], tf.float64)
    least = tf.fill([num_rows, tail], tf.constant(-np.inf))
    _, peak, sums, largest = tf.while_loop(
        lambda first, *_: first < num_samples,
        one_chunk,
        [0, zeros - np.inf, [zeros] * JACKKNIFE_POWERS, least],
    )
    total, squares = sums[:2]  # in units of the largest weight
    normalized_squares = squares / total**2
    shape = pareto_k(tf.cast(largest, tf.float64))
    result = LogLikelihood(
        estimate=peak + tf.math.log(total / tf.cast(num_samples, tf.float64)),
        standard_error=standard_error(normalized_squares, num_samples),
        effective_sample_size=1.0 / normalized_squares,
        jackknife_error=jackknife_error(sums, num_samples),
        pareto_k=shape,
        bias_allowance=bias_allowance(1.0 / total, shape, tail - 1),
        is_refined=zeros,
    )
    return LogLikelihood(*(tf.cast(part, tf.float32) for part in result))
