"""The tail of importance weights, as TensorFlow ops.

The shape k of a generalised Pareto distribution fitted to the largest weights says how
far they can be trusted: the weights have a finite variance below 0.5, the estimate of
their mean is reliable below 0.7, and from 1 on the fitted tail has no mean at all. k
knows nothing of modes that no draw visited.

References:
  Vehtari, Simpson, Gelman, Yao and Gabry, 2024. https://arxiv.org/abs/1507.02646
  Zhang and Stephens, 2009 (the fit). https://doi.org/10.1198/tech.2009.08017
  Hill, 1975. https://doi.org/10.1214/aos/1176343247
"""

import math

import tensorflow as tf

GOOD_K = 0.7  # up to which an estimate can be relied on
LARGEST_K = 0.95  # in `bias_allowance`; at 1 the fitted tail has no mean
FLAT = 1e-3  # nats between the ends of a tail that is none
RELATIVE_FLAT = 2.0**-20  # or of the log-weights: eight steps of float32 and more
WIDE = 700.0  # nats between the ends of a tail whose small weights are zero in float64
LEAST_TAIL = 5  # weights; a fifth of 25 draws
PRIOR_WEIGHTS, PRIOR_K = 10.0, 0.5  # what steadies the fit of a short tail


def tail_size(num_samples: tf.Tensor) -> tf.Tensor:
    """How many of K weights are the tail: min(K / 5, 3 sqrt(K)), rounded down.

    Args:
      num_samples: K, integer scalar.

    Returns:
      tail_size: int32 scalar.
    """
    count = tf.cast(num_samples, tf.float64)
    return tf.cast(tf.floor(tf.minimum(count / 5.0, 3.0 * tf.sqrt(count))), tf.int32)


def pareto_k(largest: tf.Tensor) -> tf.Tensor:
    """Shape k of the generalised Pareto fitted to the largest weights, as in ArviZ.

    Of a tail wider than float64, in which ArviZ finds a small k, it is Hill's estimate,
    the mean of log w less where the tail begins: a large k fits the same.

    Args:
      largest: log-weights float64 [B, T + 1], the largest ones in falling order:
        `tail_size` of them, T, at least 1, and one more, where the tail begins.

    Returns:
      pareto_k: float64 [B]. NaN for fewer than 5 weights, -inf where their logarithms
      differ by less than 0.001 or a millionth of them, which rounding could do.
    """
    weights = tf.exp(tf.reverse(largest - largest[:, :1], axis=[1]))
    flat = tf.maximum(RELATIVE_FLAT * tf.abs(largest[:, 0]), FLAT)
    is_flat = largest[:, 0] - largest[:, -2] < flat
    excess = weights[:, 1:] - weights[:, :1]
    excess = tf.where(is_flat[:, tf.newaxis], tf.ones_like(excess), excess)
    size = tf.shape(excess)[1]
    count = tf.cast(size, tf.float64)
    quarter = tf.maximum(tf.cast(tf.floor(count / 4.0 + 0.5), tf.int32), 1) - 1
    num_points = 30 + tf.cast(tf.floor(tf.sqrt(count)), tf.int32)
    points = tf.range(1, num_points + 1)
    ratio = tf.cast(num_points, tf.float64) / (tf.cast(points, tf.float64) - 0.5)
    # Rates b = k / sigma on a grid, [B, points], and the mean of them under their
    # profile likelihood.
    # The lowest quarter may be where the tail begins, once they are rounded.
    lowest = tf.reduce_min(tf.where(excess > 0.0, excess, math.inf), axis=1)
    scale = 3.0 * tf.maximum(excess[:, quarter], lowest)[:, tf.newaxis]
    rates = (1.0 - tf.sqrt(ratio)) / scale + 1.0 / excess[:, -1:]

    def shapes(rates):
        products = rates[..., tf.newaxis] * excess[:, tf.newaxis]
        return tf.reduce_mean(tf.math.log1p(-products), axis=-1)

    by_rate = shapes(rates)
    likelihood = count * (tf.math.log(-rates / by_rate) - by_rate - 1.0)
    posterior = tf.nn.softmax(likelihood, axis=1)
    posterior *= tf.cast(posterior >= 10.0 * 2.0**-52, tf.float64)
    rate = tf.reduce_sum(rates * posterior, axis=1) / tf.reduce_sum(posterior, axis=1)
    k = shapes(rate[:, tf.newaxis])[:, 0]
    logs = largest[:, :-1] - largest[:, -1:]
    is_wide = (logs[:, 0] > WIDE) & tf.math.is_finite(logs[:, 0])
    k = tf.where(is_wide, tf.reduce_mean(logs, axis=1), k)
    k = (count * k + PRIOR_WEIGHTS * PRIOR_K) / (count + PRIOR_WEIGHTS)
    k = tf.where(is_flat, tf.constant(-math.inf, tf.float64), k)
    return tf.where(size < LEAST_TAIL, tf.constant(math.nan, tf.float64), k)


def bias_allowance(
    largest_weight: tf.Tensor, k: tf.Tensor, tail_size: tf.Tensor
) -> tf.Tensor:
    """What weights above the largest one may add to a log mean: log(1 + w / (1 - k')).

    Of K further draws one lies above it on average. Its mean is 1 / (1 - k) times the
    largest weight, if the tail is a Pareto distribution of shape k. k' is k and two of
    its standard errors, (1 + k) / sqrt(T), and at most 0.95.

    Args:
      largest_weight: w, its share in the sum of the weights, float64 [B].
      k: float64 [B].
      tail_size: T, the weights that k was fitted to.

    Returns:
      bias_allowance: float64 [B], in nats; NaN where k is NaN.
    """
    error = tf.maximum(1.0 + k, 0.0) / tf.sqrt(tf.cast(tail_size, tf.float64))
    highest = tf.minimum(k + 2.0 * error, LARGEST_K)
    return tf.math.log1p(largest_weight / (1.0 - highest))
