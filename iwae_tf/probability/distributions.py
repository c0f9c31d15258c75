"""From the plain tensors that networks return to TFP distributions."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from iwae_tf.errors import InvalidInputError
from iwae_tf.probability.counts import NegativeBinomial, Poisson
from iwae_tf.probability.discretized_logistic import NUM_LEVELS, DiscretizedLogistic

MAX_LOG_SCALE = 10.0  # scales stay within exp(-10) and exp(10)
# log_mean and log_dispersion of counts stay within -40 and 40: the squares of their
# exponentials, which optimisers take, are finite in float32.
MAX_LOG_COUNT = 40.0
FACTORS = 14  # terms of a Bernoulli log-likelihood that share one logarithm


def split_loc_scale(parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Splits [..., 2 * D] into loc and scale, each [..., D], in float32.

    scale = exp(clip(log_scale, -10, 10)), the gradient passed straight through the
    clip: a scale that has run off its range can come back.

    Args:
      parameters: float [..., 2 * D], loc and log_scale side by side.

    Returns:
      loc: float32 [..., D].
      scale: float32 [..., D].

    Raises:
      InvalidInputError: the last axis is odd.
    """
    if (parameters.shape[-1] or 0) % 2:
        raise InvalidInputError(
            "parameters of p(x|z) and q(z|x) must be loc and log_scale concatenated on "
            f"the last axis, an even size. Received: shape={tuple(parameters.shape)}"
        )
    parameters = tf.cast(parameters, tf.float32)
    loc, log_scale = tf.split(parameters, 2, axis=-1)
    return loc, tf.exp(_bounded(log_scale, MAX_LOG_SCALE))


def _bounded(values, most):
    """`values` clipped to [-most, most], the gradient passed straight through."""
    clipped = tf.clip_by_value(values, -most, most)
    finite = tf.where(tf.math.is_finite(values), values, tf.zeros_like(values))
    zero_with_gradient = finite - tf.stop_gradient(finite)
    return tf.stop_gradient(clipped) + zero_with_gradient


def diagonal_normal(
    loc: tf.Tensor, scale: tf.Tensor, active: tf.Tensor | None = None
) -> tfd.Distribution:
    """Normal over vectors with independent elements: one stochastic layer.

    Args:
      loc: float32 [..., D].
      scale: float32 [..., D].
      active: optional bool [D]; elements that are False have log density zero, as
        if they were not there.

    Returns:
      distribution: tfd.Independent, batch shape [...], event shape [D].
    """
    elements = tfd.Normal(loc, scale)
    if active is not None:
        elements = tfd.Masked(elements, validity_mask=active)
    return tfd.Independent(elements, reinterpreted_batch_ndims=1)


def standard_normal(
    latent_dim: int, active: tf.Tensor | None = None
) -> tfd.Distribution:
    """The prior of the top stochastic layer, event shape [latent_dim]."""
    zeros = tf.zeros([latent_dim])
    return diagonal_normal(zeros, tf.ones_like(zeros), active)


