"""p(x|z) of a table: a family of its own for each column, in raw units.

With loc and scale of a column's training values, and u the decoder's numbers:

  normal             N(loc + scale u1, (scale s)^2),  s = exp(u2) + 0.01
  student            Student t of the same loc and scale, 2 + softplus(u3) degrees
  lognormal          log x is normal, of loc and scale of the training logarithms
  bernoulli          logit of the training mean + u
  categorical        logits u, one a category
  poisson            log of the training mean + u
  negative_binomial  the mean as poisson; variance = mean + mean^2 exp(u2)

Densities are those of x itself, so the Jacobian of the standardising is in them. The
floor of 0.01 standard deviations keeps a column of few values from a density without
bound.
"""

import math
from itertools import groupby

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from iwae_tf.errors import InvalidInputError
from iwae_tf.probability.distributions import (
    mean_of,
    negative_binomial,
    poisson,
    split_loc_scale,
)
from iwae_tf.schema import Column, Schema

SCALE_FLOOR = 0.01  # of p(x|z), in standard deviations of the column
FIRST_LOG_DEGREES = 2.0  # where the degrees of freedom start: 2 + softplus(2)
SHARE = 1e-3  # the training mean of a binary column is kept so far from 0 and 1
POSITIVE = 1e-6  # the same of counts


class Columns(tfd.Distribution):
    """Independent scalars side by side, of several families.

    Args:
      parts: list of distributions with batch shape [rows, columns of the part].
      sizes: columns of each part.
    """

    def __init__(self, parts: list[tfd.Distribution], sizes: list[int]) -> None:
        self.parts, self.sizes = parts, sizes
        super().__init__(
            dtype=tf.float32,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters={"parts": parts, "sizes": sizes},
        )

    def _batch_shape(self):
        return self.parts[0].batch_shape[:-1].concatenate(sum(self.sizes))

    def _batch_shape_tensor(self):
        rows = self.parts[0].batch_shape_tensor()[:-1]
        return tf.concat([rows, [sum(self.sizes)]], axis=0)

    def _event_shape(self):
        return tf.TensorShape([])

    def _event_shape_tensor(self):
        return tf.constant([], tf.int32)

    def _log_prob(self, x):
        values = zip(self.parts, tf.split(x, self.sizes, axis=-1))
        return tf.concat([part.log_prob(value) for part, value in values], axis=-1)

    def _sample_n(self, n, seed=None):
        seed = tfp.random.sanitize_seed(seed)  # of an integer, or of None
        seeds = tf.unstack(
            tf.random.experimental.stateless_split(seed, len(self.parts))
        )
        drawn = [part.sample(n, seed=s) for part, s in zip(self.parts, seeds)]
        return tf.concat(drawn, axis=-1)

    def _mean(self):
        """Means; of categories, which have none, the most probable code."""
        means = (p.mode() if is_categorical(p) else p.mean() for p in self.parts)
        return tf.concat([*means], axis=-1)


def is_categorical(part: tfd.Distribution) -> bool:
    """Whether values of a part are codes, which have no mean."""
    return isinstance(part, tfd.Categorical)


def mixture_mean(distribution: tfd.Distribution, weights: tf.Tensor) -> tf.Tensor:
    """Mean of sum_k weights[k] p(x|z_k); of categories the most probable code.

    Args:
      distribution: p(x|z) with batch shape [K].
      weights: float [K], which add up to one.

    Returns:
      mean: float [*event].
    """
    columns = getattr(distribution, "distribution", None)
    if not isinstance(columns, Columns):
        return _weighted_sum(weights, mean_of(distribution))
    means = []
    for part in columns.parts:
        if is_categorical(part):
            shares = _weighted_sum(weights, part.probs_parameter())
            means.append(tf.cast(tf.argmax(shares, axis=-1), tf.float32))
        else:
            means.append(_weighted_sum(weights, part.mean()))
    return tf.concat(means, axis=-1)


