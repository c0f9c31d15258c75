"""Sums over weights against NumPy in float64, textbook formulas and repetition."""

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from iwae_tf.probability import log_weights as lib

M, K, B = 2, 3, 5
LOG_WEIGHTS = np.random.default_rng(1).gumbel(-3.0, 2.0, [M, K, B])
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_axis = pytest.mark.parametrize("axis", [0, 1, 2, -2, (0, 1), (1, 2), (0, 1, 2)])


def tolerance(dtype):
    return 20 * np.finfo(dtype).eps


def kish(log_weights, axis=(0, 1)):
    weights = np.exp(log_weights)
    return weights.sum(axis=axis) ** 2 / (weights**2).sum(axis=axis)


@each_axis
@each_dtype
def test_sums_along_any_axis(axis, dtype):
    log_weights = tf.constant(LOG_WEIGHTS, dtype)
    softmax = scipy.special.softmax(LOG_WEIGHTS, axis=axis)
    mean = np.mean(np.exp(LOG_WEIGHTS), axis=axis)
    weights = lib.normalized_weights(log_weights, axis=axis)
    np.testing.assert_allclose(np.sum(weights, axis=axis), 1, rtol=tolerance(dtype))
    for value, expected, ulps in (
        (lib.logmeanexp(log_weights, axis=axis), np.log(mean), 1),
        (weights, softmax, 1),
        (lib.effective_sample_size(log_weights, axis), kish(LOG_WEIGHTS, axis), 3),
        (lib.num_draws(log_weights, axis), softmax.size / mean.size, 0),
    ):
        assert value.dtype == dtype and value.shape == np.shape(expected)
        np.testing.assert_allclose(value, expected, rtol=ulps * tolerance(dtype))


def test_draws_are_all_but_the_examples():
    size = lib.effective_sample_size(LOG_WEIGHTS)
    assert np.array_equal(size, lib.effective_sample_size(LOG_WEIGHTS, (0, 1)))
    assert lib.num_draws(tf.constant(LOG_WEIGHTS), [0, 1, 2]) == 30  # a list, too


@pytest.mark.parametrize("shift", [-100.0, -1e4])
def test_a_common_factor_is_ignored_in_float32(shift):
    # Shifts by whole numbers keep these log-weights exact in float32.
    exact = np.round(LOG_WEIGHTS * 64) / 64
    size = lib.effective_sample_size(tf.constant(exact + shift, tf.float32))
    np.testing.assert_allclose(size, kish(exact), rtol=1e-4)
    log_weights = tf.constant(LOG_WEIGHTS + shift, tf.float32)
    total = tf.reduce_sum(lib.normalized_weights(log_weights, (0, 1)), (0, 1))
    np.testing.assert_allclose(total, 1.0, rtol=3e-5)  # 4 ulps of 100


def test_zero_weights():
    values = tf.constant([[0.5, -np.inf], [-np.inf, -np.inf]], tf.float64)
    found = lib.logmeanexp(values, axis=1)
    np.testing.assert_allclose(found, [0.5 - np.log(2), -np.inf])
    weights = lib.normalized_weights(tf.constant([[[1e4], [-np.inf], [-1e4]]]), (0, 1))
    np.testing.assert_array_equal(weights, [[[1.0], [0.0], [0.0]]])
    log_weights = tf.constant([1.0, -np.inf, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(log_weights)
        value = lib.logmeanexp(log_weights, axis=0)
    expected = scipy.special.softmax([1.0, -np.inf, 2.0])
    np.testing.assert_allclose(tape.gradient(value, log_weights), expected, rtol=1e-6)


@each_dtype
def test_effective_sample_size_extremes(dtype):
    equal = np.full([M, K, 1], -87.3)
    alone = np.array([0, -200, -200, -300, -np.inf, -200.0]).reshape([M, K, 1])
    log_weights = tf.constant(np.concatenate([equal, alone], axis=-1), dtype)
    size = lib.effective_sample_size(log_weights)
    np.testing.assert_allclose(size, [M * K, 1], rtol=400 * np.finfo(dtype).eps)
    assert lib.effective_sample_size(log_weights[:1, :1])[0] == 1


# Standard error.


@each_dtype
@pytest.mark.parametrize("num_samples", [2, 3, 50, 5000])
def test_standard_error_is_the_delta_method(num_samples, dtype):
    weights = np.random.default_rng(4).lognormal(0, 1, [num_samples, B])
    mean, deviation = weights.mean(axis=0), weights.std(axis=0, ddof=1)
    expected = deviation / np.sqrt(num_samples) / mean
    squares = ((weights / weights.sum(axis=0)) ** 2).sum(axis=0)
    error = lib.standard_error(tf.constant(squares, dtype), num_samples)
    assert error.dtype == dtype
    np.testing.assert_allclose(error, expected, rtol=1e3 * np.finfo(dtype).eps)


@each_dtype
@pytest.mark.parametrize("num_samples", [2, 7, 5000])
def test_standard_error_ends(num_samples, dtype):
    """Zero where all weights are equal, also when rounded below; 1 for a lone one."""
    inverse = np.array(1 / num_samples, dtype)
    squares = tf.stack([inverse, inverse * (1 - np.finfo(dtype).eps), 1.0])
    error = lib.standard_error(tf.cast(squares, dtype), num_samples).numpy()
    assert error[0] <= np.sqrt(2 * np.finfo(dtype).eps)
    assert error[1] == 0
    assert abs(error[2] - 1) < 2 * np.finfo(dtype).eps
