"""Sums over importance weights, in log space.

Log-weights are float tensors [M, K, B]: groups outside the log, draws inside,
examples last.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

Axis = int | tuple[int, ...]
GROUP_AXIS, SAMPLE_AXIS = 0, 1
DRAW_AXES = (GROUP_AXIS, SAMPLE_AXIS)
JACKKNIFE_POWERS = 10  # sums of powers of the weights in `jackknife_error`


def num_draws(log_weights: tf.Tensor, axis: Axis) -> tf.Tensor:
    """Number of draws along `axis`, in the dtype of `log_weights`."""
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    sizes = [tf.shape(log_weights)[a] for a in axes]
    return tf.cast(tf.reduce_prod(sizes), log_weights.dtype)


def mean(values: tf.Tensor, axis: Axis) -> tf.Tensor:
    """Mean along `axis`, in the dtype of `values`, of a sum in float64.

    XLA sums up one by one: a million float32 values of -1,500 were off by 7.
    """
    total = tf.reduce_mean(tf.cast(values, tf.float64), axis=axis)
    return tf.cast(total, values.dtype)


def logmeanexp(log_weights: tf.Tensor, axis: Axis) -> tf.Tensor:
    """log of the mean of exp(log_weights) along `axis`.

    Stable for any finite magnitude; draws of -inf count as weight zero and get a
    zero gradient as long as one draw is finite.

    Args:
      log_weights: float [..., N, ...].
      axis: int or tuple of ints to average over.

    Returns:
      logmeanexp: float, the shape of `log_weights` without `axis`.
    """
    peak = tf.stop_gradient(tf.reduce_max(log_weights, axis=axis, keepdims=True))
    peak = tf.where(tf.math.is_finite(peak), peak, tf.zeros_like(peak))
    weights = tf.cast(tf.exp(log_weights - peak), tf.float64)  # see `mean`
    logs = tf.cast(tf.math.log(tf.reduce_mean(weights, axis=axis)), peak.dtype)
    return logs + tf.reshape(peak, tf.shape(logs))


def normalized_weights(log_weights: tf.Tensor, axis: Axis) -> tf.Tensor:
    """Weights exp(log_weights) scaled to sum to one along `axis`.

    Args:
      log_weights: float [M, K, B].
      axis: int or tuple of ints along which the weights sum to one.

    Returns:
      weights: float [M, K, B].
    """
    peak = tf.reduce_max(log_weights, axis=axis, keepdims=True)
    weights = tf.exp(log_weights - tf.stop_gradient(peak))
    return weights / tf.reduce_sum(weights, axis=axis, keepdims=True)


def effective_sample_size(log_weights: tf.Tensor, axis: Axis = DRAW_AXES) -> tf.Tensor:
    """Kish's effective number of draws, between 1 and the number made.

    (sum w)^2 / sum w^2 = 1 / sum w~^2

    Args:
      log_weights: float [M, K, B].
      axis: int or tuple of ints, the draws.

    Returns:
      effective_sample_size: float [B] for the default `axis`.

    References:
      Kish, 1965. Survey Sampling.
    """
    squares = normalized_weights(log_weights, axis) ** 2
    return 1.0 / tf.reduce_sum(squares, axis=axis)


def standard_error(
    sum_of_squared_weights: tf.Tensor, num_samples: int | tf.Tensor
) -> tf.Tensor:
    """Delta-method standard error of log mean w, from the normalised weights.

    sqrt((K sum w~^2 - 1) / (K - 1))

    Args:
      sum_of_squared_weights: float [...], the sum of squared normalised weights.
      num_samples: number of draws K; the result is NaN for K = 1.

    Returns:
      standard_error: float [...], in nats.
    """
    count = tf.cast(num_samples, sum_of_squared_weights.dtype)
    excess = tf.maximum(count * sum_of_squared_weights - 1.0, 0.0)
    one_draw = tf.constant(math.nan, excess.dtype)
    return tf.where(
        count > 1.0, tf.sqrt(excess / tf.maximum(count - 1.0, 1.0)), one_draw
    )


def jackknife_error(
    power_sums: Sequence[tf.Tensor], num_samples: int | tf.Tensor
) -> tf.Tensor:
    """Jackknife standard error of log mean w, from sums of powers of the weights.

    sqrt((K - 1) / K * sum_k (l_k - mean l)^2),  l_k = log(1 - w~_k)

    l_k is what leaving draw k out changes. Draws can be streamed: the largest weight,
    the only one that may be more than half of the sum, enters exactly and the others
    by the Taylor series of l and l^2. What the cut series leave out is below 1e-3
    nats, and below 0.02 nats for two or three draws of about equal weight. It equals
    `standard_error` in the limit of small weights, and is larger where one draw
    carries much of the sum.

    Args:
      power_sums: list of JACKKNIFE_POWERS float64 [...], the sums over draws of w,
        w^2, ... with w scaled such that the largest is one.
      num_samples: number of draws K; the result is NaN for K = 1.

    Returns:
      jackknife_error: float64 [...], in nats; at most 36, since a sum of float64
        cannot tell what is left beside a weight that is larger by more than that.

    References:
      Efron and Stein, 1981. https://doi.org/10.1214/aos/1176345462
    """
    total = power_sums[0]
    without_largest = tf.maximum(total - 1.0, np.finfo(np.float64).eps * total)
    largest = tf.math.log(without_largest / total)
    others = [
        tf.maximum(power_sum - 1.0, 0.0) / total**power
        for power, power_sum in enumerate(power_sums, 1)
    ]
    series = [0.0, *(1.0 / power for power in range(1, JACKKNIFE_POWERS + 1))]
    squared = np.convolve(series, series)[1 : JACKKNIFE_POWERS + 1]
    mean = largest - tf.add_n([c * p for c, p in zip(series[1:], others)])
    squares = largest**2 + tf.add_n([c * p for c, p in zip(squared, others)])
    count = tf.cast(num_samples, total.dtype)
    variance = (count - 1.0) / count * tf.maximum(squares - mean**2 / count, 0.0)
    return tf.where(count > 1.0, tf.sqrt(variance), tf.constant(math.nan, total.dtype))
