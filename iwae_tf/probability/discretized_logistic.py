"""The discretized logistic distribution of 8-bit grey levels.

A level i = 0, ..., 255 is stored as x = i / 255 and has the mass of a logistic
distribution within half a level of x; the outermost levels have the tails too:

  P(x) = sigmoid((x + 1/510 - loc) / scale) - sigmoid((x - 1/510 - loc) / scale)

with sigmoid(inf) at level 255 and sigmoid(-inf) at level 0.

References:
  Salimans et al., 2017, section 2.1: this mass, of a mixture and with levels one apart.
    https://arxiv.org/abs/1701.05517
  Kingma et al., 2016, the same idea for autoencoders, with levels in [0, 1].
    https://arxiv.org/abs/1606.04934
"""

import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import ArrayLike

NUM_LEVELS = 256
HIGHEST = float(NUM_LEVELS - 1)
# How far off its level, in levels, x may be by rounding: uint8 / 255 is within 1e-5.
LEVEL_TOLERANCE = 0.01


def is_on_levels(x: tf.Tensor) -> tf.Tensor:
    """Whether each element of x is one of the 256 levels i / 255, to rounding.

    Args:
      x: float tensor in [0, 1].

    Returns:
      on_levels: bool [], True where every element is.
    """
    levels = HIGHEST * tf.cast(x, tf.float32)
    return tf.reduce_all(tf.abs(levels - tf.round(levels)) < LEVEL_TOLERANCE)


class DiscretizedLogistic(tfp.distributions.Distribution):
    """A logistic distribution rounded to the levels 0, 1/255, ..., 1.

    A value off the levels, or outside of [0, 1], counts as the nearest level. As
    `tfd.QuantizedDistribution` of a logistic, but with a mean, and with a mass that
    keeps its digits in float32 where the scale is far above or below a level.

    Args:
      loc: float [...], in units of x.
      scale: positive float [...].
      validate_args: unused, of tfd.Distribution.
      allow_nan_stats: unused, of tfd.Distribution.
      name: str.
    """

    def __init__(
        self,
        loc: ArrayLike | tf.Tensor,
        scale: ArrayLike | tf.Tensor,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "DiscretizedLogistic",
    ) -> None:
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            self.loc = tf.convert_to_tensor(loc)
            self.scale = tf.convert_to_tensor(scale, self.loc.dtype)
            super().__init__(
                dtype=self.loc.dtype,
                reparameterization_type=tfp.distributions.NOT_REPARAMETERIZED,
                validate_args=validate_args,
                allow_nan_stats=allow_nan_stats,
                parameters=parameters,
                name=name,
            )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        positive = tfp.util.ParameterProperties(
            default_constraining_bijector_fn=tfp.bijectors.Softplus
        )
        return {"loc": tfp.util.ParameterProperties(), "scale": positive}

    def _event_shape_tensor(self):
        return tf.constant([], tf.int32)

    def _event_shape(self):
        return tf.TensorShape([])

    def _log_prob(self, value):
        """log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a)), a above b.

        It is log(sigmoid(a) - sigmoid(b)), in which nothing cancels: a - b, a level
        over the scale, is not taken as a difference.
        """
        level = _round_to_level(tf.cast(value, self.dtype))
        width = 1.0 / (HIGHEST * self.scale)
        centre = (level - HIGHEST * self.loc) * width
        log_sigmoid = tf.math.log_sigmoid
        # Not infinite: the gradient of a branch not taken is multiplied by zero.
        below = tf.where(level < HIGHEST, log_sigmoid(centre + 0.5 * width), 0.0)
        above = tf.where(level > 0.0, log_sigmoid(0.5 * width - centre), 0.0)
        is_inner = (level > 0.0) & (level < HIGHEST)
        inner = tf.where(is_inner, tf.math.log(-tf.math.expm1(-width)), 0.0)
        return below + above + inner

    def _mean(self):
        """The levels' mean is a sum of 255 survival functions, one level at a time.

        sum_i i P(i) = sum_i>0 P(level >= i) = sum_i>0 sigmoid((loc - (i - 1/2)/255)/s)
        """

        def add(level, total):
            threshold = (tf.cast(level, self.dtype) - 0.5) / HIGHEST
            return level + 1, total + tf.sigmoid((self.loc - threshold) / self.scale)

        _, total = tf.while_loop(
            lambda level, _: level < NUM_LEVELS,
            add,
            (tf.constant(1), tf.zeros_like(self.loc + self.scale)),
            maximum_iterations=NUM_LEVELS - 1,
        )
        return total / HIGHEST

    def _quantile(self, value):
        """The level of the logistic's quantile."""
        logit = tf.math.log(value) - tf.math.log1p(-value)
        return _round_to_level(self.loc + self.scale * logit) / HIGHEST

    def _sample_n(self, n, seed=None):
        shape = tf.concat([[n], self.batch_shape_tensor()], axis=0)
        draws = tfp.distributions.Logistic(
            tf.zeros([], self.dtype), tf.ones([], self.dtype)
        ).sample(shape, seed=seed)
        return _round_to_level(self.loc + self.scale * draws) / HIGHEST


def _round_to_level(x):
    """Number of the level nearest to x, a float in 0, ..., 255."""
    return tf.clip_by_value(tf.round(HIGHEST * x), 0.0, HIGHEST)
