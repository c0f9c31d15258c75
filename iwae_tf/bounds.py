"""Bounds on log p(x), as pure functions of log-weights, and as objectives.

With w[m, k] = p(x, z[m, k]) / q(z[m, k] | x), M groups outside the log and K draws
inside it. Every function takes `log_weights` [M, K, B] and returns one value per
example, in nats, higher is better.

A new bound needs a function and an `Objective` in this file, and a class in `models`
that names the objective.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import tensorflow as tf

from iwae_tf.checks import is_number
from iwae_tf.errors import InvalidInputError
from iwae_tf.probability.log_weights import (
    DRAW_AXES,
    GROUP_AXIS,
    SAMPLE_AXIS,
    logmeanexp,
    mean,
    normalized_weights,
    num_draws,
)


def elbo(log_weights: tf.Tensor) -> tf.Tensor:
    """Evidence lower bound (ELBO), one value per example.

    mean_{m,k} log_weights[m, k, b]

    Args:
      log_weights: float [M, K, B].

    Returns:
      bound: float [B].

    References:
      Kingma and Welling, 2014. https://arxiv.org/abs/1312.6114
    """
    return mean(_check(log_weights), axis=DRAW_AXES)


def iwae(log_weights: tf.Tensor) -> tf.Tensor:
    """Importance-weighted (IWAE) bound over all M*K draws, one value per example.

    log mean_{m,k} exp(log_weights[m, k, b])

    Args:
      log_weights: float [M, K, B].

    Returns:
      bound: float [B].

    References:
      Burda, Grosse and Salakhutdinov, 2016. https://arxiv.org/abs/1509.00519
    """
    return logmeanexp(_check(log_weights), axis=DRAW_AXES)


def miwae(log_weights: tf.Tensor) -> tf.Tensor:
    """Multiply importance-weighted (MIWAE) bound, one value per example.

    mean_m log mean_k exp(log_weights[m, k, b])

    Args:
      log_weights: float [M, K, B].

    Returns:
      bound: float [B].

    References:
      Rainforth et al., 2018. https://arxiv.org/abs/1802.04537
    """
    groups = logmeanexp(_check(log_weights), axis=SAMPLE_AXIS)
    return mean(groups, axis=GROUP_AXIS)


def ciwae(log_weights: tf.Tensor, beta: float) -> tf.Tensor:
    """Combination importance-weighted (CIWAE) bound, one value per example.

    beta * elbo + (1 - beta) * iwae, over all M*K draws

    Args:
      log_weights: float [M, K, B].
      beta: float in [0, 1]; 1 is the ELBO, 0 the IWAE bound.

    Returns:
      bound: float [B].

    Raises:
      InvalidInputError: `beta` is outside [0, 1].

    References:
      Rainforth et al., 2018. https://arxiv.org/abs/1802.04537
    """
    check_beta(beta)
    # At an end the other bound has weight zero: 0 * -inf must not spoil it.
    if beta == 0.0:
        return iwae(log_weights)
    if beta == 1.0:
        return elbo(log_weights)
    return beta * elbo(log_weights) + (1.0 - beta) * iwae(log_weights)


def renyi(log_weights: tf.Tensor, alpha: float) -> tf.Tensor:
    """Variational Renyi bound over all M*K draws, one value per example.

    1 / (1 - alpha) * log mean_{m,k} exp((1 - alpha) * log_weights[m, k, b])

    alpha = 1 is the ELBO, alpha = 0 the IWAE bound; near 1 the value is computed
    from expm1 and log1p, so that it does not lose its digits.

    Args:
      log_weights: float [M, K, B].
      alpha: any real number.

    Returns:
      bound: float [B]; a lower bound on log p(x) in expectation for alpha >= 0.

    Raises:
      InvalidInputError: `alpha` is not a finite number.

    References:
      Li and Turner, 2016. https://arxiv.org/abs/1602.02311
    """
    log_weights = _check(log_weights)
    if not is_number(alpha) or not math.isfinite(alpha):
        raise InvalidInputError(
            f"`alpha` must be a finite number. Received: alpha={alpha!r}"
        )
    if alpha == 1:
        return elbo(log_weights)
    power = tf.constant(1.0 - alpha, log_weights.dtype)
    peak = tf.reduce_max(log_weights, axis=DRAW_AXES)
    peak = tf.where(tf.math.is_finite(peak), peak, tf.zeros_like(peak))
    peak = tf.stop_gradient(peak)
    powers = power * (log_weights - peak)
    is_small = tf.reduce_max(tf.abs(powers), axis=DRAW_AXES) < 0.5
    zeros = tf.zeros_like(powers)
    small = tf.where(is_small, powers, zeros)
    by_log1p = tf.math.log1p(tf.reduce_mean(tf.math.expm1(small), axis=DRAW_AXES))
    by_logmeanexp = logmeanexp(tf.where(is_small, zeros, powers), axis=DRAW_AXES)
    return peak + tf.where(is_small, by_log1p, by_logmeanexp) / power


class Bound(NamedTuple):
    """What each half of the model maximises; both [B]."""

    generative: tf.Tensor
    inference: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Objective:
    """One bound for the decoder and one for the encoder.

    `objective(log_weights)` returns a `Bound`. Where both halves maximise the same
    bound its two fields are one tensor. A field of the dataclass, such as `beta`, is an
    argument of the model and a key of configs.
    """

    name: ClassVar[str] = ""  # of the model, in configs
    formula: ClassVar[str] = "a bound"  # {m} for M, {k} for K, {0} for this object
    source: ClassVar[str] = ""  # authors, year and address of the paper
    reported: ClassVar[str] = ""  # "elbo" or "iwae", where `bound` is one of them
    has_groups: ClassVar[bool] = False  # whether draws outside the log differ
    draws: ClassVar[tuple[int, int]] = (1, 50)  # M and K unless they are given

    def __call__(self, log_weights: tf.Tensor) -> Bound:
        """Bound from float [M, K, B]."""
        bound = self.bound(log_weights)
        return Bound(generative=bound, inference=bound)

    def bound(self, log_weights: tf.Tensor) -> tf.Tensor:
        """The bound that is reported: the decoder's. float [B]."""
        raise NotImplementedError

    def describe(self, num_groups: object, num_samples: object) -> str:
        """What is maximised, in words and numbers."""
        return self.formula.format(self, m=num_groups, k=num_samples)

    def generative_share(self, log_weights: tf.Tensor) -> tf.Tensor | None:
        """What a draw weighs in the decoder's bound, relative to the encoder's.

        (d generative / d log_weights) / (d inference / d log_weights)

        Returns:
          share: float, broadcasts to [M, K, B] and is bounded; None where there is no
            bounded one, and the two gradients are then taken one after the other.
        """
        return None

    def pathwise_weights(self, log_weights: tf.Tensor) -> tf.Tensor:
        """Weights v[M, K, B] of the doubly reparameterized (DReG) encoder gradient.

        sum_{m,k} v[m, k] * (d log w[m, k] / d z[m, k]) * (d z[m, k] / d encoder)

        with the parameters of q stopped in log w.

        Raises:
          InvalidInputError: the bound does not define them.

        References:
          Tucker et al., 2019. https://arxiv.org/abs/1810.04152
        """
        raise InvalidInputError(
            "`gradient_estimator` must not be dreg for a bound without "
            f"pathwise_weights, such as {type(self).__name__}. "
            "Received: gradient_estimator='dreg'"
        )


