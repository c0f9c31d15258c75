"""Whether importance weights can be trusted; in graphs `probability.pareto`.

References:
  Vehtari, Simpson, Gelman, Yao and Gabry, 2024 (Pareto k and its threshold).
    https://arxiv.org/abs/1507.02646
"""

import math
import warnings

import numpy as np
import tensorflow as tf
from arviz_stats.base import array_stats
from numpy.typing import ArrayLike

from iwae_tf.checks import check_count
from iwae_tf.probability import pareto
from iwae_tf.probability.pareto import GOOD_K

LEAST_DRAWS = 25  # so that a fifth of them, the tail, can be fitted


def pareto_k(log_weights: ArrayLike) -> np.ndarray:
    """Shape k of the generalised Pareto fitted to the largest weights, as in ArviZ.

    Args:
      log_weights: float [K, B], K >= 25 draws of B images.

    Returns:
      pareto_k: float64 [B]; -inf where the weights of the tail are equal.

    Raises:
      InvalidInputError: fewer than 25 draws.
    """
    log_weights = np.asarray(log_weights, np.float64)
    count = check_count(len(log_weights), "num_samples", LEAST_DRAWS)
    size = int(pareto.tail_size(tf.constant(count)))
    largest = -np.sort(-log_weights, axis=0)[: size + 1].T
    return pareto.pareto_k(tf.constant(largest)).numpy()


def smoothed_log_weights(log_weights: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Pareto-smoothed log-weights: the largest ones replaced by fitted quantiles.

    Args:
      log_weights: float [K, B].

    Returns:
      (smoothed, pareto_k): float64 [K, B], on the scale of `log_weights`, and [B].

    Raises:
      InvalidInputError: fewer than 25 draws.
    """
    log_weights, shapes = np.asarray(log_weights, np.float64), pareto_k(log_weights)
    smoothed, varies = log_weights.copy(), shapes > -np.inf
    if varies.any():
        raw = log_weights[:, varies]
        with warnings.catch_warnings():  # that k is large is what the caller reports
            warnings.simplefilter("ignore")
            # Of -log w: ArviZ takes log-likelihoods of leave-one-out.
            found = array_stats.psislw(-raw.T, axis=-1)[0].T
        # ArviZ normalises; the smallest weight is not smoothed and gives the constant.
        smallest = np.argmin(raw, axis=0), np.arange(raw.shape[1])
        found += raw[smallest] - found[smallest]
        # It has NaN where rounding has made a quarter of the tail equal.
        smoothed[:, varies] = np.where(np.isfinite(found), found, raw)
    return smoothed, shapes


def trusted_k(num_samples: int) -> float:
    """The largest Pareto k at which K draws give a reliable estimate.

    min(1 - 1 / log10(K), 0.7)
    """
    return min(1.0 - 1.0 / math.log10(max(num_samples, 2)), GOOD_K)
