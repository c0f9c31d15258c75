"""log p(x) and p(y|x) of a conditional model, from its log p(x|y) for every class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation.importance_sampling import log_likelihood
from iwae_tf.evaluation.streaming import LogLikelihood
from iwae_tf.models.autoencoder import Autoencoder


class ClassLogLikelihoods(LogLikelihood):
    """Estimates of log p(x|y) for every class, each [B, num_classes], in nats.

    The fields are those of `evaluation.LogLikelihood`.
    """

    def log_marginal(self, class_probabilities: ArrayLike | None = None) -> np.ndarray:
        """log p(x) = log sum_y p(y) p(x|y).

        Args:
          class_probabilities: p(y), float [num_classes]; None: the same for each.

        Returns:
          log_marginal: float64 [B], in nats.

        Raises:
          InvalidInputError: no probabilities of so many classes.
        """
        return np.logaddexp.reduce(self._log_joint(class_probabilities), axis=1)

    def posterior(self, class_probabilities: ArrayLike | None = None) -> np.ndarray:
        """p(y|x) by Bayes' rule, p(y) p(x|y) / p(x).

        Its largest element is the class of least expected error.

        Args:
          class_probabilities: p(y), float [num_classes]; None: the same for each.

        Returns:
          posterior: float64 [B, num_classes].

        Raises:
          InvalidInputError: no probabilities of so many classes.
        """
        log_joint = self._log_joint(class_probabilities)
        return np.exp(log_joint - np.logaddexp.reduce(log_joint, axis=1, keepdims=True))

    def _log_joint(self, class_probabilities):
        """log p(y) + log p(x|y), float64 [B, num_classes]."""
        num_classes = self.estimate.shape[1]
        if class_probabilities is None:
            class_probabilities = np.full(num_classes, 1.0 / num_classes)
        shares = np.asarray(class_probabilities, np.float64)
        fits = shares.shape == (num_classes,) and np.all(shares >= 0)
        if not fits or not abs(shares.sum() - 1.0) < 1e-6:
            raise InvalidInputError(
                f"`class_probabilities` must be {num_classes} numbers >= 0 that add up "
                f"to 1. Received: shape={shares.shape}, sum={shares.sum():g}"
            )
        with np.errstate(divide="ignore"):  # of a class that does not occur
            return np.log(shares) + self.estimate.astype(np.float64)


def class_log_likelihoods(
    model: Autoencoder,
    x: ArrayLike | tf.Tensor,
    num_samples: int = 5000,
    seed: Sequence[int] = (0, 0),
    **kwargs: Any,
) -> ClassLogLikelihoods:
    """Estimates log p(x|y) of each image for every class y.

    All classes of an image have the same noise, so that differences between classes
    are less noisy than the values.

    Args:
      model: a built conditional model.
      x: float [B, *event], scored as given.
      num_samples: K, draws an image and class.
      seed: pair of integers.
      **kwargs: of `log_likelihood`, such as `chunk_size` and `first_row`.

    Returns:
      ClassLogLikelihoods of float32 arrays [B, num_classes].

    Raises:
      InvalidInputError: a model without classes, or as `log_likelihood`.
    """
    if model.num_classes is None:
        raise InvalidInputError(
            "`model` must be conditional, with `num_classes`. Received: a model without"
        )
    by_class = [
        log_likelihood(model, x, num_samples, seed, labels=label, **kwargs)
        for label in range(model.num_classes)
    ]
    return ClassLogLikelihoods(*(np.stack(parts, axis=1) for parts in zip(*by_class)))