@dataclasses.dataclass(frozen=True)
class ELBO(Objective):
    """Kingma and Welling's evidence lower bound.

    With `free_bits`, the gradients are those of log p(x|z) minus the sum over latent
    units of max(free_bits, the unit's KL), in nats, each KL a mean over the batch
    (Kingma et al. 2016, equation 15). The bound itself stays what it is.
    """

    free_bits: float | None = None

    name = "vae"
    formula = "mean log w, K={k}"
    source = "Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114"
    reported = "elbo"
    draws = (1, 1)

    def __post_init__(self) -> None:
        nats = self.free_bits
        if nats is not None and not (is_number(nats) and 0 < nats < math.inf):
            raise InvalidInputError(
                "`free_bits` must be a positive number of nats, or None. "
                f"Received: free_bits={nats!r}"
            )

    def describe(self, num_groups: object, num_samples: object) -> str:
        free = f", {self.free_bits:g} nats a unit free" if self.free_bits else ""
        return super().describe(num_groups, num_samples) + free

    def bound(self, log_weights: tf.Tensor) -> tf.Tensor:
        return elbo(log_weights)

    def pathwise_weights(self, log_weights: tf.Tensor) -> tf.Tensor:
        return tf.ones_like(log_weights) / num_draws(log_weights, DRAW_AXES)