@tf.custom_gradient
def bernoulli_log_prob(x: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """sum_d x * logits - softplus(logits), over the last axis.

    softplus(l) = max(l, 0) + log(1 + exp(-|l|)), and a sum of such logarithms is the
    logarithm of a product: with factors in (1, 2], a few of them share one logarithm
    without loss. All terms are added up in groups, along an axis that is not the last
    one: there XLA adds vectors, where along the last one it adds one number after the
    other. The gradient is written out, x - sigmoid(logits), so that no intermediate of
    the forward pass has to be kept.

    Args:
      x: float [..., D].
      logits: float [..., D], the same shape.

    Returns:
      log_prob: float [...].
    """
    factors = 1.0 + tf.exp(-tf.abs(logits))
    products = tf.reduce_prod(_grouped(factors, neutral=1.0), axis=-2)
    linear = _grouped(x * logits - tf.nn.relu(logits), neutral=0.0)
    terms = tf.reduce_sum(linear, axis=-2) - tf.math.log(products)

    def gradient(upstream):
        weights = upstream[..., tf.newaxis]
        return weights * logits, weights * (x - tf.sigmoid(logits))

    return tf.reduce_sum(terms, axis=-1), gradient


def _grouped(values, neutral):
    """[..., D] as [..., FACTORS, D / FACTORS], filled up with `neutral`."""
    num_groups = -(-values.shape[-1] // FACTORS)
    padding = num_groups * FACTORS - values.shape[-1]
    if padding:
        unpadded = [[0, 0]] * (values.shape.rank - 1)
        values = tf.pad(values, [*unpadded, [0, padding]], constant_values=neutral)
    shape = tf.concat([tf.shape(values)[:-1], [FACTORS, num_groups]], axis=0)
    return tf.reshape(values, shape)


class IndependentBernoulli(tfd.Independent):
    """Independent Bernoulli elements, with a log density made for many of them.

    Args:
      logits: float32 [rows, *event].
    """

    def __init__(self, logits: tf.Tensor) -> None:
        elements = tfd.Bernoulli(logits=logits, dtype=tf.float32)
        super().__init__(elements, reinterpreted_batch_ndims=logits.shape.rank - 1)

    def _log_prob(self, event):
        logits = self.distribution.logits
        shape = tf.broadcast_dynamic_shape(tf.shape(event), tf.shape(logits))
        batch = shape[: tf.size(shape) - self.event_shape.rank]
        flat = tf.concat([batch, [self.event_shape.num_elements()]], axis=0)
        event, logits = (
            tf.reshape(tf.broadcast_to(values, shape), flat)
            for values in (tf.cast(event, logits.dtype), logits)
        )
        return bernoulli_log_prob(event, logits)


def bernoulli_likelihood(logits: tf.Tensor) -> tfd.Distribution:
    """p(x|z) of binary x: independent Bernoulli, `logits` [rows, *event]."""
    return IndependentBernoulli(tf.cast(logits, tf.float32))


def normal_likelihood(parameters: tf.Tensor) -> tfd.Distribution:
    """p(x|z) of real x: loc and log_scale concatenated on the last axis."""
    return _over_event(tfd.Normal(*_loc_scale_of_rows(parameters)))


def discretized_logistic_likelihood(parameters: tf.Tensor) -> tfd.Distribution:
    """p(x|z) of 8-bit x: loc and log_scale concatenated on the last axis.

    See `discretized_logistic`; loc and scale are in units of x.
    """
    return _over_event(DiscretizedLogistic(*_loc_scale_of_rows(parameters)))


def negative_binomial(
    log_mean: tf.Tensor, log_dispersion: tf.Tensor
) -> tfd.Distribution:
    """Negative binomial counts, of variance mean + mean^2 exp(log_dispersion).

    Args:
      log_mean: float [...].
      log_dispersion: float [...]; it counts as -40 or 40 beyond these.

    Returns:
      distribution: independent scalars, batch shape [...].
    """
    log_mean, log_dispersion = (
        _bounded(values, MAX_LOG_COUNT) for values in (log_mean, log_dispersion)
    )
    return NegativeBinomial(
        tf.exp(-log_dispersion),
        logits=log_mean + log_dispersion,
        require_integer_total_count=False,
    )


def poisson(log_mean: tf.Tensor) -> tfd.Distribution:
    """Poisson counts: independent scalars, batch shape [...].

    Args:
      log_mean: float [...].
    """
    return Poisson(log_rate=_bounded(log_mean, MAX_LOG_COUNT))


def poisson_likelihood(log_mean: tf.Tensor) -> tfd.Distribution:
    """p(x|z) of counts: independent Poisson, `log_mean` [rows, *event]."""
    return _over_event(poisson(tf.cast(log_mean, tf.float32)))


def negative_binomial_likelihood(parameters: tf.Tensor) -> tfd.Distribution:
    """p(x|z) of counts: log_mean and log_dispersion concatenated on the last axis.

    See `negative_binomial`.
    """
    halves = tf.split(tf.cast(parameters, tf.float32), 2, axis=-1)
    return _over_event(negative_binomial(*halves))


def log_prob_of(distribution: tfd.Distribution, x: tf.Tensor) -> tf.Tensor:
    """log p(x|z) in float32, of a distribution in any float type: [...]."""
    dtype = distribution.dtype
    if isinstance(dtype, tf.DType) and dtype.is_floating:
        x = tf.cast(x, dtype)
    return tf.cast(distribution.log_prob(x), tf.float32)


def mean_of(distribution: tfd.Distribution) -> tf.Tensor:
    """Mean of p(x|z) in float32, batch shape and event shape.

    Raises:
      InvalidInputError: TFP knows no formula for it.
    """
    try:
        return tf.cast(distribution.mean(), tf.float32)
    except NotImplementedError as error:
        raise InvalidInputError(
            "`likelihood` must have a mean for this; training, `log_likelihood`, "
            "`encode`, `decode` and `sample` do not need it. "
            f"Received: {distribution.name}, which has none"
        ) from error


def _loc_scale_of_rows(parameters):
    """`split_loc_scale` of a decoder's output, whose first axis is not to be split."""
    if len(parameters.shape) == 1:
        raise InvalidInputError(
            "parameters of p(x|z) must be [rows, ..., 2 * D], loc and log_scale beside "
            f"each other. Received: shape={tuple(parameters.shape)}"
        )
    return split_loc_scale(parameters)


def _over_event(elements):
    """Sums log densities over all axes but the first (the rows of the decoder)."""
    event_ndims = elements.batch_shape.rank - 1
    return tfd.Independent(elements, reinterpreted_batch_ndims=event_ndims)


class Likelihood(NamedTuple):
    """A likelihood that has a name."""

    function: Callable  # from a decoder's output [rows, ...] to p(x|z)
    parameters: tuple[str, ...]  # of one element of x, side by side on the last axis
    in_unit_interval: bool = False  # whether x has to lie in [0, 1]
    num_levels: int | None = None  # that an element of x has; None: unbounded
    has_counts: bool = False  # whether x has to be 0, 1, 2, ...

    @property
    def num_parameters(self) -> int:
        return len(self.parameters)


LOC_SCALE = "loc", "log_scale"
LIKELIHOODS = {
    "bernoulli": Likelihood(bernoulli_likelihood, ("logit",), True, 2),
    "normal": Likelihood(normal_likelihood, LOC_SCALE),
    "discretized_logistic": Likelihood(
        discretized_logistic_likelihood, LOC_SCALE, True, NUM_LEVELS
    ),
    "poisson": Likelihood(poisson_likelihood, ("log_mean",), has_counts=True),
    "negative_binomial": Likelihood(
        negative_binomial_likelihood, ("log_mean", "log_dispersion"), has_counts=True
    ),
}


def description_of(function: Callable) -> Likelihood:
    """What is known of a likelihood; of one without a name that is little."""
    named = (known for known in LIKELIHOODS.values() if known.function is function)
    return next(named, Likelihood(function, ()))


def get_likelihood(
    likelihood: str | Callable[[tf.Tensor], tfd.Distribution],
) -> Callable[[tf.Tensor], tfd.Distribution]:
    """The function from a decoder's output to p(x|z).

    Args:
      likelihood: a name of `LIKELIHOODS`, or a callable from the decoder's output
        [rows, ...] to a TFP distribution with batch shape [rows] and the event shape
        of x.

    Returns:
      likelihood: the callable.

    Raises:
      InvalidInputError: a name that is not in the list, or not a callable.
    """
    if callable(likelihood):
        return likelihood
    if not isinstance(likelihood, str) or likelihood not in LIKELIHOODS:
        raise InvalidInputError(
            f"`likelihood` must be one of {', '.join(LIKELIHOODS)}, or a callable. "
            f"Received: likelihood={likelihood!r}"
        )
    return LIKELIHOODS[likelihood].function


def log_density(
    distribution: tfd.Distribution, x: tf.Tensor, takes_missing: bool = False
) -> tf.Tensor:
    """log p(x), or of the elements of `x` that are no NaN where values are missing.

    sum_d [x_d is no NaN] log p(x_d)

    A missing element is replaced by a value that its distribution can have before its
    density is taken, and masked after it: a gradient through NaN would be NaN even
    where it is multiplied by zero.

    Args:
      distribution: batch shape [rows], event of x; with missing values a
        tfd.Independent over scalars.
      x: float [rows or 1, *event].
      takes_missing: whether NaN is a missing value.

    Returns:
      log_prob: float [rows].
    """
    if not takes_missing:
        return log_prob_of(distribution, x)
    elements = distribution.distribution
    is_observed = ~tf.math.is_nan(x)
    possible = tf.stop_gradient(tf.cast(_possible(elements), x.dtype))
    filled = tf.where(is_observed, x, possible)
    terms = tf.where(is_observed, log_prob_of(elements, filled), 0.0)
    return tf.reduce_sum(terms, axis=range(1, terms.shape.rank))


def _possible(elements):
    """A value that each of the elements can have, without a draw."""
    if hasattr(elements, "parts"):  # `mixed.Columns`
        shape = elements.batch_shape_tensor()[:-1]
        values = [
            tf.broadcast_to(_possible(part), tf.concat([shape, [size]], axis=0))
            for part, size in zip(elements.parts, elements.sizes)
        ]
        return tf.concat(values, axis=-1)
    try:
        to_support = elements.experimental_default_event_space_bijector()
    except NotImplementedError:
        to_support = None
    return tf.zeros([]) if to_support is None else to_support.forward(tf.zeros([]))
