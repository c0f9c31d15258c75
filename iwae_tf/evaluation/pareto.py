"""Whether importance weights can be trusted, by ArviZ; in graphs `probability.pareto`.

References:
  Vehtari, Simpson, Gelman, Yao and Gabry, 2024 (Pareto k and its threshold).
    https://arxiv.org/abs/1507.02646
"""

import math
import warnings

import numpy as np
from arviz_stats.base import array_stats
from numpy.typing import ArrayLike

from iwae_tf.checks import check_count
from iwae_tf.probability.pareto import GOOD_K

LEAST_DRAWS = 25  # so that a fifth of them, the tail, can be fitted


def pareto_k(log_weights: ArrayLike) -> np.ndarray:
    """Shape k of the generalised Pareto fitted to the largest weights, by ArviZ's PSIS.

    Args:
      log_weights: float [K, B], K >= 25 draws of B images.

    Returns:
      pareto_k: float64 [B]; -inf where all weights of an image are equal.
    """
    return smoothed_log_weights(log_weights)[1]


def smoothed_log_weights(log_weights: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Pareto-smoothed log-weights: the largest ones replaced by fitted quantiles.

    Args:
      log_weights: float [K, B].

    Returns:
      (smoothed, pareto_k): float64 [K, B], on the scale of `log_weights`, and [B].

    Raises:
      InvalidInputError: fewer than 25 draws.
    """
    log_weights = np.asarray(log_weights, np.float64)
    check_count(len(log_weights), "num_samples", LEAST_DRAWS)
    smoothed = log_weights.copy()
    shapes = np.full(log_weights.shape[1], -np.inf)
    varies = np.ptp(log_weights, axis=0) > 1e-9
    if varies.any():
        raw = log_weights[:, varies]
        with warnings.catch_warnings():  # that k is large is what the caller reports
            warnings.simplefilter("ignore")
            # Of -log w: ArviZ takes log-likelihoods of leave-one-out.
            found, shapes[varies] = array_stats.psislw(-raw.T, axis=-1)
        found = found.T
        # ArviZ normalises; the smallest weight is not smoothed and gives the constant.
        smallest = np.argmin(raw, axis=0), np.arange(raw.shape[1])
        smoothed[:, varies] = found + (raw[smallest] - found[smallest])
    return smoothed, shapes


def trusted_k(num_samples: int) -> float:
    """The largest Pareto k at which K draws give a reliable estimate.

    min(1 - 1 / log10(K), 0.7)
    """
    return min(1.0 - 1.0 / math.log10(max(num_samples, 2)), GOOD_K)