@dataclasses.dataclass(frozen=True)
class ImportanceWeighted(Objective):
    """Burda et al.'s bound."""

    name = "iwae"
    formula = "log mean w, K={k}"
    source = "Burda, Grosse and Salakhutdinov, 2016, https://arxiv.org/abs/1509.00519"
    reported = "iwae"

    def bound(self, log_weights: tf.Tensor) -> tf.Tensor:
        return iwae(log_weights)

    def pathwise_weights(self, log_weights: tf.Tensor) -> tf.Tensor:
        return normalized_weights(log_weights, axis=DRAW_AXES) ** 2


@dataclasses.dataclass(frozen=True)
class MultiplyImportanceWeighted(Objective):
    """Rainforth et al.'s average of M bounds of K draws."""

    name = "miwae"
    formula = "mean over M of log mean over K of w, M={m}, K={k}"
    source = "Rainforth et al., 2018, https://arxiv.org/abs/1802.04537"
    has_groups = True
    draws = (8, 8)

    def bound(self, log_weights: tf.Tensor) -> tf.Tensor:
        return miwae(log_weights)

    def pathwise_weights(self, log_weights: tf.Tensor) -> tf.Tensor:
        groups = num_draws(log_weights, GROUP_AXIS)
        return normalized_weights(log_weights, axis=SAMPLE_AXIS) ** 2 / groups


@dataclasses.dataclass(frozen=True)
class CombinationImportanceWeighted(Objective):
    """Rainforth et al.'s convex combination of the ELBO and the IWAE bound."""

    beta: float = 0.5

    name = "ciwae"
    formula = "{0.beta:g} mean log w + {0.rest:g} log mean w, K={k}"
    source = "Rainforth et al., 2018, https://arxiv.org/abs/1802.04537"
    draws = (1, 64)

    def __post_init__(self) -> None:
        check_beta(self.beta)

    @property
    def rest(self) -> float:
        """What is left for the IWAE bound, 1 - beta."""
        return 1.0 - self.beta

    def bound(self, log_weights: tf.Tensor) -> tf.Tensor:
        return ciwae(log_weights, self.beta)

    def pathwise_weights(self, log_weights: tf.Tensor) -> tf.Tensor:
        plain = ELBO().pathwise_weights(log_weights)
        pooled = ImportanceWeighted().pathwise_weights(log_weights)
        return self.beta * plain + self.rest * pooled


@dataclasses.dataclass(frozen=True)
class PartiallyImportanceWeighted(MultiplyImportanceWeighted):
    """Rainforth et al.'s split: IWAE over all draws for p, MIWAE for q."""

    name = "piwae"
    formula = (
        "log mean w (decoder) and mean over M of log mean over K of w (encoder), "
        "M={m}, K={k}"
    )
    reported = "iwae"

    def __call__(self, log_weights: tf.Tensor) -> Bound:
        return Bound(generative=iwae(log_weights), inference=miwae(log_weights))

    def bound(self, log_weights: tf.Tensor) -> tf.Tensor:
        return iwae(log_weights)

    def generative_share(self, log_weights: tf.Tensor) -> tf.Tensor:
        # Of the whole weight, what the draw's group has, times M: in [0, M].
        group = tf.reduce_logsumexp(log_weights, axis=SAMPLE_AXIS, keepdims=True)
        total = tf.reduce_logsumexp(group, axis=GROUP_AXIS, keepdims=True)
        return num_draws(log_weights, GROUP_AXIS) * tf.exp(group - total)


OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (
        ELBO,
        ImportanceWeighted,
        MultiplyImportanceWeighted,
        CombinationImportanceWeighted,
        PartiallyImportanceWeighted,
    )
}


def check_beta(beta: object) -> None:
    """Raises InvalidInputError unless `beta` is a number in [0, 1]."""
    if not is_number(beta) or not 0 <= beta <= 1:
        raise InvalidInputError(f"`beta` must be in [0, 1]. Received: beta={beta!r}")


def _check(log_weights: tf.Tensor) -> tf.Tensor:
    """`log_weights` as a float tensor of rank three."""
    log_weights = tf.convert_to_tensor(log_weights)
    if log_weights.shape.rank not in (None, 3) or not log_weights.dtype.is_floating:
        raise InvalidInputError(
            "`log_weights` must be a float tensor [num_groups, num_samples, batch]. "
            f"Received: shape={log_weights.shape}, dtype={log_weights.dtype.name}"
        )
    return log_weights