def _weighted_sum(weights: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """sum_k weights[k] values[k]; of a weight of zero, a value may be infinite."""
    counts = tf.reshape(weights > 0, [-1] + [1] * (values.shape.rank - 1))
    counted = tf.where(counts, values, tf.zeros_like(values))
    return tf.tensordot(weights, counted, axes=1)


class MixedLikelihood:
    """From a decoder's output [rows, schema.num_parameters] to p(x|z) of a table.

    Neighbouring columns of one kind are one part, whose parameters lie side by side:
    all first ones, then all second ones. Each categorical column is a part.

    Args:
      schema: Schema.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        places = enumerate(schema.columns)
        runs = groupby(places, lambda c: (c[1].kind, c[1].categories and c[0]))
        self._runs = [[column for _, column in run] for _, run in runs]

    def __call__(self, parameters: tf.Tensor) -> tfd.Distribution:
        """p(x|z): batch shape [rows], event shape [columns]."""
        if parameters.shape[-1] != self.schema.num_parameters:
            raise InvalidInputError(
                "`decoder` must return schema.num_parameters = "
                f"{self.schema.num_parameters} values in each row for "
                f"likelihood='mixed'. Received: shape={tuple(parameters.shape)}"
            )
        sizes = [sum(column.num_parameters for column in run) for run in self._runs]
        outputs = tf.split(tf.cast(parameters, tf.float32), sizes, axis=-1)
        parts = [_part(run, output) for run, output in zip(self._runs, outputs)]
        columns = Columns(parts, [len(run) for run in self._runs])
        return tfd.Independent(columns, reinterpreted_batch_ndims=1)

    def supports(self, x: tf.Tensor) -> tf.Tensor:
        """Whether each element is a value that its column can have: bool, as x."""
        return self._by_run(_is_supported, x)

    def features(self, x: tf.Tensor) -> tf.Tensor:
        """What the encoder is given: standardised numbers, one-hot categories.

        NaN becomes zero in all of its features.

        Args:
          x: float32 [batch, columns].

        Returns:
          features: float32 [batch, width].
        """
        return self._by_run(_features, x)

    def _by_run(self, function, x):
        """What a function makes of each run and its columns of x, side by side."""
        values = tf.split(x, [len(run) for run in self._runs], axis=-1)
        return tf.concat(list(map(function, self._runs, values)), axis=-1)


def _statistics(run: list[Column]) -> tuple[tf.Tensor, tf.Tensor]:
    loc, scale = ([getattr(c, name) for c in run] for name in ("loc", "scale"))
    return tf.constant(loc, tf.float32), tf.constant(scale, tf.float32)


def _part(run: list[Column], outputs: tf.Tensor) -> tfd.Distribution:
    """The distribution of columns of one kind: batch shape [rows, columns]."""
    kind, count = run[0].kind, len(run)
    if kind == "categorical":
        return tfd.Categorical(outputs[..., tf.newaxis, :], dtype=tf.float32)
    loc, scale = _statistics(run)
    if kind == "bernoulli":
        share = tf.clip_by_value(loc, SHARE, 1.0 - SHARE)
        logits = outputs + tf.math.log(share / (1.0 - share))
        return tfd.Bernoulli(logits=logits, dtype=tf.float32)
    if kind in ("poisson", "negative_binomial"):
        log_mean = outputs[..., :count] + tf.math.log(tf.maximum(loc, POSITIVE))
        if kind == "poisson":
            return poisson(log_mean)
        return negative_binomial(log_mean, outputs[..., count:])
    own_loc, own_scale = split_loc_scale(outputs[..., : 2 * count])
    own_loc, own_scale = loc + scale * own_loc, scale * (own_scale + SCALE_FLOOR)
    if kind == "student":
        degrees = 2.0 + tf.nn.softplus(outputs[..., 2 * count :] + FIRST_LOG_DEGREES)
        return tfd.StudentT(degrees, own_loc, own_scale)
    family = tfd.LogNormal if kind == "lognormal" else tfd.Normal
    return family(own_loc, own_scale)


def _is_supported(run: list[Column], x: tf.Tensor) -> tf.Tensor:
    kind = run[0].kind
    if kind == "lognormal":
        return x > 0.0
    if kind in ("normal", "student"):
        return tf.math.is_finite(x)
    largest = {"bernoulli": 1, "categorical": len(run[0].categories) - 1}
    most = largest.get(kind, math.inf)
    return (x >= 0.0) & (x <= most) & (x == tf.floor(x)) & tf.math.is_finite(x)


def _features(run: list[Column], x: tf.Tensor) -> tf.Tensor:
    is_known = tf.math.is_finite(x)
    if run[0].kind == "categorical":
        codes = tf.where(is_known, x, -tf.ones_like(x))  # one-hot of -1: zeros
        return tf.one_hot(tf.cast(codes[..., 0], tf.int32), len(run[0].categories))
    loc, scale = _statistics(run)
    if run[0].kind == "lognormal":
        x = tf.math.log(tf.where(is_known, x, tf.ones_like(x)))
    return tf.where(is_known, (x - loc) / scale, tf.zeros_like(x))
