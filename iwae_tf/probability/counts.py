"""Distributions of counts whose log densities keep their digits in float32."""

import math

import tensorflow as tf
from tensorflow_probability import distributions as tfd

LARGE_COUNT = 16.0  # from which on Stirling's series holds


class Poisson(tfd.Poisson):
    """Poisson counts whose log density keeps its digits in float32.

    x log rate - rate - log x! is a difference of large numbers: of a million it was off
    by 0.7 nats. With u = (rate - x) / x and Stirling's series it is, for a large x,

    x (log(1 + u) - u) - log(2 pi x) / 2 - 1 / (12 x) + 1 / (360 x^3)

    References:
      Loader, 2000. Fast and accurate computation of binomial probabilities.
    """

    def _log_prob(self, x):
        log_rate, rate = self.log_rate, tf.exp(self.log_rate)
        is_large = x >= LARGE_COUNT
        large = tf.where(is_large, x, LARGE_COUNT)
        log_large = tf.math.log(large)
        u = (rate - large) / large
        is_near = tf.abs(u) < 0.5
        near = tf.where(is_near, u, 0.0)
        far = log_rate - log_large - u
        deviance = large * tf.where(is_near, tf.math.log1p(near) - near, far)
        stirling = _stirling_error(large)
        stirling += 0.5 * (log_large + math.log(2.0 * math.pi))
        plain = x * log_rate - rate - tf.math.lgamma(x + 1.0)
        return tf.where(is_large, deviance - stirling, plain)


class NegativeBinomial(tfd.NegativeBinomial):
    """Negative binomial counts whose log density keeps its digits near Poisson's.

    With r = 1 / dispersion and n = r + x, the gamma functions of r and n are large
    numbers whose difference is small: of a small dispersion the log density and its
    gradient were lost in float32. With v = (x - mean) / (r + mean) and Stirling's
    series it is, for a large r,

    log Poisson(x; mean (1 + v)) + r (log(1 + v) - v) - log(n / r) / 2 + s(n) - s(r)
    """

    def _log_prob(self, x):
        count, logits = self.total_count, self.logits
        is_large = count >= LARGE_COUNT
        large = tf.where(is_large, count, LARGE_COUNT)
        total = large + x
        log_mean = logits + tf.math.log(large)
        far = tf.math.log(total / large) - tf.nn.softplus(logits)  # log(1 + v)
        is_near = tf.abs(far) < 0.5
        mean = tf.exp(tf.where(is_near, log_mean, 0.0))
        v = (x - mean) / (large + mean)
        log_ratio = tf.where(is_near, tf.math.log1p(v), far)
        excess = log_ratio - tf.where(is_near, v, tf.math.expm1(far))
        near_poisson = Poisson(log_rate=log_mean + log_ratio).log_prob(x)
        near_poisson += large * excess - 0.5 * tf.math.log1p(x / large)
        near_poisson += _stirling_error(total) - _stirling_error(large)
        return tf.where(is_large, near_poisson, super()._log_prob(x))


def _stirling_error(x):
    """s(x) = log x! - (x log x - x + log(2 pi x) / 2) of a large x."""
    return (1.0 / 12.0 - 1.0 / (360.0 * x**2)) / x
