"""How good q(z|x) is as an importance-sampling proposal, image by image."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from scipy import special

from iwae_tf.checks import check_count
from iwae_tf.diagnostics.draws import log_weight_batches
from iwae_tf.evaluation.pareto import LEAST_DRAWS, pareto_k


class ProposalQuality(NamedTuple):
    """Of each image: NumPy arrays [N]."""

    estimate: np.ndarray  # of log p(x), in nats
    effective_sample_size: np.ndarray
    pareto_k: np.ndarray  # shape of the tail of the weights; 1 and above: no mean
    largest_weight: np.ndarray  # share of the largest weight in the sum


def proposal_quality(
    model: keras.Model,
    x: np.ndarray | tf.Tensor,
    num_samples: int = 5000,
    seed: Sequence[int] = (0, 0),
    *,
    on_progress: Callable[[int], object] | None = None,
) -> ProposalQuality:
    """Effective sample size and Pareto k of the importance weights of each image.

    Args:
      model: a built model of this package.
      x: float [N, *event].
      num_samples: K, draws an image, at least 25.
      seed: pair of integers.
      on_progress: optional function of the number of images just finished.

    Returns:
      ProposalQuality.

    Raises:
      InvalidInputError: a bad argument.
    """
    num_samples = check_count(num_samples, "num_samples", LEAST_DRAWS)
    parts = []
    for log_weights in log_weight_batches(model, x, num_samples, seed, on_progress):
        log_weights = log_weights.astype(np.float64)
        weights = special.softmax(log_weights, axis=0)
        total = special.logsumexp(log_weights, axis=0)
        parts.append(
            ProposalQuality(
                estimate=total - math.log(num_samples),
                effective_sample_size=1.0 / np.sum(weights**2, axis=0),
                pareto_k=pareto_k(log_weights),
                largest_weight=weights.max(axis=0),
            )
        )
    return ProposalQuality(*(np.concatenate(part) for part in zip(*parts)))
