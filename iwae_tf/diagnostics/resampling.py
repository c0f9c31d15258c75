"""Bias and error of a bound by leaving draws out.

References:
  Nowozin, 2018. https://openreview.net/forum?id=HyZoi-WRb
  Efron and Stein, 1981. https://doi.org/10.1214/aos/1176345462
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from scipy import special

from iwae_tf.errors import InvalidInputError

MOST_BLOCKS = 10  # that are left out, one or two at a time


def jackknife(
    bound: Callable[[tf.Tensor], tf.Tensor], log_weights: ArrayLike, order: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Bound with its bias reduced by the generalised jackknife (JVI).

    sum_{j=0}^m c_j * (mean of the bound over all ways to leave j of n blocks out)
    c_j = (-1)^j (n - j)^m / ((m - j)! j!)

    which removes the terms 1/K, ..., 1/K^m of the bias. The n blocks are single draws
    for up to 10 of them, and above that n is the largest divisor of K up to 10. Where
    there is none, the last few draws are left aside, so that there are ten blocks.

    Args:
      bound: function of log-weights [1, K, B] to [B], such as `bounds.iwae`.
      log_weights: float [1, K, B].
      order: m, 1 or 2.

    Returns:
      (corrected, standard_error): float64 NumPy arrays [B]; the error is the
        jackknife's of the bound itself. NaN where K is not larger than m.

    References:
      Nowozin, 2018. https://openreview.net/forum?id=HyZoi-WRb
    """
    if order not in (1, 2):
        raise InvalidInputError(f"`order` must be 1 or 2. Received: order={order!r}")
    log_weights = np.asarray(log_weights, np.float64)
    _, num_draws, num_rows = log_weights.shape
    if num_draws <= order:
        return np.full(num_rows, np.nan), np.full(num_rows, np.nan)
    divisors = [n for n in range(order + 1, MOST_BLOCKS + 1) if num_draws % n == 0]
    count = divisors[-1] if divisors else MOST_BLOCKS
    used = log_weights[0, : num_draws - num_draws % count]
    blocks = used.reshape(count, -1, num_rows)
    corrected = np.zeros(num_rows)
    for j in range(order + 1):
        values = np.stack(
            [
                evaluate_bound(bound, np.delete(blocks, list(which), axis=0))
                for which in itertools.combinations(range(count), j)
            ]
        )
        size = (count - j) ** order / (math.factorial(order - j) * math.factorial(j))
        corrected += (-1) ** j * size * values.mean(axis=0)
        if j == 1:
            error = np.sqrt((count - 1) * values.var(axis=0))
    return corrected, error


def evaluate_bound(
    bound: Callable[[tf.Tensor], tf.Tensor], blocks: np.ndarray
) -> np.ndarray:
    """`bound` over all draws of blocks [n, K / n, B]: float64 [B]."""
    draws = blocks.reshape(1, -1, blocks.shape[-1])
    return bound(tf.constant(draws, tf.float64)).numpy()


def leave_one_out(log_weights: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Jackknife of the log mean of exp(log_weights) over single draws.

    Args:
      log_weights: float [K, B].

    Returns:
      (bias, standard_error): float64 NumPy arrays [B], NaN for K = 1; the estimate
        minus `bias` has none of order 1 / K.
    """
    log_weights = np.asarray(log_weights, np.float64)
    count = len(log_weights)
    if count == 1:
        unknown = np.full(log_weights.shape[1], np.nan)
        return unknown, unknown
    shares = special.softmax(log_weights, axis=0)
    left_out = np.log1p(-np.minimum(shares, 1.0 - np.finfo(np.float64).eps))
    bias = (count - 1) * (math.log(count / (count - 1)) + left_out.mean(axis=0))
    return bias, np.sqrt((count - 1) * left_out.var(axis=0))
